"""What ran the benchmarks: facts of the machine that change figures. What a system does not tell is null."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from bench.isa import cpu_flags

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


def describe() -> dict[str, Any]:
    """Give the facts, as plain JSON, in well under a second and without importing any engine."""
    import psutil

    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    facts = {
        "cpu": _cpu_name(),
        "cores_physical": physical,
        "cores_logical": logical,
        "smt": None if physical is None or logical is None else logical > physical,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup": cgroup(),
        "ram_bytes": psutil.virtual_memory().total,
        "isa": [flag for flag in INT8_FLAGS if flag in cpu_flags()],
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "hypervisor": "hypervisor" in cpu_flags() if cpu_flags() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {library: _version(library) for library in LIBRARIES},
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    }
    return facts | {"fingerprint": fingerprint(facts, _machine_id())}


def fingerprint(facts: dict[str, Any], machine_id: str | None = None) -> str:
    """12 hexadecimal digits that are the same from run to run on one machine and differ between two.

    They cover what `describe` tells of the hardware, the limits that a container sets, and the system's own machine
    id where it has one; no versions, settings or frequencies. Runs saved without a machine id are told apart by their
    hardware alone.
    """
    hardware = {name: facts.get(name) for name in HARDWARE}
    ram_bytes, system = facts.get("ram_bytes"), facts.get("system")
    hardware["ram_gib"] = round(ram_bytes / 2**30) if isinstance(ram_bytes, int) else None  # kernels reserve some
    hardware["system"] = str(system).partition("-")[0]
    told = json.dumps([hardware, machine_id], sort_keys=True, default=str)
    return hashlib.sha256(f"bench {told}".encode()).hexdigest()[:12]


def _machine_id() -> str | None:
    """What systemd and D-Bus tell machines apart by; only ever used hashed."""
    return next((text for place in MACHINE_IDS if (text := _text(Path(place)))), None)


def cores_for(threads: int, topology: Path = Path("/sys/devices/system/cpu")) -> list[int] | None:
    """The CPUs that a case of so many threads is bound to, None where the system binds none or has not so many.

    The last ones, since systems serve interrupts on the first, and one of each physical core while there are such.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    if threads > len(allowed):
        return None
    siblings = {cpu: _text(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in allowed}
    first = [cpu for i, cpu in enumerate(allowed) if siblings[cpu] not in {siblings[other] for other in allowed[:i]}]
    return sorted([*first, *(cpu for cpu in allowed if cpu not in first)][:threads])


def energy_j(root: Path = Path("/sys/class/powercap")) -> float | None:
    """What all CPU packages have used since some start, in joules by RAPL; None where it cannot be read.

    The counters wrap around after some hours at full load: a difference below 0 is to be thrown away.
    """
    texts = [_text(folder / "energy_uj") for folder in root.glob("intel-rapl:[0-9]")]
    return sum(int(text) for text in texts if text) / 1e6 if texts and all(texts) else None


def cgroup(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> dict[str, float | None]:
    """Give the control group's limits: `cpus` as a number of whole cores, `memory_bytes`; None where unlimited.

    Reads version 2 (cpu.max, memory.max, the least of all ancestors) and version 1 (cfs quota, memory limit).
    """
    cpus: list[float] = []
    memory: list[float] = []
    path = next((line.split("::", 1)[1] for line in (_text(process) or "").splitlines() if line.startswith("0::")), "/")
    place = root / path.strip().lstrip("/")
    for folder in (place, *(parent for parent in place.parents if root in (parent, *parent.parents))):
        quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
        if quota != "max":
            cpus.append(int(quota) / int(period))
        limit = _text(folder / "memory.max") or "max"
        if limit != "max":
            memory.append(int(limit))
    quota = _text(root / "cpu" / "cpu.cfs_quota_us") or "-1"
    if int(quota) > 0:
        cpus.append(int(quota) / int(_text(root / "cpu" / "cpu.cfs_period_us") or 100_000))
    limit = _text(root / "memory" / "memory.limit_in_bytes") or str(2**60)
    if int(limit) < 2**60:  # version 1 tells "unlimited" as nearly 2^63
        memory.append(int(limit))
    return {"cpus": min(cpus, default=None), "memory_bytes": min(memory, default=None)}


def available_bytes() -> float:
    """How much memory new processes may take before the machine swaps, or their control group's limit is reached."""
    import psutil

    limit = cgroup()["memory_bytes"]
    available = float(psutil.virtual_memory().available)
    return available if limit is None else min(available, limit)


def _cpu_name() -> str | None:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
