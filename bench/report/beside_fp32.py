"""How a case stands beside FP32: how many times as fast, and what it gains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

SMALLER = 0.95  # the share of FP32's size from which on a size is gained


def fp32_of(good: pd.DataFrame, row: Any, engine: dict[str, str]) -> Any:
    """The fastest FP32 case of the same model, batch, threads and device, on `engine` where given, or None."""
    wanted = {axis: row[axis] for axis in ("model", "batch", "threads", "device")} | {"precision": "fp32"} | engine
    candidates = good.loc[(good[list(wanted)] == wanted).all(axis=1)]
    return None if not len(candidates) else candidates.sort_values("latency.p50_s").iloc[0]


def ratio(row: Any, other: Any) -> str:
    """How many times as fast a case is as another: through their common baseline, else by their medians."""
    if other is None:
        return "-"
    by_way, other_way = row.get("speedup.ratio"), other.get("speedup.ratio")
    if is_number(by_way) and is_number(other_way) and baseline_of(row) == baseline_of(other):
        return f"{by_way / other_way:.2f}"
    if not is_number(row["latency.p50_s"]) or not is_number(other["latency.p50_s"]):
        return "-"
    return f"{other['latency.p50_s'] / row['latency.p50_s']:.2f}"


def gains(row: Any, fp32: Any) -> str:
    """What a case with steps gains over FP32 on its engine: speed, where their intervals part; size, as stored or as
    compressed; or nothing but what its quality shows.
    """
    if fp32 is None or not is_number(row.get("artifact.huffman_bytes")):
        return "-"
    slow, fast, stored = fp32.get("speedup.high"), row.get("speedup.low"), fp32["artifact.bytes"]
    same = baseline_of(row) == baseline_of(fp32)
    faster = same and is_number(slow) and is_number(fast) and fast > slow
    smaller = row["artifact.bytes"] < SMALLER * stored
    coded = [row.get(f"artifact.{way}_bytes") for way in ("huffman", "packed")]
    shorter = not smaller and min(filter(is_number, coded)) < SMALLER * stored
    parts = (("speed", faster), ("size", smaller), ("size as compressed", shorter))
    return ", ".join(name for name, gained in parts if gained) or "quality only"


def baseline_of(row: Any) -> list[Any]:
    """The case that a case's speed-up is over, by its axes."""
    return [row.get(f"speedup.baseline.case.{axis}") for axis in ("engine", "precision", "batch", "threads", "device")]
