"""Two or more saved runs, case by case: what differs between the machines, what became faster, slower, better, worse.

Speed-ups are compared, each measured in turn with its baseline, since they carry from machine to machine; absolute
times only between runs of one machine, unless asked for.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from bench.errors import BadLimit
from bench.noise import PROBED_BY, fallen
from bench.record import is_number
from bench.report.markdown import escaped, markdown_table
from bench.report.pivot import formed
from bench.runs import Run
from bench.statistics import CONFIDENCE, Interval, change, holm, launch_ratio

MARGIN = 0.01
MEASURED = ("same", "faster", "slower", "unclear")
APART = ("n", "dataset_s")  # figures of quality that are none
FACTS = (
    *("cpu", "cores_physical", "cores_logical", "ram_bytes", "isa", "numa_nodes", "hypervisor", "governor"),
    *("cgroup", "affinity", "system", "python"),
)


@dataclass(frozen=True)
class Difference:
    """One case in two runs.

    verdict   "same", "faster", "slower" or "unclear" where both measured it; "new", "missing"; "ok -> failed" and the
              like where its status changed; the status where both could not.
    speedup   how many times as large its speed-up has become, above 1 where it is faster; None where one has none.
    absolute  how many times as fast its median call has become, None where the machines differ.
    quality   metric -> how much it rose; those that did not change are left out.
    answers   of how many items the answer changed, of how many; None where it is not on record.
    notes     what else is to be said, each a line; the doubt first.
    doubt     why a change is not called though its figures tell one; None where there is no such doubt.
    """

    case: str
    verdict: str
    speedup: Interval | None
    absolute: float | None
    quality: Mapping[str, float]
    answers: tuple[int, int] | None
    notes: tuple[str, ...]
    doubt: str | None = None


def compare(base: Run, others: Sequence[Run], absolute: bool = False, margin: float = MARGIN) -> list[list[Difference]]:
    """The differences of each of the other runs from the base, in the base's order, new cases last.

    A case is faster or slower where Holm's correction over all comparisons leaves the p-value of a change within the
    margin below 5%; same where the whole 95% interval is within twice the margin; else unclear. So is a change where
    control probes say that the machine itself was slower in one of the runs: INT8 and FP32 do not suffer alike.
    """
    pairs = [_pairs(base, other) for other in others]
    changes = [
        [None if was is None or now is None else _change(was, now, margin) for was, now in pair.values()]
        for pair in pairs
    ]
    corrected = iter(holm([one.p for row in changes for one in row if one is not None and one.p is not None]))
    found = []
    for other, pair, row in zip(others, pairs, changes, strict=True):
        here = absolute or other.fingerprint == base.fingerprint
        differences = []
        for (name, (was, now)), one in zip(pair.items(), row, strict=True):
            interval = None if one is None else one.interval
            p = None if one is None or one.p is None else next(corrected)
            differences.append(_difference(name, was, now, interval, p, margin, here, (base, other)))
        found.append(differences)
    return found


def _pairs(base: Run, other: Run) -> dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    was, now = ({record["id"]: record for record in run.records} for run in (base, other))
    return {name: (was.get(name), now.get(name)) for name in dict.fromkeys([*was, *now])}


def _change(was: dict[str, Any], now: dict[str, Any], margin: float) -> Any:
    """How the speed-up of a case over the same baseline changed, None where they have none in common."""
    if _baseline(was) is None or _baseline(was) != _baseline(now):
        return None
    before, after = _launches(was), _launches(now)
    return change(before, after, margin, (_first(was, before), _first(now, after))) if before and after else None


def _first(record: dict[str, Any], launches: list[float]) -> int | None:
    """How many of its launches were of the first stage; None where it is not on record, as in older runs."""
    first = record.get("speedup", {}).get("first")
    return first if isinstance(first, int) and 0 < first <= len(launches) else None


def _baseline(record: dict[str, Any]) -> Any:
    told = record.get("speedup", {}).get("baseline")
    return told.get("case") if isinstance(told, dict) else None


def _launches(record: dict[str, Any]) -> list[float]:
    """The speed-up in each launch; empty where the record has none, or what it has is no such thing."""
    told = record.get("speedup", {}).get("medians")
    launches = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    pairs = [(one.get("case_s"), one.get("baseline_s")) for one in launches]
    return [
        launch_ratio(case, base) for case, base in pairs if _times(case) and _times(base) and len(case) == len(base)
    ]


def _times(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and bool(values) and all(is_number(value) and 0 < value < 1e9 for value in values)


def _difference(
    name: str,
    was: dict[str, Any] | None,
    now: dict[str, Any] | None,
    interval: Interval | None,
    p: float | None,
    margin: float,
    here: bool,
    runs: tuple[Run, Run],
) -> Difference:
    if was is None or now is None:
        return Difference(name, "new" if was is None else "missing", None, None, {}, None, ())
    states = [str(record["status"]) for record in (was, now)]
    if states != ["ok", "ok"]:
        reasons = tuple(
            f"{state}: {record.get('reason')}"
            for state, record in zip(states, (was, now), strict=True)
            if state != "ok"
        )
        verdict = states[0] if states[0] == states[1] else " -> ".join(states)
        return Difference(name, verdict, None, None, {}, None, tuple(dict.fromkeys(reasons)))
    times = [record.get("latency", {}).get("p50_s") for record in (was, now)]
    ratio = times[0] / times[1] if here and all(is_number(one) and one > 0 for one in times) else None
    quality = {
        metric: now["quality"][metric] - value
        for metric, value in was.get("quality", {}).items()
        if metric not in APART and is_number(value) and is_number(now.get("quality", {}).get(metric))
    }
    changed = _answers(was, now)
    verdict = "same" if was == now else _verdict(interval, p, margin)  # one measurement, however little it tells
    why = _doubts(was, now, runs) if verdict in ("faster", "slower") else []
    doubt = f"{verdict} by its figures, but {' and '.join(why)}" if why else None
    return Difference(
        name,
        verdict if doubt is None else "unclear",
        interval,
        ratio,
        {metric: rise for metric, rise in quality.items() if rise},
        changed,
        (*([] if doubt is None else [doubt]), *_notes(was, now, changed, runs)),
        doubt,
    )


def _verdict(interval: Interval | None, p: float | None, margin: float) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return "unclear"
    if interval.low >= 1 - 2 * margin and interval.high <= 1 + 2 * margin and abs(interval.ratio - 1) < margin:
        return "same"
    if p is not None and p < 1 - CONFIDENCE:
        return "faster" if interval.ratio > 1 else "slower"
    return "unclear"


def _doubts(was: dict[str, Any], now: dict[str, Any], runs: tuple[Run, Run]) -> list[str]:
    """What control probes say of the machine while the case was measured, of each run in which it was slower itself.

    Runs of one machine with one version of what the probes call are held against the better of both.
    """
    noises = [record.get("noise", {}) for record in (was, now)]
    best = [_figures(noise.get("best")) for noise in noises]
    machines = [(run.fingerprint, _library(run)) for run in runs]
    if machines[0] == machines[1]:
        names = {name for one in best for name in one}
        best = [{name: max(one.get(name, 0.0) for one in best) for name in names}] * 2
    doubts = []
    for run, noise, most in zip(runs, noises, best, strict=True):
        probes = noise.get("probes")
        why = fallen([_figures(one) for one in probes] if isinstance(probes, list) else [], most)
        doubts += [f"in {run.name} {' and '.join(why)}"] if why else []
    return doubts


def _figures(told: Any) -> dict[str, float]:
    return {name: one for name, one in told.items() if is_number(one) and one > 0} if isinstance(told, dict) else {}


def _library(run: Run) -> Any:
    """The version of what the control probes call."""
    versions = run.machine.get("versions")
    return versions.get(PROBED_BY) if isinstance(versions, dict) else None


def _answers(was: dict[str, Any], now: dict[str, Any]) -> tuple[int, int] | None:
    old, new = (told if isinstance(told := record.get("answers"), str) else "" for record in (was, now))
    if not old or len(old) != len(new):
        return None
    places = range(0, len(old), 4)
    return sum(old[place : place + 4] != new[place : place + 4] for place in places), len(places)


def _notes(
    was: dict[str, Any], now: dict[str, Any], changed: tuple[int, int] | None, runs: tuple[Run, Run]
) -> tuple[str, ...]:
    """Whether the same artefact gave other answers, or another artefact was measured, or other data."""
    lines = []
    digests = [record.get("artifact", {}).get("digest") for record in (was, now)]
    same = digests[0] == digests[1] and digests[0] is not None
    if changed is not None and changed[0]:
        isas = [" ".join(map(str, isa)) if isinstance(isa := run.machine.get("isa"), list) else "?" for run in runs]
        by = f"; {isas[0]} against {isas[1]}" if isas[0] != isas[1] else ""
        lines.append(f"{'same' if same else 'another'} artefact, other answers: {changed[0]:,} of {changed[1]:,}{by}")
    elif not same and None not in digests:
        lines.append("another artefact")
    for name in ("weights", "dataset", "n"):
        old, new = (record.get("quality", {}).get(name) for record in (was, now))
        if old != new:
            lines.append(f"other {name}: {old} -> {new}")
    return tuple(lines)


def machines(runs: Sequence[Run]) -> str:
    """What differs between the runs: their machines' facts, versions, settings and commits, as a table."""
    facts: dict[str, list[str]] = {
        "machine": [run.fingerprint for run in runs],
        "commit": [str(run.commit)[:10] for run in runs],
    }
    for fact in FACTS:
        facts[fact] = [_told(fact, run.machine.get(fact)) for run in runs]
    for group in ("versions", "settings"):
        parts = [part if isinstance(part := run.machine.get(group), dict) else {} for run in runs]
        for name in dict.fromkeys(name for part in parts for name in part):
            facts[str(name)] = [str(part.get(name, "-")) for part in parts]
    rows = [
        {"": name} | {run.name: value for run, value in zip(runs, values, strict=True)}
        for name, values in facts.items()
        if len(set(values)) > 1
    ]
    return markdown_table(rows) if rows else "The runs' machines, versions and commits are the same."


