"""Statistics of samples: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95


def supported(percentile: int, count: int, confidence: float = CONFIDENCE) -> bool:
    """Whether the least and the greatest of `count` samples bracket the percentile with this confidence.

    The distribution-free interval by order statistics: 1 - q^n - (1 - q)^n >= confidence; at 0.95 the p50 needs 6
    samples, p90 29, p95 59, p99 299. Source: David & Nagaraja 2003, "Order Statistics", section 7.1.
    """
    q = percentile / 100
    return count > 0 and 1 - q**count - (1 - q) ** count >= confidence


def latency(samples_s: Sequence[float]) -> dict[str, float | None]:
    """Give p50_s, p90_s, p95_s, p99_s of durations (n,) in seconds, linearly interpolated; None where unsupported."""
    import numpy as np

    return {
        f"p{percentile}_s": (
            float(np.percentile(samples_s, percentile)) if supported(percentile, len(samples_s)) else None
        )
        for percentile in PERCENTILES
    }
