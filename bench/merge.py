"""Shards of one run, saved apart, put together again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import MergeError
from bench.runs import read


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """One saved run, as pytest-benchmark writes them, with all that the files hold.

    They must be of one machine, commit and set of versions. A case that two of them hold is taken once where it was
    unsupported or failed in one and measured in the other, or is the very same. Raises MergeError, naming what
    conflicts, and RunFileError for a file that is no saved run.
    """
    runs = [read(file) for file in files]
    for name, tell in (
        ("machines", lambda run: run.fingerprint),
        ("commits", lambda run: run.commit),
        ("versions", lambda run: json.dumps(run.machine.get("versions"), sort_keys=True)),
    ):
        told = {tell(run): file for run, file in zip(runs, files, strict=True)}
        if len(told) > 1:
            raise MergeError(
                f"no shards of one run: other {name} in {' and '.join(map(str, told.values()))}; compare them instead"
            )
    saved = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    whole = dict(saved[0])
    benchmarks: dict[str, tuple[Any, Path]] = {}
    lost: dict[str, tuple[Any, Path]] = {}
    for one, file in zip(saved, files, strict=True):
        for entry in one["benchmarks"]:
            _put(benchmarks, str(entry.get("fullname")), entry, file)
        for record in one.get("bench", {}).get("cases", []):
            _put(lost, str(record.get("id")), record, file)
    known = {entry.get("extra_info", {}).get("id") for entry, _ in benchmarks.values()}
    whole["benchmarks"] = [entry for entry, _ in benchmarks.values()]
    whole["bench"] = {"schema": 1, "cases": [record for name, (record, _) in lost.items() if name not in known]}
    whole["datetime"] = min(str(one.get("datetime")) for one in saved)
    return whole


def _put(place: dict[str, tuple[Any, Path]], name: str, entry: Any, file: Path) -> None:
    if name in place and place[name][0] != entry:
        raise MergeError(
            f"{name} is in {place[name][1]} and, with other figures, in {file}; take it out of one of them"
        )
    place[name] = (entry, file)
