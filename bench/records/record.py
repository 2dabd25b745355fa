"""What is saved of a case."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.spec.case import Case
from bench.statistics import LARGEST


@dataclass(frozen=True)
class Record:
    """One case and what came of it. All times in seconds, all sizes in bytes; absent where it was not measured.

    status      "ok", "unsupported" (the engine cannot, `reason` says why) or "failed" (it should have, but broke).
    quality     the task's figures, with n, dataset, weights, and dataset_s: the time of the predictions for all n;
                null, with the reason, where the data have no truth to judge by.
    fidelity    against FP32 PyTorch on the same inputs: sqnr_db of the raw outputs that are no classes, agreement of
                those that are, and the task's own figures.
    drop        how much each metric of quality fell from FP32 PyTorch on the same inputs: value, low, high.
    answers     four hexadecimal digits for each answer (bench.tasks.digests); absent where it was not judged.
    pictures    names of the strips of pictures that were written.
    speedup     against the baseline: baseline (case, versions), ratio, low, high, confidence, launches, of which
                `first` were of the first stage, rounds, verdict, and medians, for each launch the rounds' median calls
                in seconds; else baseline and reason.
    steady      when the calls became steady after the first: steady (whether they did), calls, seconds.
    latency     p50_s, p90_s, p95_s, p99_s of one call on one batch; null where the samples do not support it, with the
                reason; interval, samples, calls_per_sample: see bench.statistics.latency.
    first_call_s  of the first call after loading; where the engine keeps what it compiles, with that there, and
                first_call_cold_s with nothing there, as it was when it was compiled; null where nothing is kept.
    artifact    digest (sha256, hex), bytes, format, and left_in_fp32, the layers that stayed so to keep to a most drop;
                left_by, the figure on the training side that they were chosen by; reference, the digest of what it was
                judged by: FP32 PyTorch's answers to the same inputs.
    lowered     which shares of the multiply-accumulates and of the weights the artefact holds in which number format,
                what the recipe promises, and the layers that are not in its format: see bench.engines.lowered;
                absent where the engine cannot be counted, or the reason where counting failed.
    kernel      whether the engine's INT8 kernels compute what the quantized network says: kernel_db, the SQNR of its
                outputs against the same artefact computed in floating point, null where they are `equal`; quantized_db,
                the SQNR of the latter against FP32; `by`, what computed it, or the `reason` why there is none; and
                where kernels err, the worst layers: see bench.engines.kernel. Absent where nothing is quantized.
    calibration for static INT8: how many inputs were asked for, and how many there were.
    process     what its worker was given and used: versions, cores, pool, threads_used, and call_overhead_s: what
                timing adds to a call, measured there on a session that does nothing.
    efficiency  multiply-accumulates of one item (macs_per_item), what they came to in the median call (gops, two for
                each), and the share of the best pace that products and convolutions in that number format reach on
                this machine with so many threads (share_of_peak, peak_gops, peak_by); null where none measures it.
    explained   with --bench-explain: shares of the time by number format, the longest operations, a diagnosis; see
                bench.engines.operations.
    noise       verdict ("steady" or "noisy"), why, and the figures behind it: see bench.machine.noise.
    energy_j_per_call  by RAPL over all packages during exactly the timed calls, idle power included; null where it
                cannot be read.
    spent       sampled_s, the time in which the case or its baseline was called, of whole_s that it took.
    warnings    what makes the figures doubtful, each a line.
    resumed     from, when it was measured (ISO 8601, UTC), where it was taken over from an interrupted run.
    test        pytest's node id of the test that measured it, which tells two tests of one case apart.
    samples_s   timed calls of all launches, evenly taken, in order.
    """

    case: Case
    status: str
    reason: str | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    drop: dict[str, Any] = field(default_factory=dict)
    answers: str | None = None
    pictures: tuple[str, ...] = ()
    speedup: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    throughput_items_per_s: float | None = None
    load_s: float | None = None
    first_call_s: float | None = None
    first_call_cold_s: float | None = None
    steady: dict[str, Any] = field(default_factory=dict)
    peak_rss_bytes: int | None = None
    artifact: dict[str, Any] = field(default_factory=dict)
    lowered: dict[str, Any] = field(default_factory=dict)
    kernel: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    efficiency: dict[str, Any] = field(default_factory=dict)
    explained: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    energy_j_per_call: float | None = None
    spent: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    resumed: dict[str, Any] = field(default_factory=dict)
    test: str | None = None
    samples_s: tuple[float, ...] = ()

    def saved(self) -> dict[str, Any]:
        """The record as plain JSON, without its samples, which pytest-benchmark keeps, or figures that it has not."""
        facts = asdict(self)
        del facts["samples_s"]
        if not self.samples_s and self.status != "ok":
            facts = {name: facts[name] for name in ("case", "status", "reason", "test")}
        return {"id": self.case.id} | {name: finite(fact) for name, fact in facts.items()}


def finite(value: Any) -> Any:
    """The value with every number that a float64 cannot hold, or JSON cannot (NaN, infinity), as None."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        return None
    return value