def _told(fact: str, value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value / 1e9:.1f} GB" if fact == "ram_bytes" and is_number(value) else str(value)


def rendered(base: Run, others: Sequence[Run], found: Sequence[Sequence[Difference]]) -> str:
    """The comparison as markdown: the machines first, then each run against the base."""
    parts = ["### What differs", machines([base, *others])]
    count = sum(one.speedup is not None and one.speedup.low is not None for row in found for one in row)
    for other, differences in zip(others, found, strict=True):
        measured = [one for one in differences if one.verdict in MEASURED]
        parts.append(f"### {escaped(other.name)} against {escaped(base.name)}")
        parts += [markdown_table([_row(one) for one in measured])] if measured else []
        lines = [f"{one.case}: {'; '.join(one.notes)}" for one in measured if one.notes]
        lines += [f"{one.case}: {'; '.join([one.verdict, *one.notes])}" for one in differences if one not in measured]
        parts += ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []
        tally = collections.Counter(one.verdict for one in differences)
        told = ", ".join(f"{number} {verdict}" for verdict, number in tally.items())
        parts.append(
            f"{escaped(told)}. Changes of speed-ups with their 95% intervals; verdicts by Holm's correction over "
            f"{count} comparisons."
        )
    return "\n\n".join(parts)


def _row(one: Difference) -> dict[str, str]:
    quality = [f"{metric} {_rise(metric, rise)}" for metric, rise in one.quality.items()]
    return {
        "case": one.case,
        "verdict": one.verdict,
        "speed-up": _speedup(one),
        "own time": "-" if one.absolute is None else f"{one.absolute:.3f}x",
        "quality": ", ".join(quality) or "-",
    }


