"""What else the machine did while a case was measured, and what it can do at the best: control probes.

A probe is an fp32 product, an int8 product and a memory copy in a process of its own that no case touches: when it is
slower than at its best, the machine was, not the case. The best is what this machine has kept up over a whole case, in
any session: one that is held in an hour when everything is slower would know nothing better.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.artifact import refusals
from bench.errors import BenchWarning
from bench.machine import describe
from bench.record import is_number

FOREIGN_CORES = 0.1
STEAL_SHARE = 0.005
PROBE_SHARE = {"fp32_gflops": 0.9, "int8_gops": 0.9, "copy_gb_per_s": 0.6}  # memory varies by itself
CLOCK_SHARE = 0.9
PROBED_BY = "onnxruntime"
PROBE_SIZE = 512
PROBE_S = 0.02


def snapshot(pids: list[int]) -> dict[str, float | None]:
    """Counters of now, in seconds since some start: `busy_s` and `steal_s` of all CPUs, `own_s` of this process and
    those with the numbers `pids`; the count of thermal throttling, `throttled`, and the fastest CPU's clock, `mhz`,
    None where the system does not tell.
    """
    cpu = psutil.cpu_times()
    own = 0.0
    for process in (psutil.Process(), *(psutil.Process(pid) for pid in pids)):
        used = process.cpu_times()
        own += used.user + used.system
    idle = cpu.idle + getattr(cpu, "iowait", 0.0) + getattr(cpu, "steal", 0.0)
    counts = [
        int(path.read_text())
        for path in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    ]
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
    clocks = psutil.cpu_freq(percpu=True) if hasattr(psutil, "cpu_freq") else ()
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


class Pace:
    """The best figure of each probe that this machine has kept up, by the median over a case, kept below `root`.

    Each number of threads has its own, and each version of the library that the probes call.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        machine = describe()
        self._of = f"{machine['fingerprint']}-{PROBED_BY}-{machine['versions'][PROBED_BY]}"

    def learn(self, threads: int, probes: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Add a case's probes with so many threads, and give the best. Raises CacheError where it cannot be kept."""
        from filelock import FileLock

        medians = {name: statistics.median(probe[name] for probe in probes) for name in probes[0]}
        file = self._root / "pace" / f"{self._of}-t{threads}.json"
        with refusals(self._root):
            file.parent.mkdir(parents=True, exist_ok=True)
        with refusals(self._root, FileLock(f"{file}.lock")):
            known = self._known(file)
            best = {name: max(figure, known.get(name, 0.0)) for name, figure in medians.items()}
            if best != known:
                half = file.with_suffix(".half")
                half.write_text(json.dumps(best))
                half.replace(file)
        return best

    @staticmethod
    def _known(file: Path) -> dict[str, float]:
        if not file.exists():
            return {}
        try:
            return {name: figure for name, figure in dict(json.loads(file.read_text())).items() if is_number(figure)}
        except (ValueError, TypeError) as error:
            warnings.warn(f"{file} is damaged ({error}); what it knew is lost", BenchWarning, stacklevel=2)
            return {}


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
            self.steal_s += after["steal_s"] - before["steal_s"]
        else:
            self.steal_s = None
        self.throttled += (after["throttled"] or 0) - (before["throttled"] or 0)
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
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        return sessions
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    square = [PROBE_SIZE, PROBE_SIZE]
    rng = np.random.default_rng(0)
    for name, operator, kinds in (
        ("fp32_gflops", "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT)),
        ("int8_gops", "MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)),
    ):
        left, right = (rng.integers(0, 100, square).astype(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds[:2])
        graph = helper.make_graph(
            [helper.make_node(operator, ["a", "b"], ["c"])],
            name,
            [helper.make_tensor_value_info("a", kinds[0], square)],
            [helper.make_tensor_value_info("c", kinds[2], square)],
            [helper.make_tensor("b", kinds[1], square, right.tobytes(), raw=True)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        sessions[name] = (lambda s=session, a=left: s.run(None, {"a": a}), 2 * PROBE_SIZE**3)
    return sessions
