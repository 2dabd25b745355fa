"""What is finished is on disk before the next case begins: one line of JSON for each measured test."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from bench.records.record import Record
from bench.store import Facts, key
from bench.typed import of_type, to_json


@dataclass(frozen=True)
class Line:
    """A finished test, by pytest's name for it, and when (ISO 8601, UTC); or the end of a run."""

    node: str = ""
    at: str = ""
    record: Record | None = None
    end: bool = False


END = Line(end=True)


class Journal:
    """The journals of runs that are alike: below `<root>/<key of made_from>/`, one file a run.

    made_from  what must be equal for a finished case to be taken over: code, machine, versions, options; plain JSON.
    """

    def __init__(self, root: Path, made_from: Facts) -> None:
        self.folder = root / key(made_from)
        self.path = self.folder / f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}-{os.getpid()}.jsonl"

    def write(self, node: str, record: Record) -> None:
        """Add a finished test, by pytest's name for it, and have it on disk."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._add(Line(node, now, record), self.path)

    def finished(self) -> dict[str, Record]:
        """The measured tests of those runs of this kind that did not come to their end, the newest of each; `resumed`
        tells when it was measured.
        """
        records: dict[str, Record] = {}
        for path in self._interrupted():
            for line in read(path):
                if line.record is not None and line.record.status == "ok":
                    records[line.node] = replace(line.record, resumed=line.record.resumed or {"from": line.at})
        return records

    def end(self) -> None:
        """Mark this run as ended, and those of which it has every case: nothing of them is left to take over."""
        own = {line.node for line in read(self.path)} if self.path.is_file() else set()
        for path in self._interrupted():
            if {line.node for line in read(path)} <= own:
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
    """The whole lines of a journal; the last of a run that was killed while it wrote is none."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(of_type(Line, json.loads(text)))
        except ValueError:
            break
    return lines
