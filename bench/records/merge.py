"""Merge shards of a run that were saved apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import MergeError
from bench.records.runs import Told, read, saved


def merged(files: Sequence[Path]) -> Told:
    """The contents of all files as a single saved run in pytest-benchmark's format.

    The files must share machine, commit and versions. A case that two files hold is taken once if both entries are
    equal, or if a file measured it and it was unsupported or failed in the other. Raises MergeError, naming what
    conflicts, and RunFileError for a file that is no saved run.
    """
    runs = [read(file) for file in files]
    for name, value_of in (
        ("machines", lambda run: run.fingerprint),
        ("commits", lambda run: run.commit),
        ("versions", lambda run: json.dumps(run.machine.versions, sort_keys=True)),
    ):
        sides = {value_of(run): file for run, file in zip(runs, files, strict=True)}
        if len(sides) > 1:
            raise MergeError(
                f"no shards of one run: other {name} in {' and '.join(map(str, sides.values()))}; compare them instead"
            )
    contents = [saved(file) for file in files]
    whole = dict(contents[0])
    benchmarks: dict[str, tuple[Any, Path]] = {}
    unmeasured: dict[str, tuple[Any, Path]] = {}
    for content, file in zip(contents, files, strict=True):
        for entry in content["benchmarks"]:
            _put(benchmarks, str(entry.get("fullname", entry.get("name"))), entry, file)
        for record in content["bench"]["cases"]:
            _put(unmeasured, " in ".join(map(str, filter(None, _case(record)))), record, file)
    measured = [_case(entry.get("extra_info")) for entry, _ in benchmarks.values()]
    ids = [name for name, _ in measured]
    whole["benchmarks"] = [entry for entry, _ in benchmarks.values()]
    whole["bench"] = contents[0]["bench"] | {
        "cases": [
            record
            for record, _ in unmeasured.values()
            if not (_case(record) in measured or (_case(record)[1] is None and _case(record)[0] in ids))
        ]
    }
    times = [when for content in contents if isinstance(when := content.get("datetime"), str)]
    return whole | ({"datetime": min(times)} if times else {})


def _case(record: Any) -> tuple[Any, Any]:
    """The ids of a saved record's case and test; None for what it lacks."""
    fields = record if isinstance(record, dict) else {}
    return fields.get("id"), fields.get("test")


def _put(entries: dict[str, tuple[Any, Path]], name: str, entry: Any, file: Path) -> None:
    if name in entries and entries[name][0] != entry:
        raise MergeError(
            f"{name} is in {entries[name][1]} and, with other figures, in {file}; take it out of one of them"
        )
    entries[name] = (entry, file)
