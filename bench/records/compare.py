"""Compare saved runs case by case: which cases became faster, slower, better or worse, and how the machines differ.

Speed-ups are compared: each is measured in turn with its baseline, so they carry from machine to machine. A case that
has no speed-up, or is its own baseline, is compared by its times, on a single machine or where that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.machine.noise import Noise
from bench.machine.pace import fallen
from bench.machine.probes import PROBED_BY
from bench.records.figures import figure_text
from bench.records.record import Record
from bench.records.runs import Run, is_time, names, share_lowered
from bench.spec.case import Case
from bench.spec.metric import Metric
from bench.spec.outcome import Calls, Medians
from bench.statistics import (
    CONFIDENCE,
    Change,
    Interval,
    Level,
    change,
    change_of_levels,
    holm,
    is_number,
    launch_ratio,
    level_of,
    unlike,
)

MARGIN = 0.01  # a relative change that is no change
# standard deviation between processes and between hours, measured with PyTorch on a quiet day
RUNS_SD = 0.02
UNKNOWN_SD = 0.16  # the same on the worst day measured: used where a run does not show its own scatter
KERNEL_DB, LOWERED = 1.0, 0.0005  # smallest changes of kernel_db (dB) and of shares that are worth a note
MEASURED = ("same", "faster", "slower", "unclear")  # verdicts of cases that both runs measured
LOST = {  # limit -> the verdicts it counts; a case that became unsupported counts under both
    "missing": ("missing", "ok -> unsupported"),
    "failed": ("ok -> failed", "ok -> unsupported"),
}
FACTS = (  # of the machines, shown where they differ
    *("cpu", "cores_physical", "cores_logical", "ram_bytes", "isa", "numa_nodes", "hypervisor", "governor"),
    *("cgroup", "affinity", "system", "python"),
)


@dataclass(frozen=True)
class Difference:
    """One case in two runs.

    verdict   "same", "faster", "slower" or "unclear" where both measured it; "new", "missing"; "ok -> failed" and the
              like where its status changed; the status where neither measured it.
    speedup   how many times as large its speed-up has become, above 1 where it is faster; None where a run has none.
    absolute  how many times as fast its median call has become; None where times are not compared.
    quality   metric -> how much it rose; unchanged metrics are left out.
    answers   (changed answers, all answers); None where not on record.
    notes     what else is to be said, each a line; `doubt` first, then `computed`.
    doubt     why a change is not called though its figures show it; None without a doubt.
    times     for want of speed-ups, by its own times: how many times as fast it has become.
    computed  what the artefact or its kernels now compute differently, each a line.
    lost      the metrics of quality that it had and no longer has.
    metrics   metric -> its unit, and which way is better.
    """

    case: str
    verdict: str
    speedup: Interval | None
    absolute: float | None
    quality: Mapping[str, float]
    answers: tuple[int, int] | None
    notes: tuple[str, ...]
    doubt: str | None = None
    times: Interval | None = None
    computed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def judged(self) -> Interval | None:
        """The interval behind the verdict: how many times as fast it has become."""
        return self.times if self.speedup is None else self.speedup


def compare(base: Run, others: Sequence[Run], absolute: bool = False, margin: float = MARGIN) -> list[list[Difference]]:
    """The differences of each other run from the base, in the base's order, new cases last.

    A case is faster or slower where the p-value of a change within the margin is below 5% after Holm's correction over
    all comparisons; same where the whole 95% interval is within twice the margin; else unclear. A change is unclear too
    where control probes show that the machine itself was slower in either run: INT8 and FP32 do not suffer alike.
    """
    pairs = [_pairs(base, other) for other in others]
    use_times = [absolute or other.fingerprint == base.fingerprint for other in others]
    changes = [
        [
            (None, None) if was is None or now is None else _changes(was, now, margin, use_time)
            for was, now in pair.values()
        ]
        for pair, use_time in zip(pairs, use_times, strict=True)
    ]
    judged = [tested for row in changes for by_pairs, by_times in row if (tested := by_pairs or by_times) is not None]
    corrected = iter(holm([tested.p for tested in judged]))
    compared = []
    for other, pair, row, use_time in zip(others, pairs, changes, use_times, strict=True):
        differences = []
        for (name, (was, now)), (by_pairs, by_times) in zip(pair.items(), row, strict=True):
            p = next(corrected) if by_pairs or by_times else None
            intervals = (
                None if by_pairs is None else by_pairs.interval,
                None if by_times is None else by_times.interval,
            )
            differences.append(_difference(name, was, now, intervals, p, margin, use_time, (base, other)))
        compared.append(differences)
    return compared


def _pairs(base: Run, other: Run) -> dict[str, tuple[Record | None, Record | None]]:
    runs = (base, other)
    was, now = (dict(zip(labels, run.records, strict=True)) for labels, run in zip(names(runs), runs, strict=True))
    return {name: (was.get(name), now.get(name)) for name in dict.fromkeys([*was, *now])}


def _changes(was: Record, now: Record, margin: float, use_time: bool) -> tuple[Change | None, Change | None]:
    """The change of a case's speed-up over the same baseline, and that of its own pace; never both.

    Pace stands in where the runs share no speed-up, if `use_time`. None for what is unknown or not asked for.
    """
    if {was.status, now.status} != {"ok"}:
        return None, None
    if _baseline(was) is not None and _baseline(was) == _baseline(now) != was.case:
        before, after = _launches(was), _launches(now)
        if min(len(before), len(after)) > 1:
            first = (_first(was, before), _first(now, after))
            return change(_ratios(before), _ratios(after), margin, first), None
        if before and after:
            return change_of_levels(_in_turn(before), _in_turn(after), margin, RUNS_SD, UNKNOWN_SD), None
    old, new = _pace(was), _pace(now)
    return None, change_of_levels(old, new, margin, RUNS_SD, UNKNOWN_SD) if use_time and old and new else None


def _ratios(launches: Sequence[Medians]) -> list[float]:
    return [launch_ratio(launch.case_s, launch.baseline_s) for launch in launches]


def _in_turn(launches: Sequence[Medians]) -> Level:
    """The level of a speed-up by its launches, or by the rounds of its only launch."""
    rounds = [base / case for case, base in zip(launches[0].case_s, launches[0].baseline_s, strict=True)]
    return _over_launches(_ratios(launches)) or level_of(rounds)


def _over_launches(figures: Sequence[float]) -> Level | None:
    """The level of the figures of independent launches; None for fewer than two."""
    import numpy as np

    logs = np.log(figures)
    if len(logs) < 2:
        return None
    return Level(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)), len(logs) - 1)


def _first(record: Record, launches: Sequence[Medians]) -> int | None:
    """The number of launches of the first stage; None where not on record, as in older runs."""
    first = None if record.speedup is None else record.speedup.first
    return first if first is not None and 0 < first <= len(launches) else None


def _pace(record: Record) -> Level | None:
    """The level of a case's calls per second: by launches, else by pytest-benchmark's rounds, else by the median."""
    import numpy as np

    by_launch = _over_launches([1 / float(np.median(launch.case_s)) for launch in _launches(record)])
    if by_launch is not None:
        return by_launch
    p50_s = _p50_s(record)
    calls = record.calls or (None if p50_s is None else Calls(p50_s))
    if calls is None or not is_time(calls.median_s):
        return None
    return Level(-math.log(calls.median_s), calls.error, None if calls.error is None else calls.count - 1)


def _p50_s(record: Record) -> float | None:
    """The median call in seconds; None where it is no time that a call can take."""
    p50_s = None if record.latency is None else record.latency.p50_s
    return p50_s if is_time(p50_s) else None


def _baseline(record: Record) -> Case | None:
    baseline = None if record.speedup is None else record.speedup.baseline
    return None if baseline is None else baseline.case


def _launches(record: Record) -> list[Medians]:
    """The rounds' medians of each launch, without launches whose medians are incomplete or no times."""
    launches = () if record.speedup is None else record.speedup.medians
    return [
        launch
        for launch in launches
        if launch.case_s
        and len(launch.case_s) == len(launch.baseline_s)
        and all(map(is_time, (*launch.case_s, *launch.baseline_s)))
    ]


