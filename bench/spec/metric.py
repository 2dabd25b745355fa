"""What a figure of quality is measured in, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

SHARE, DECIBEL = "share", "dB"


@dataclass(frozen=True)
class Metric:
    """A metric of quality or fidelity.

    name    in a task a pattern, `ap_*`, where the data set or a setting names a part of it.
    unit    SHARE for 0..1 that is shown as a percentage, DECIBEL, or none for a plain number.
    better  "higher" or "lower".
    """

    name: str
    unit: str = ""
    better: str = "higher"

    @property
    def sign(self) -> int:
        """1 where a rise is better, -1 where a fall is."""
        return 1 if self.better == "higher" else -1


def metric_named(name: str, metrics: Iterable[Metric]) -> Metric:
    """The first of a task's metrics that a name is of; a plain number, higher the better, where it is of none."""
    known = (metric for metric in metrics if fnmatchcase(name, metric.name))
    return replace(next(known, Metric(name)), name=name)
