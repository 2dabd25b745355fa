"""A comparison of saved runs, as text."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import BadLimit
from bench.machine.facts import Limits
from bench.records.compare import FACTS, LOST, MEASURED, RUNS_SD, UNKNOWN_SD, Difference
from bench.records.runs import Run
from bench.report.markdown import escaped, markdown_table
from bench.report.pivot import formed
from bench.spec.metric import Metric
from bench.statistics import Interval, is_number


def machines(runs: Sequence[Run]) -> str:
    """A table of the machine facts, versions, settings and commits that differ between the runs."""
    facts: dict[str, list[str]] = {
        "machine": [run.fingerprint for run in runs],
        "commit": [str(run.commit)[:10] for run in runs],
    }
    for fact in FACTS:
        facts[fact] = [_text(getattr(run.machine, fact)) for run in runs]
    facts["ram_bytes"] = ["-" if (ram := run.machine.ram_bytes) is None else f"{ram / 1e9:.1f} GB" for run in runs]
    for parts in ([run.machine.versions for run in runs], [run.machine.settings for run in runs]):
        for name in dict.fromkeys(name for part in parts for name in part):
            facts[name] = [str(part.get(name, "-")) for part in parts]
    rows = [
        {"": name} | {run.name: value for run, value in zip(runs, values, strict=True)}
        for name, values in facts.items()
        if len(set(values)) > 1
    ]
    return markdown_table(rows) if rows else "The runs' machines, versions and commits are the same."


def _text(value: Any) -> str:
    if isinstance(value, Limits):
        cpus = "all CPUs" if value.cpus is None else f"{value.cpus:g} CPUs"
        return f"{cpus}, {'all memory' if value.memory_bytes is None else f'{value.memory_bytes / 1e9:.1f} GB'}"
    return "-" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def rendered(base: Run, others: Sequence[Run], found: Sequence[Sequence[Difference]]) -> str:
    """The comparison as markdown: the machines first, then each run against the base."""
    parts = ["### What differs", machines([base, *others])]
    count = sum(diff.judged is not None and diff.judged.low is not None for row in found for diff in row)
    for other, differences in zip(others, found, strict=True):
        measured = sorted(
            (diff for diff in differences if diff.verdict in MEASURED), key=lambda diff: not diff.computed
        )
        parts.append(f"### {escaped(other.name)} against {escaped(base.name)}")
        table = [_row(diff) for diff in differences if diff.verdict in MEASURED]
        parts += [markdown_table(table)] if table else []
        lines = [f"{diff.case}: {'; '.join(diff.notes)}" for diff in measured if diff.notes]
        lines += [
            f"{diff.case}: {'; '.join([diff.verdict, *diff.notes])}" for diff in differences if diff not in measured
        ]
        parts += ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []
        tally = collections.Counter(diff.verdict for diff in differences)
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in tally.items())
        parts.append(
            f"{escaped(verdicts)}. Changes of speed-ups with their 95% intervals; verdicts by Holm's correction over "
            f"{count} comparisons."
        )
        if any(diff.speedup is None and diff.times is not None for diff in measured):
            parts.append(
                "\\* judged by its own times, for want of a speed-up over another case in both runs. The interval "
                f"covers the scatter of its calls and {RUNS_SD:.0%} (sd) from run to run, or {UNKNOWN_SD:.0%} where a "
                "run has no scatter on record; a bad hour differs by more."
            )
    return "\n\n".join(parts)


def _row(difference: Difference) -> dict[str, str]:
    quality = [f"{metric} {rise_text(difference, metric)}" for metric in difference.quality]
    own_time = "-" if difference.absolute is None else f"{difference.absolute:.3f}x"
    return {
        "case": difference.case,
        "verdict": difference.verdict,
        "speed-up": interval_text(difference.speedup),
        "own time": own_time if difference.times is None else f"{interval_text(difference.times)}*",
        "quality": ", ".join([*quality, *(f"{metric} lost" for metric in difference.lost)]) or "-",
    }


def interval_text(one: Interval | None) -> str:
    if one is None:
        return "-"
    sure = f"{one.low:.3f}-{one.high:.3f}" if is_number(one.low) and is_number(one.high) else "no interval"
    return f"{one.ratio:.3f}x ({sure})"


def rise_text(one: Difference, metric: str) -> str:
    rise = one.quality[metric]
    return ("+" if rise > 0 else "") + formed(f"quality.{metric}", rise, one.metrics)


def broken(runs: Sequence[Run], found: Sequence[Sequence[Difference]], limits: Mapping[str, float]) -> list[str]:
    """A line for each thing beyond its limit. Raises BadLimit for an unknown name.

    slower           the share by which a case may become slower.
    missing, failed  how many cases may become so; cases that became unsupported count in both.
    a metric         how much worse it may become; a lost metric is beyond any limit.
    """
    metrics = {name for run in runs for record in run.records for name in record.quality}
    lines = []
    for name, limit in limits.items():
        if name not in ("slower", *LOST) and name not in metrics:
            there = ", ".join(["slower", *LOST, *sorted(map(str, metrics))])
            raise BadLimit(f"nothing is named {name!r} that could be limited; there are {there}")
        for row in found:
            if name == "slower":
                slower = [
                    diff for diff in row if diff.verdict == name and diff.judged and diff.judged.ratio < 1 - limit
                ]
                lines += [f"{diff.case}: slower, {interval_text(diff.judged)}" for diff in slower]
            elif name in LOST:
                lost = [diff for diff in row if diff.verdict in LOST[name]]
                lines += [f"{diff.case}: {diff.verdict}" for diff in lost] if len(lost) > limit else []
            else:
                lines += [f"{diff.case}: {name} is lost" for diff in row if name in diff.lost]
                lines += [
                    f"{diff.case}: {name} {rise_text(diff, name)}"
                    for diff in row
                    if name in diff.quality and -diff.quality[name] * diff.metrics.get(name, Metric(name)).sign > limit
                ]
    return lines


def limits_of(text: str) -> dict[str, float]:
    """Parse `slower:2%,top1:0.5%,missing` into limits by name: a percentage as a fraction, 0 without a number. Raises
    BadLimit for any other text.
    """
    limits = {}
    for part in text.split(","):
        name, _, limit = part.strip().partition(":")
        try:
            limits[name] = float(limit.removesuffix("%")) / (100 if limit.endswith("%") else 1) if limit else 0.0
        except ValueError:
            raise BadLimit(f"a limit reads NAME:NUMBER or NAME:NUMBER%, not {part!r}") from None
        if not name or not 0 <= limits[name] < float("inf"):
            raise BadLimit(f"a limit reads NAME:NUMBER or NAME:NUMBER%, not {part!r}")
    return limits
