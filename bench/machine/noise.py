"""What else the machine did while a case was measured, and what it can do at the best: control probes, and peaks.

A probe is an fp32 product, an int8 product and a memory copy in a process of its own that no case touches: when it is
slower than at its best, the machine was, not the case. The best is what this machine has kept up over a whole case, in
any session: one that is held in an hour when everything is slower would know nothing better. A probe is cheap enough to
be made before each pass; the peak, of which a case's pace is a share, is the best of several products and convolutions.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.errors import BenchWarning
from bench.machine.facts import describe, whole_number
from bench.records.record import is_number
from bench.store import refusals

FOREIGN_CORES = 0.1
STEAL_SHARE = 0.005
PROBE_SHARE = {"fp32_gflops": 0.9, "int8_gops": 0.9, "copy_gb_per_s": 0.6}  # memory varies by itself
CLOCK_SHARE = 0.9
PROBED_BY = "onnxruntime"
PROBE_SIZE = 512
PROBE_S = 0.02
PEAKED_BY = (PROBED_BY, "openvino")
PEAK_S = 0.06


def snapshot(pids: list[int]) -> dict[str, float | None]:
    """Counters of now, in seconds since some start: `busy_s` and `steal_s` of all CPUs, `own_s` of this process and
    those with the numbers `pids`; the count of thermal throttling, `throttled`, and the fastest CPU's clock, `mhz`,
    None where the system does not tell.
    """
    cpu = psutil.cpu_times()
    own = 0.0
    for pid in (os.getpid(), *pids):
        with contextlib.suppress(psutil.NoSuchProcess):  # it died: whoever asks it next says so
            used = psutil.Process(pid).cpu_times()
            own += used.user + used.system
    idle = cpu.idle + getattr(cpu, "iowait", 0.0) + getattr(cpu, "steal", 0.0)
    throttles = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    counts = [count for path in throttles if (count := whole_number(path)) is not None]
    return {
        "at_s": time.monotonic(),
        # guest time is part of user time, and counted there
        "busy_s": sum(cpu) - idle - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0),
        "steal_s": getattr(cpu, "steal", None),
        "own_s": own,
        "throttled": sum(counts) if counts else None,
        "mhz": _mhz(),
    }


def _mhz() -> float | None:
    clocks: Sequence[Any] = ()
    if hasattr(psutil, "cpu_freq"):
        with contextlib.suppress(OSError, RuntimeError):  # some kernels' files for it are not there, or odd
            clocks = psutil.cpu_freq(percpu=True)
    return max((clock.current for clock in clocks or ()), default=None)


def fallen(probes: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> list[str]:
    """Which figures of control probes were lower than the best by more than they vary by themselves, a line each."""
    why = []
    for name, share in PROBE_SHARE.items():
        most = best.get(name, 0.0)
        least = min((probe[name] for probe in probes if name in probe), default=most)
        if least < share * most:
            why.append(f"control probe {name} fell to {least / most:.0%} of its best")
    return why


@dataclass(frozen=True)
class Peak:
    """The best pace that was reached in a number format: 10^9 operations a second, two a multiply-accumulate, and by
    what.
    """

    gops: float
    by: str


class Pace:
    """The best figure of each probe that this machine has kept up, by the median over a case, and the peaks that
    products and convolutions have reached, kept below `root`.

    Each number of threads has its own, and each version of the libraries that are called.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machine = describe()

    def learn(self, threads: int, probes: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Add a case's probes with so many threads, and give the best. Raises CacheError where it cannot be kept."""
        names = dict.fromkeys(name for probe in probes for name in probe)
        medians = {name: statistics.median(probe[name] for probe in probes if name in probe) for name in names}

        def better(known: dict[str, Any]) -> dict[str, float]:
            return {
                name: max(figure, known[name] if is_number(known.get(name)) else 0.0)
                for name, figure in medians.items()
            }

        return self._updated(self._file((PROBED_BY,), threads), better)

    def peaks(self, threads: int) -> dict[str, Peak]:
        """The best pace in each number format with so many threads, as far as it is known."""
        return _peaks(self._known(self._file(PEAKED_BY, threads)))

    def raise_peaks(self, threads: int, found: Mapping[str, Peak]) -> dict[str, Peak]:
        """Add what was reached with so many threads, and give the best. Raises CacheError where it cannot be kept."""

        def better(known: dict[str, Any]) -> dict[str, Any]:
            peaks = [*_peaks(known).items(), *found.items()]
            return {name: asdict(peak) for name, peak in sorted(peaks, key=lambda pair: pair[1].gops)}

        return _peaks(self._updated(self._file(PEAKED_BY, threads), better))

    def _file(self, libraries: tuple[str, ...], threads: int) -> Path:
        called = "-".join(f"{library}-{self._machine['versions'][library]}" for library in libraries)
        return self._root / "pace" / f"{self._machine['fingerprint']}-{called}-t{threads}.json"

    def _updated(self, file: Path, better: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """What a file holds once it was made better."""
        from filelock import FileLock

        with refusals(self._root):
            file.parent.mkdir(parents=True, exist_ok=True)
        with refusals(self._root, FileLock(f"{file}.lock")):
            known = self._known(file)
            best = better(known)
            if best != known:
                half = file.with_suffix(".half")
                half.write_text(json.dumps(best))
                half.replace(file)
        return best

    @staticmethod
    def _known(file: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(file.read_text()))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            warnings.warn(f"{file} is damaged ({error}); what it knew is lost", BenchWarning, stacklevel=2)
            return {}


def _peaks(known: Mapping[str, Any]) -> dict[str, Peak]:
    """What of a file's content are peaks."""
    return {
        name: Peak(float(one["gops"]), str(one.get("by")))
        for name, one in known.items()
        if isinstance(one, dict) and is_number(one.get("gops"))
    }


@dataclass
class Watch:
    """Adds up what happened between pairs of snapshots; the verdict is over all of them."""

    elapsed_s: float = 0.0
    foreign_s: float = 0.0
    steal_s: float | None = 0.0
    throttled: int = 0
    switches: int | None = None
    mhz: list[float] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)

    def add(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Count what lies between two snapshots."""
        self.elapsed_s += after["at_s"] - before["at_s"]
        self.foreign_s += max(0.0, after["busy_s"] - before["busy_s"] - (after["own_s"] - before["own_s"]))
        if self.steal_s is not None and after["steal_s"] is not None:
            self.steal_s += max(0.0, after["steal_s"] - before["steal_s"])  # kernels have let it go backwards
        else:
            self.steal_s = None
        self.throttled += max(0, (after["throttled"] or 0) - (before["throttled"] or 0))
        self.mhz += [] if after["mhz"] is None else [after["mhz"]]

    def noise(self, best: dict[str, float]) -> dict[str, Any]:
        """Give `verdict`, "steady" or "noisy", `why`, and the figures behind it.

        best  the best figure of each probe, as `Pace` knows it.
        """
        cores = psutil.cpu_count() or 1
        foreign = self.foreign_s / self.elapsed_s if self.elapsed_s else 0.0
        steal = None if self.steal_s is None or not self.elapsed_s else self.steal_s / self.elapsed_s / cores
        why = []
        if foreign > FOREIGN_CORES:
            why.append(f"other processes used {foreign:.2f} cores")
        if steal is not None and steal > STEAL_SHARE:
            why.append(f"the hypervisor took {steal:.1%} of the CPUs' time")
        if self.throttled:
            why.append(f"the CPU was throttled for heat {self.throttled} times")
        slowest, fastest = min(self.mhz, default=None), max(self.mhz, default=None)
        if slowest is not None and fastest is not None and slowest < CLOCK_SHARE * fastest:
            why.append(f"the CPU's clock ranged from {slowest:.0f} to {fastest:.0f} MHz")
        why += fallen(self.probes, best)
        return {
            "verdict": "noisy" if why else "steady",
            "why": why,
            "foreign_cores": foreign,
            "steal_share": steal,
            "throttled": self.throttled,
            "mhz": {"low": slowest, "high": fastest},
            "involuntary_switches": self.switches,
            "probes": self.probes,
            "best": best,
        }


# What follows runs in the probe's process.


def probe(sessions: dict[str, Any], threads: int) -> dict[str, float]:
    """Measure this machine with so many threads: fp32_gflops, int8_gops (two operations a product), copy_gb_per_s.

    sessions  is filled at the first call. Products of square matrices on ONNX Runtime; a copy of 64 MB by numpy.
    """
    import numpy as np

    if not sessions:
        sessions.update(_sessions(threads))
    figures = {}
    for name, (call, amount) in sessions.items():
        call()
        times: list[float] = []
        began = time.perf_counter()
        while time.perf_counter() - began < PROBE_S:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        figures[name] = amount / float(np.median(times)) / 1e9
    return figures


def _sessions(threads: int) -> dict[str, Any]:
    import numpy as np

    source, target = np.ones(8_000_000), np.empty(8_000_000)
    sessions: dict[str, Any] = {"copy_gb_per_s": (lambda: np.copyto(target, source), 2 * source.nbytes)}
    for name, number_format in (("fp32_gflops", "fp32"), ("int8_gops", "int8")):
        with contextlib.suppress(ImportError):
            sessions[name] = _product(threads, number_format, PROBE_SIZE)
    return sessions


def _product(threads: int, number_format: str, size: int) -> tuple[Callable[[], object], int]:
    """A product of square matrices on ONNX Runtime, and its operations. Raises ImportError where that is missing."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    operator, *kinds = {
        "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
        "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
    }[number_format]
    square, rng = [size, size], np.random.default_rng(0)
    left, right = (rng.integers(0, 100, square).astype(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds[:2])
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        number_format,
        [helper.make_tensor_value_info("a", kinds[0], square)],
        [helper.make_tensor_value_info("c", kinds[2], square)],
        [helper.make_tensor("b", kinds[1], square, right.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": left}), 2 * size**3


def peaks(threads: int) -> dict[str, dict[str, Any]]:
    """The best pace that products and convolutions of several sizes reach on this machine with so many threads, for
    each number format that any of them is in: `gops` and `by`, as of Peak. The best of short runs: what disturbs them
    can only slow them down.

    No single product is a machine's peak: a restorer on OpenVINO reached 115% of what one of 512 on ONNX Runtime did,
    with 2 threads.
    """
    best: dict[str, Peak] = {}
    for number_format, by, make in _kernels(threads):
        try:
            call, amount = make()
        except ImportError:
            continue
        call()
        least_s, began = math.inf, time.perf_counter()
        while time.perf_counter() - began < PEAK_S:
            start = time.perf_counter()
            call()
            least_s = min(least_s, time.perf_counter() - start)
        found = Peak(amount / least_s / 1e9, by)
        best[number_format] = max(best.get(number_format, found), found, key=lambda peak: peak.gops)
    return {number_format: asdict(peak) for number_format, peak in best.items()}


def _kernels(threads: int) -> Iterator[tuple[str, str, Callable[[], tuple[Callable[[], object], int]]]]:
    """Number format, name, and what makes a call and tells its operations."""
    for number_format in ("fp32", "int8"):
        for size in (384, 512, 1024):
            yield number_format, f"onnxruntime's product of {size}", partial(_product, threads, number_format, size)
    for number_format in ("fp32", "int8", "bf16"):
        for size in (512, 1024):
            by = f"openvino's product of {size}"
            yield number_format, by, partial(_layers, threads, number_format, [size, size], [size, size])
        for channels, side in ((64, 64), (256, 28)):
            by = f"openvino's 3x3 convolutions of {channels} channels"
            shapes = [1, channels, side, side], [channels, channels, 3, 3]
            yield number_format, by, partial(_layers, threads, number_format, *shapes)


def _layers(
    threads: int, number_format: str, shape: list[int], weight_shape: list[int], count: int = 4
) -> tuple[Callable[[], object], int]:
    """So many products, or 3x3 convolutions, one after the other on OpenVINO, and their operations; in bf16 only on
    processors that have it. Raises ImportError where OpenVINO, or that, is missing.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as op

    core, rng = openvino.Core(), np.random.default_rng(0)
    if number_format == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ImportError("no bf16 on this processor")

    def rounded(node: Any, low: float, high: float) -> Any:
        if number_format != "int8":
            return node
        ends = [op.constant(np.float32(end)) for end in (low, high)]
        return op.fake_quantize(node, *ends, *ends, 256)

    given = values = op.parameter(shape, np.float32)
    for _ in range(count):
        weight = rounded(op.constant(rng.normal(0, 0.05, weight_shape).astype(np.float32)), -0.128, 0.127)
        values = rounded(values, 0.0, 1.0)
        values = op.relu(
            op.matmul(values, weight, False, False)
            if len(shape) == 2
            else op.convolution(values, weight, [1, 1], [1, 1], [1, 1], [1, 1])
        )
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if number_format == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(openvino.Model([values], [given]), "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(rng.random(shape, dtype=np.float32)))
    return request.infer, 2 * count * math.prod(weight_shape) * math.prod(shape) // shape[1]
