"""The version of saved records, and older ones brought to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bench.spec.outcome import Judged

SCHEMA = 2  # 1 had n, dataset, weights, dataset_s and reason among the metrics of quality
MOVED = tuple(part.name for part in dataclasses.fields(Judged))  # schema 1 had these among the metrics of quality


def upgraded(facts: Mapping[str, object]) -> dict[str, object]:
    """A saved record of any schema in the form of this one: quality holds metrics alone."""
    if "judged" in facts:
        return dict(facts)
    quality = facts.get("quality")
    quality = quality if isinstance(quality, dict) else {}
    return {
        **facts,
        "quality": {name: value for name, value in quality.items() if name not in MOVED},
        "judged": {name: quality[name] for name in MOVED if name in quality},
    }
