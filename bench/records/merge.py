"""Shards of one run, saved apart, put together again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import MergeError
from bench.records.runs import Told, read, saved


def merged(files: Sequence[Path]) -> Told:
    """One saved run, as pytest-benchmark writes them, with all that the files hold.

    They must be of one machine, commit and set of versions. A case that two of them hold is taken once where it was
    unsupported or failed in one and measured in the other, or is the very same. Raises MergeError, naming what
    conflicts, and RunFileError for a file that is no saved run.
    """
    runs = [read(file) for file in files]
    for name, tell in (
        ("machines", lambda run: run.fingerprint),
        ("commits", lambda run: run.commit),
        ("versions", lambda run: json.dumps(run.machine.versions, sort_keys=True)),
    ):
        told = {tell(run): file for run, file in zip(runs, files, strict=True)}
        if len(told) > 1:
            raise MergeError(
                f"no shards of one run: other {name} in {' and '.join(map(str, told.values()))}; compare them instead"
            )
    contents = [saved(file) for file in files]
    whole = dict(contents[0])
    benchmarks: dict[str, tuple[Any, Path]] = {}
    lost: dict[str, tuple[Any, Path]] = {}
    for content, file in zip(contents, files, strict=True):
        for entry in content["benchmarks"]:
            _put(benchmarks, str(entry.get("fullname", entry.get("name"))), entry, file)
        for record in content["bench"]["cases"]:
            _put(lost, " in ".join(map(str, filter(None, _case(record)))), record, file)
    measured = [_case(entry.get("extra_info")) for entry, _ in benchmarks.values()]
    ids = [name for name, _ in measured]
    whole["benchmarks"] = [entry for entry, _ in benchmarks.values()]
    whole["bench"] = contents[0]["bench"] | {
        "cases": [
            record
            for record, _ in lost.values()
            if not (_case(record) in measured or (_case(record)[1] is None and _case(record)[0] in ids))
        ]
    }
    times = [when for content in contents if isinstance(when := content.get("datetime"), str)]
    return whole | ({"datetime": min(times)} if times else {})


def _case(record: Any) -> tuple[Any, Any]:
    """The id of a record's case and the test that it is of, as saved; None where it tells none."""
    told = record if isinstance(record, dict) else {}
    return told.get("id"), told.get("test")


def _put(place: dict[str, tuple[Any, Path]], name: str, entry: Any, file: Path) -> None:
    if name in place and place[name][0] != entry:
        raise MergeError(
            f"{name} is in {place[name][1]} and, with other figures, in {file}; take it out of one of them"
        )
    place[name] = (entry, file)
