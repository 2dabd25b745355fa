"""The record: what is saved of a case."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from bench.machine.noise import Noise
from bench.spec.case import Case
from bench.spec.metric import Metric
from bench.spec.outcome import (
    ArtifactFacts,
    Calibration,
    Calls,
    Efficiency,
    Explained,
    Figures,
    Judged,
    Kernel,
    Lowered,
    OnDevice,
    Process,
    Speedup,
    Spent,
    Steady,
)
from bench.statistics import LARGEST, Drop, Latency
from bench.store import Json

OF_CALLS = ("samples_s", "calls")  # pytest-benchmark keeps them
PLAIN = "-"  # precision and engine of a benchmark of another suite


@dataclass(frozen=True)
class Record:
    """A case and its results. Times are in seconds, sizes in bytes; what was not measured is absent.

    status      "ok", "unsupported" (the engine cannot, `reason` says why) or "failed" (it should have, but broke).
    quality     the task's metrics; null where the data have no ground truth, or the result is no number.
    judged      what quality was judged on.
    metrics     unit of each figure of quality and fidelity, and which way is better.
    fidelity    against FP32 PyTorch on the same inputs: sqnr_db of raw outputs that are no classes, agreement of those
                that are, and the task's own figures.
    drop        how much worse each metric of quality is than FP32 PyTorch's on the same inputs: value, low, high.
    answers     four hexadecimal digits for each answer (bench.tasks.digests); absent where not judged.
    pictures    names of the picture strips that were written.
    speedup     against the baseline, measured in turn with it.
    latency     of one call on one batch: see bench.statistics.latency.
    first_call_s  of the first call after loading; where the engine keeps what it compiles, with that in place.
                first_call_cold_s is without it, as measured at compilation; null where nothing is kept.
    artifact    what ran.
    lowered     shares of the network that the artefact holds in each number format: see bench.engines.lowered;
                absent where the engine cannot be counted.
    kernel      whether the engine's INT8 kernels compute what the quantized network says: see bench.engines.kernel.
                Absent where nothing is quantized.
    calibration for static INT8: how many inputs were asked for, and how many there were.
    on_device   the device and what the case did there; absent on the CPU.
    efficiency  its pace, and the share of the best pace that this machine reaches.
    explained   with --bench-explain: what a call executed; see bench.engines.operations.
    noise       whether anything disturbed the measurement: see bench.machine.noise.
    energy_j_per_call  by RAPL over all packages during exactly the timed calls, idle power included; null where it
                cannot be read.
    warnings    what makes the figures doubtful, each a line.
    resumed     {"from": when it was measured (ISO 8601, UTC)} where it was taken over from an interrupted run.
    test        pytest's node id of the test that measured it, which tells two tests of one case apart.
    samples_s   timed calls of all launches, sampled evenly, in order.
    calls       pytest-benchmark's own statistics of them, where the record was read from a saved run.
    """

    case: Case
    status: str
    reason: str | None = None
    quality: Figures = field(default_factory=dict)
    judged: Judged | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    fidelity: Figures = field(default_factory=dict)
    drop: dict[str, Drop] = field(default_factory=dict)
    answers: str | None = None
    pictures: tuple[str, ...] = ()
    speedup: Speedup | None = None
    latency: Latency | None = None
    throughput_items_per_s: float | None = None
    load_s: float | None = None
    first_call_s: float | None = None
    first_call_cold_s: float | None = None
    steady: Steady | None = None
    peak_rss_bytes: int | None = None
    artifact: ArtifactFacts | None = None
    lowered: Lowered | None = None
    kernel: Kernel | None = None
    calibration: Calibration | None = None
    process: Process | None = None
    on_device: OnDevice | None = None
    efficiency: Efficiency | None = None
    explained: Explained | None = None
    noise: Noise | None = None
    energy_j_per_call: float | None = None
    spent: Spent | None = None
    warnings: tuple[str, ...] = ()
    resumed: dict[str, str] = field(default_factory=dict)
    test: str | None = None
    samples_s: tuple[float, ...] = ()
    calls: Calls | None = None

    @property
    def id(self) -> str:
        """The case's id; for a benchmark of another suite, its name."""
        return self.case.model if self.case.engine == PLAIN else self.case.id

    def facts(self) -> dict[str, Json]:
        """The record as plain JSON, without what pytest-benchmark keeps: samples and their statistics."""
        kept = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name not in OF_CALLS}
        facts = {name: {} if fact is None and name in SECTIONS else finite(fact) for name, fact in kept.items()}
        return {"id": self.id} | facts

    def saved(self) -> dict[str, Json]:
        """The facts; of a case without figures only its id, case, status, reason and test."""
        facts = self.facts()
        if not self.samples_s and self.status != "ok":
            return {name: facts[name] for name in ("id", "case", "status", "reason", "test")}
        return facts


# on disk a section that was not measured is an empty object
SECTIONS = {
    name
    for name, hint in typing.get_type_hints(Record).items()
    if any(dataclasses.is_dataclass(part) for part in typing.get_args(hint))
}


def finite(value: Any) -> Any:
    """The value as plain JSON, with None for numbers that float64 or JSON cannot hold (too large, NaN, infinity)."""
    if dataclasses.is_dataclass(value):
        return {part.name: finite(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        return None
    return value
