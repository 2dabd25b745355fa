"""How figures are written, by the names that records have for them."""

from __future__ import annotations

SHARES = (
    *("quality.top1", "quality.top5", "quality.ap_", "quality.map", "quality.miou", "quality.pixel_accuracy"),
    *("fidelity.agreement", "efficiency.share_of_peak", "explained.time", "explained.count_int8", "kernel.agreement"),
    *("lowered.share", "lowered.macs", "lowered.weights", "lowered.promised"),
)


def figure_text(name: str, value: float) -> str:
    """A figure as text, in the unit that its name ends with: seconds as ms, bytes as MB, decibel, ratios, shares."""
    if name.startswith("speedup."):
        return f"{value:.2f}x" if name in ("speedup.ratio", "speedup.low", "speedup.high") else f"{value:.4g}"
    if name.endswith("_s") and not name.endswith("_per_s"):
        return f"{value * 1e3:.3f} ms" if value < 1 else f"{value:.2f} s"
    if name.endswith("bytes"):
        return f"{value / 1e6:.3f} MB"
    if name.endswith("_db"):
        return f"{value:.2f} dB"
    if name.startswith(SHARES):
        return f"{value:.2%}"
    return f"{value:.4g}"