def _speedup(one: Difference) -> str:
    if one.speedup is None:
        return "-"
    low, high = one.speedup.low, one.speedup.high
    sure = "no interval" if low is None or high is None else f"{low:.3f}-{high:.3f}"
    return f"{one.speedup.ratio:.3f}x ({sure})"


def _rise(metric: str, rise: float) -> str:
    return ("+" if rise > 0 else "") + formed(f"quality.{metric}", rise)


def broken(runs: Sequence[Run], found: Sequence[Sequence[Difference]], limits: Mapping[str, float]) -> list[str]:
    """What is beyond the limits, a line each: `slower` by more than a share; more than so many cases `missing`, or
    `failed` that had not; a metric of quality that fell by more than so much. Raises BadLimit for a name of none.
    """
    metrics = {name for run in runs for record in run.records for name in record.get("quality", {})}
    lines = []
    for name, limit in limits.items():
        if name not in ("slower", "missing", "failed") and name not in metrics:
            raise BadLimit(
                f"nothing is named {name!r} that could be limited; there are slower, missing, failed, "
                f"{', '.join(sorted(map(str, metrics - {*APART, 'dataset', 'weights'})))}"
            )
        for row in found:
            if name == "slower":
                lost = [one for one in row if one.verdict == name and one.speedup and one.speedup.ratio < 1 - limit]
                lines += [f"{one.case}: slower, {_speedup(one)}" for one in lost]
            elif name in ("missing", "failed"):
                lost = [one for one in row if one.verdict in ("missing", "ok -> failed") and one.verdict.endswith(name)]
                lines += [f"{one.case}: {one.verdict}" for one in lost] if len(lost) > limit else []
            else:
                lost = [one for one in row if -one.quality.get(name, 0.0) > limit]
                lines += [f"{one.case}: {name} {_rise(name, one.quality[name])}" for one in lost]
    return lines


def limits_of(text: str) -> dict[str, float]:
    """`slower:2%,top1:0.5%,missing` as limits by name, shares as fractions, those without a number 0. Raises
    BadLimit.
    """
    found = {}
    for part in text.split(","):
        name, _, limit = part.strip().partition(":")
        try:
            found[name] = float(limit.removesuffix("%")) / (100 if limit.endswith("%") else 1) if limit else 0.0
        except ValueError:
            raise BadLimit(f"a limit reads NAME:NUMBER or NAME:NUMBER%, not {part!r}") from None
        if not name or not 0 <= found[name] < float("inf"):
            raise BadLimit(f"a limit reads NAME:NUMBER or NAME:NUMBER%, not {part!r}")
    return found
