"""The unit of a quality figure, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

SHARE, DECIBEL = "share", "dB"


@dataclass(frozen=True)
class Metric:
    """A metric of quality or fidelity.

    name    in a task it may be a pattern, `ap_*`, where the data set or a setting names the rest.
    unit    SHARE for 0..1, shown as a percentage; DECIBEL; or empty for a plain number.
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
    """The first metric whose pattern matches the name; else a plain number, where higher is better."""
    matching = (metric for metric in metrics if fnmatchcase(name, metric.name))
    return replace(next(matching, Metric(name)), name=name)
