"""Saved runs, read back and laid out as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.case import AXES
from bench.errors import RunFileError
from bench.record import finite

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """One saved run: its records as saved, what ran it (machine_info["bench"]), when, and at which commit."""

    records: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=dict)
    when: str | None = None
    commit: str | None = None


def read(path: Path) -> Run:
    """Read a file that pytest-benchmark saved. Raises RunFileError where it is none, or holds no case."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise RunFileError(f"cannot read {path}: {reason}") from error
    try:
        saved = finite(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path} is not a saved run: it is no whole JSON file ({error})") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("benchmarks"), list):
        raise RunFileError(
            f"{path} is not a saved run: it has no list of 'benchmarks'; name a file that pytest-benchmark saved"
        )
    entries = [_dict(entry).get("extra_info") for entry in saved["benchmarks"]]
    others = _dict(saved.get("bench")).get("cases")
    records = [record for record in [*entries, *(others if isinstance(others, list) else [])] if _is_record(record)]
    if not records:
        raise RunFileError(f"{path} holds no case of this harness among its {len(entries)} benchmarks")
    when, commit = saved.get("datetime"), _dict(saved.get("commit_info")).get("id")
    return Run(
        records,
        _dict(_dict(saved.get("machine_info")).get("bench")),
        when if isinstance(when, str) else None,
        commit if isinstance(commit, str) else None,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_record(record: Any) -> bool:
    case = _dict(_dict(record).get("case"))
    counts = all(isinstance(case.get(axis), int) and case[axis] > 0 for axis in ("batch", "threads"))
    return counts and all(isinstance(case.get(axis), str) for axis in AXES if axis not in ("batch", "threads"))


def frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a record: its axes by their names, all else by dotted names such as `latency.p50_s`, `quality.top1`."""
    import pandas as pd

    table = pd.json_normalize([record | record["case"] for record in records])
    return table[[column for column in table.columns if not column.startswith("case.")]]