def _difference(
    name: str,
    was: Record | None,
    now: Record | None,
    intervals: tuple[Interval | None, Interval | None],
    p: float | None,
    margin: float,
    use_time: bool,
    runs: tuple[Run, Run],
) -> Difference:
    if was is None or now is None:
        return Difference(name, "new" if was is None else "missing", None, None, {}, None, ())
    states = [was.status, now.status]
    if states != ["ok", "ok"]:
        reasons = tuple(
            f"{state}: {record.reason}" for state, record in zip(states, (was, now), strict=True) if state != "ok"
        )
        verdict = states[0] if states[0] == states[1] else " -> ".join(states)
        return Difference(name, verdict, None, None, {}, None, tuple(dict.fromkeys(reasons)))
    before_s, after_s = _p50_s(was), _p50_s(now)
    ratio = before_s / after_s if use_time and before_s and after_s else None
    old, new = (_quality(record) for record in (was, now))
    changed, computed = _answers(was, now), _computed(was, now)
    lost = tuple(metric for metric in old if metric not in new)
    interval = intervals[1] if intervals[0] is None else intervals[0]
    verdict = "same" if was == now else _verdict(interval, p, margin)  # equal records are a single measurement
    slow_run = {"slower": 1, "faster": 0}.get(verdict) if intervals[0] is None else None
    why = _doubts(was, now, runs, slow_run) if verdict in ("faster", "slower") else []
    doubt = f"{verdict} by its figures, but {' and '.join(why)}" if why else None
    return Difference(
        name,
        verdict if doubt is None else "unclear",
        intervals[0],
        ratio,
        {metric: new[metric] - value for metric, value in old.items() if metric in new and new[metric] != value},
        changed,
        (
            *([] if doubt is None else [doubt]),
            *computed,
            *(
                f"{metric} is lost: {figure_text(f'quality.{metric}', old[metric], was.metrics)} before"
                for metric in lost
            ),
            *_notes(was, now, changed, runs),
        ),
        doubt,
        intervals[1],
        computed,
        lost,
        was.metrics | now.metrics,
    )


