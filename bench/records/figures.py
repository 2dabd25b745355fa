"""Figures as text, by their names in records."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bench.spec.metric import DECIBEL, SHARE, Metric, metric_named

# metrics of this project's tasks, for runs before schema 2, which do not say their units
UNTOLD = (
    *(Metric(name, SHARE) for name in ("top*", "ap_*", "map*", "miou", "iou.*", "pixel_accuracy", "agreement")),
    Metric("max_error", SHARE, better="lower"),
)
SHARES = (  # figures from 0 to 1 that are shown in percent
    *("efficiency.share_of_peak", "explained.time", "explained.count_int8", "kernel.agreement"),
    *("lowered.share", "lowered.macs", "lowered.weights", "lowered.promised"),
)
JUDGED = ("quality.", "fidelity.", "drop.")  # prefixes of the figures that are metrics
Metrics = Mapping[str, Metric]


def column_metric(name: str, metrics: Metrics = MappingProxyType({})) -> Metric | None:
    """The metric of a figure of quality, fidelity or drop, from `metrics` if it is there; None for any other figure."""
    prefix = next((prefix for prefix in JUDGED if name.startswith(prefix)), None)
    if prefix is None:
        return None
    bare = name.removeprefix(prefix)
    return metrics.get(bare) or metric_named(bare, UNTOLD)


def figure_text(name: str, value: float, metrics: Metrics = MappingProxyType({})) -> str:
    """A figure as text, in its metric's unit, else in the unit that its name shows.

    Seconds are written as ms below 1 s, bytes as MB, shares as percent; there are decibels and ratios too.
    """
    metric = column_metric(name, metrics)
    if metric is not None and metric.unit == SHARE:
        return f"{value:.2%}"
    if name.endswith("_db") or (metric is not None and metric.unit == DECIBEL):
        return f"{value:.2f} dB"
    if name.startswith("speedup."):
        return f"{value:.2f}x" if name in ("speedup.ratio", "speedup.low", "speedup.high") else f"{value:.4g}"
    if name.endswith("_s") and not name.endswith("_per_s"):
        return f"{value * 1e3:.3f} ms" if value < 1 else f"{value:.2f} s"
    if name.endswith("bytes"):
        return f"{value / 1e6:.3f} MB"
    if name.startswith(SHARES):
        return f"{value:.2%}"
    return f"{value:.4g}"
