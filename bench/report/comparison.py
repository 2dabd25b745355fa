"""Saved runs beside each other, as text."""

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
    """What differs between the runs: their machines' facts, versions, settings and commits, as a table."""
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
    count = sum(one.judged is not None and one.judged.low is not None for row in found for one in row)
    for other, differences in zip(others, found, strict=True):
        measured = sorted((one for one in differences if one.verdict in MEASURED), key=lambda one: not one.computed)
        parts.append(f"### {escaped(other.name)} against {escaped(base.name)}")
        table = [_row(one) for one in differences if one.verdict in MEASURED]
        parts += [markdown_table(table)] if table else []
        lines = [f"{one.case}: {'; '.join(one.notes)}" for one in measured if one.notes]
        lines += [f"{one.case}: {'; '.join([one.verdict, *one.notes])}" for one in differences if one not in measured]
        parts += ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []
        tally = collections.Counter(one.verdict for one in differences)
        told = ", ".join(f"{number} {verdict}" for verdict, number in tally.items())
        parts.append(
            f"{escaped(told)}. Changes of speed-ups with their 95% intervals; verdicts by Holm's correction over "
            f"{count} comparisons."
        )
        if any(one.speedup is None and one.times is not None for one in measured):
            parts.append(
                "\\* judged by its own times, for want of a speed-up over another case in both runs. The interval "
                f"holds what its calls scattered, and {RUNS_SD:.0%} (sd) from run to run, or {UNKNOWN_SD:.0%} where a "
                "run does not tell its scatter; a bad hour differs by more."
            )
    return "\n\n".join(parts)


def _row(one: Difference) -> dict[str, str]:
    quality = [f"{metric} {rise_text(one, metric)}" for metric in one.quality]
    own = "-" if one.absolute is None else f"{one.absolute:.3f}x"
    return {
        "case": one.case,
        "verdict": one.verdict,
        "speed-up": interval_text(one.speedup),
        "own time": own if one.times is None else f"{interval_text(one.times)}*",
        "quality": ", ".join([*quality, *(f"{metric} lost" for metric in one.lost)]) or "-",
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
    """What is beyond the limits, a line each: `slower` by more than a share; more than so many cases `missing`, or
    `failed` that had not, both with those that have become unsupported; a metric of quality that is worse by more than
    so much, or is lost. Raises BadLimit for a name of none.
    """
    metrics = {name for run in runs for record in run.records for name in record.quality}
    lines = []
    for name, limit in limits.items():
        if name not in ("slower", *LOST) and name not in metrics:
            there = ", ".join(["slower", *LOST, *sorted(map(str, metrics))])
            raise BadLimit(f"nothing is named {name!r} that could be limited; there are {there}")
        for row in found:
            if name == "slower":
                lost = [one for one in row if one.verdict == name and one.judged and one.judged.ratio < 1 - limit]
                lines += [f"{one.case}: slower, {interval_text(one.judged)}" for one in lost]
            elif name in LOST:
                lost = [one for one in row if one.verdict in LOST[name]]
                lines += [f"{one.case}: {one.verdict}" for one in lost] if len(lost) > limit else []
            else:
                lines += [f"{one.case}: {name} is lost" for one in row if name in one.lost]
                lines += [
                    f"{one.case}: {name} {rise_text(one, name)}"
                    for one in row
                    if name in one.quality and -one.quality[name] * one.metrics.get(name, Metric(name)).sign > limit
                ]
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