def _quality(record: Record) -> dict[str, float]:
    return {name: value for name, value in record.quality.items() if is_number(value)}


def _computed(was: Record, now: Record) -> tuple[str, ...]:
    """Lines on what is computed differently: outputs that lost all likeness of FP32's, kernels nearer to the quantized
    network or farther from it, and more or less of the network in the number format asked for.
    """
    lines = []
    like = [not unlike(record.fidelity.get("sqnr_db"), record.fidelity.get("agreement")) for record in (was, now)]
    if like == [True, False]:
        lines.append(f"broken: its outputs keep no likeness of FP32's any more, {now.fidelity['sqnr_db']:.1f} dB")
    old, new = (None if record.kernel is None else record.kernel.kernel_db for record in (was, now))
    if old is not None and new is not None and abs(new - old) >= KERNEL_DB:
        lines.append(f"kernel_db {old:.1f} -> {new:.1f} dB")
    elif old is not None and now.kernel is not None and new is None:
        lines.append(f"kernel_db {old:.1f} dB -> none ({now.kernel.reason})")
    before, after = share_lowered(was), share_lowered(now)
    if before and after and abs(after[1] - before[1]) >= LOWERED:
        lines.append(f"in {after[0].upper()}: {before[1]:.1%} -> {after[1]:.1%} of the multiply-accumulates")
    return tuple(lines)


def _verdict(interval: Interval | None, p: float | None, margin: float) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return "unclear"
    if interval.low >= 1 - 2 * margin and interval.high <= 1 + 2 * margin and abs(interval.ratio - 1) < margin:
        return "same"
    if p is not None and p < 1 - CONFIDENCE:
        return "faster" if interval.ratio > 1 else "slower"
    return "unclear"


def _doubts(was: Record, now: Record, runs: tuple[Run, Run], slow_run: int | None) -> list[str]:
    """Why the machine itself may have made the change: a line for each run in which control probes found it slower.

    slow_run  for a case that was not measured in turn with its baseline, the place of the run in which it took longer.
              Only that run is looked at then, and all else that disturbed it is a reason too.

    The reference is the better of both runs where they share the machine and the version of what the probes call.
    """
    noises = [record.noise or Noise() for record in (was, now)]
    best = [_positive(noise.best) for noise in noises]
    machines = [(run.fingerprint, run.machine.versions.get(PROBED_BY)) for run in runs]
    if machines[0] == machines[1]:
        probes = {name for figures in best for name in figures}
        best = [{name: max(figures.get(name, 0.0) for figures in best) for name in probes}] * 2
    doubts = []
    for place, (run, noise, reference) in enumerate(zip(runs, noises, best, strict=True)):
        if slow_run not in (None, place):
            continue
        why = fallen([_positive(probe) for probe in noise.probes], reference)
        why += [line for line in noise.why if line not in why] if slow_run == place else []
        doubts += [f"in {run.name} {' and '.join(why)}"] if why else []
    return doubts


def _positive(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: figure for name, figure in figures.items() if is_number(figure) and figure > 0}


def _answers(was: Record, now: Record) -> tuple[int, int] | None:
    old, new = was.answers, now.answers
    if not old or not new or len(old) != len(new):
        return None
    starts = range(0, len(old), 4)  # an answer has four hexadecimal digits
    return sum(old[start : start + 4] != new[start : start + 4] for start in starts), len(starts)


def _notes(was: Record, now: Record, changed: tuple[int, int] | None, runs: tuple[Run, Run]) -> tuple[str, ...]:
    """Lines on other answers of the same artefact, another artefact, other weights or data."""
    lines = []
    digests = [None if record.artifact is None else record.artifact.digest for record in (was, now)]
    same = digests[0] == digests[1] and digests[0] is not None
    if changed is not None and changed[0]:
        isas = ["?" if run.machine.isa is None else " ".join(run.machine.isa) for run in runs]
        by = f"; {isas[0]} against {isas[1]}" if isas[0] != isas[1] else ""
        lines.append(f"{'same' if same else 'another'} artefact, other answers: {changed[0]:,} of {changed[1]:,}{by}")
    elif not same and None not in digests:
        lines.append("another artefact")
    for name in ("weights", "dataset", "n"):
        old, new = (getattr(record.judged, name, None) for record in (was, now))
        if old != new:
            lines.append(f"other {name}: {old} -> {new}")
    return tuple(lines)
