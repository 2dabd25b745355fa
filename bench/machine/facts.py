"""Facts of the machine, without its devices, that change figures; null where the system does not say."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.machine.isa import cpu_flags
from bench.spec.packages import version

INT8_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
LIBRARIES = (
    "torch", "torchvision", "torchao", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf", "executorch", "numpy",
    "torchmetrics", "timm", "segmentation-models-pytorch", "onnx2torch", "pytest", "pytest-benchmark",
)  # fmt: skip
HARDWARE = ("cpu", "cores_physical", "cores_logical", "cgroup", "isa", "numa_nodes", "hypervisor")
MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
SETTINGS = ("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "LD_PRELOAD", "OPENBLAS_", "TORCHINDUCTOR_", "ONEDNN_", "DNNL_")


@dataclass(frozen=True)
class Limits:
    """What a control group allows: a number of whole cores, and bytes; None where unlimited."""

    cpus: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """The machine that ran the benchmarks. None: the system does not say, or an older run lacks it.

    smt          whether threads share cores.
    affinity     the CPUs that this process may use.
    isa          the flags of INT8_FLAGS that the processor has.
    versions     of LIBRARIES, None for those that are not installed.
    settings     the environment variables that change thread pools and allocation.
    fingerprint  see `fingerprint`.
    """

    cpu: str | None = None
    cores_physical: int | None = None
    cores_logical: int | None = None
    smt: bool | None = None
    affinity: tuple[int, ...] | None = None
    cgroup: Limits | None = None
    ram_bytes: int | None = None
    isa: tuple[str, ...] | None = None
    governor: str | None = None
    numa_nodes: int | None = None
    hypervisor: bool | None = None
    system: str | None = None
    python: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None


def describe() -> Machine:
    """This machine, in well under a second and without importing any engine."""
    import psutil

    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    machine = Machine(
        cpu=_cpu_name(),
        cores_physical=physical,
        cores_logical=logical,
        smt=None if physical is None or logical is None else logical > physical,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        cgroup=cgroup(),
        ram_bytes=psutil.virtual_memory().total,
        isa=tuple(flag for flag in INT8_FLAGS if flag in cpu_flags()),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        numa_nodes=len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        hypervisor="hypervisor" in cpu_flags() if cpu_flags() else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions={library: _version(library) for library in LIBRARIES},
        settings={name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    )
    return replace(machine, fingerprint=fingerprint(machine, _machine_id()))


def fingerprint(machine: Machine, machine_id: str | None = None) -> str:
    """12 hexadecimal digits that are the same from run to run on one machine and differ between two.

    They cover the hardware facts, a container's limits, and the system's own machine id where it has one; no versions,
    settings or frequencies. Without a machine id only the hardware distinguishes two machines.
    """
    facts = asdict(machine)
    hardware = {name: facts[name] for name in HARDWARE}
    # kernels reserve some memory
    hardware["ram_gib"] = None if machine.ram_bytes is None else round(machine.ram_bytes / 2**30)
    hardware["system"] = str(machine.system).partition("-")[0]
    text = json.dumps([hardware, machine_id], sort_keys=True, default=str)
    return hashlib.sha256(f"bench {text}".encode()).hexdigest()[:12]


def _machine_id() -> str | None:
    """The machine id of systemd and D-Bus; used only hashed."""
    return next((text for place in MACHINE_IDS if (text := _text(Path(place)))), None)


def cores_for(threads: int, topology: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...] | None:
    """The CPUs to bind a case of `threads` threads to; None where the system cannot bind, or has too few.

    The last CPUs, since systems serve interrupts on the first; one of each physical core before siblings.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    if threads > len(allowed):
        return None
    siblings = {cpu: _text(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in allowed}
    first = [cpu for i, cpu in enumerate(allowed) if siblings[cpu] not in {siblings[other] for other in allowed[:i]}]
    return tuple(sorted([*first, *(cpu for cpu in allowed if cpu not in first)][:threads]))


def energy_j(root: Path = Path("/sys/class/powercap")) -> float | None:
    """Joules that all CPU packages have used since an arbitrary start, by RAPL; None where it cannot be read.

    Only packages count: the zone `psys` contains them, and they contain their cores and memory. AMD's processors have
    the same files. The counters wrap around after hours at full load: discard a difference below 0.
    """
    zones = [zone for zone in root.glob("intel-rapl:*") if (_text(zone / "name") or "").startswith("package-")]
    counts = [whole_number(zone / "energy_uj") for zone in zones]
    known = [count for count in counts if count is not None]
    return sum(known) / 1e6 if known and len(known) == len(counts) else None


def cgroup(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> Limits:
    """Give the control group's limits.

    Reads version 2 (cpu.max, memory.max, the least of all ancestors) and version 1 (cfs quota, memory limit).
    """
    cpus: list[float] = []
    for folder in _groups(root, process, "cpu"):
        limit, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
        if limit.isdigit() and period.isdigit() and int(period):
            cpus.append(int(limit) / int(period))
        quota, period_us = (
            whole_number(folder / "cpu.cfs_quota_us"),
            whole_number(folder / "cpu.cfs_period_us") or 100_000,
        )
        if quota is not None and quota > 0:
            cpus.append(quota / (period_us or 100_000))
    limits = [_memory_limit(folder) for folder in _groups(root, process, "memory")]
    memory = [limit for limit in limits if limit is not None]
    return Limits(min(cpus, default=None), min(memory, default=None))


def _groups(root: Path, process: Path, controller: str) -> list[Path]:
    """The folders of this process's control group and its ancestors, of version 2 and of a controller of version 1.

    A container may see its own group as the root, whatever path the process file names.
    """
    folders: list[Path] = []
    for line in (_text(process) or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        place = top / path.strip().lstrip("/")
        folders += [folder for folder in (place, *place.parents) if top in (folder, *folder.parents)]
    return list(dict.fromkeys([*folders, root, root / controller]))


def _memory_limit(folder: Path) -> int | None:
    limit = whole_number(folder / "memory.max")
    if limit is None:
        limit = whole_number(folder / "memory.limit_in_bytes")
    return None if limit is None or limit >= 2**60 else limit  # version 1 writes "unlimited" as nearly 2^63


def available_bytes(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes that new processes may take before the machine swaps or a control group reaches its limit.

    The least of what the machine, the group and each of its ancestors have left; cached files that the kernel can drop
    count as free.
    """
    import psutil

    left = [float(psutil.virtual_memory().available)]
    for folder in _groups(root, process, "memory"):
        limit = _memory_limit(folder)
        used = whole_number(folder / "memory.current")
        if used is None:
            used = whole_number(folder / "memory.usage_in_bytes")
        if limit is None or used is None:
            left += [] if limit is None else [float(limit)]
            continue
        stat = dict(line.split(" ", 1) for line in (_text(folder / "memory.stat") or "").splitlines() if " " in line)
        reclaimable = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
        left.append(max(0.0, float(limit - used + (int(reclaimable) if reclaimable.isdigit() else 0))))
    return min(left)


def _cpu_name() -> str | None:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def whole_number(path: Path) -> int | None:
    """The whole number in a file of the kernel; None where there is none."""
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
