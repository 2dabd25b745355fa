"""The journal: each finished test is a line of JSON on disk before the next case begins."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from bench.records.record import Record
from bench.spec.typed import of_type, to_json
from bench.store import Facts, key


@dataclass(frozen=True)
class Line:
    """A finished test: its pytest node id, when it ended (ISO 8601, UTC), its record. Or the end of a run."""

    node: str = ""
    at: str = ""
    record: Record | None = None
    end: bool = False


END = Line(end=True)


class Journal:
    """The journals of runs of the same kind: below `<root>/<key of made_from>/`, a file for each run.

    made_from  what must be equal for a finished case to be taken over: code, machine, versions, options; plain JSON.
    """

    def __init__(self, root: Path, made_from: Facts) -> None:
        self.folder = root / key(made_from)
        self.path = self.folder / f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}-{os.getpid()}.jsonl"

    def write(self, node: str, record: Record) -> None:
        """Add a finished test by its pytest node id, and sync it to disk."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._add(Line(node, now, record), self.path)

    def finished(self) -> dict[str, Record]:
        """Node id -> the newest record of each test that interrupted runs of this kind measured.

        `resumed` says when it was measured.
        """
        records: dict[str, Record] = {}
        for path in self._interrupted():
            for line in read(path):
                if line.record is not None and line.record.status == "ok":
                    records[line.node] = replace(line.record, resumed=line.record.resumed or {"from": line.at})
        return records

    def end(self) -> None:
        """Mark this run as ended, and each interrupted run of which it has every case: nothing is left to take over."""
        finished = {line.node for line in read(self.path)} if self.path.is_file() else set()
        for path in self._interrupted():
            if {line.node for line in read(path)} <= finished:
                self._add(END, path)

    def _interrupted(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*.jsonl")) if END not in read(path)]

    def _add(self, line: Line, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> list[Line]:
    """The complete lines of a journal, up to the line that a killed run left incomplete, if any."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(of_type(Line, json.loads(text)))
        except ValueError:
            break
    return lines
