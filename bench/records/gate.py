"""The gate: the intervals of a record's speed-up and quality against the limits asked for."""

from __future__ import annotations

from collections.abc import Mapping

from bench.records.record import Record
from bench.spec.outcome import Speedup


def shortfalls(record: Record, speedup: float | None, max_drop: Mapping[str, float]) -> list[str]:
    """A line for each limit that the record does not certainly reach; none where it passes.

    speedup   the interval's lower end must reach it.
    max_drop  metric name -> how far it may fall from FP32 PyTorch's; the paired interval's upper end must be within it.
    """
    lines: list[str | None] = []
    if speedup is not None:
        measured = record.speedup or Speedup()
        ends = (measured.low, measured.ratio, measured.high)
        lines.append(_line("speed-up", *ends, speedup, few="one launch", more_is_better=True))
    for metric, limit in max_drop.items():
        drop = record.drop.get(metric)
        if drop is None:
            available = ", ".join(record.drop) or "none"
            lines.append(f"ambiguous: no drop of {metric!r} is measured for this task; there are: {available}")
        else:
            lines.append(
                _line(f"drop of {metric}", drop.low, drop.value, drop.high, limit, few="one item", more_is_better=False)
            )
    return [line for line in lines if line is not None]


def _line(
    name: str,
    low: float | None,
    value: float | None,
    high: float | None,
    limit: float,
    *,
    few: str,
    more_is_better: bool,
) -> str | None:
    """The line for a figure that may miss its limit, else None; `few` says why it may have no interval."""
    if value is None:
        return f"ambiguous: there is no {name}, wanted {limit:g}"
    if low is None or high is None:
        return f"ambiguous: {name} {value:.4g} has no interval ({few}), wanted {limit:g}"
    figure = f"{name} {value:.4g} (95% interval {low:.4g} to {high:.4g})"
    if low >= limit if more_is_better else high <= limit:
        return None
    if high < limit if more_is_better else low > limit:
        return f"{figure} misses {limit:g}"
    return f"ambiguous: {figure} may or may not reach {limit:g}"
