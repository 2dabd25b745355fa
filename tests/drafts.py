"""Runs whose records are plain dicts, as on disk, so that a test can change what it likes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.machine.facts import Machine
from bench.records.json_values import tolerant
from bench.records.runs import Run, read, record_of
from bench.spec.outcome import Calls


@dataclass
class Draft:
    """A run in the making."""

    records: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=dict)
    when: str | None = None
    commit: str | None = None
    name: str = "this run"

    @classmethod
    def of(cls, path) -> Draft:
        """The run of a file."""
        run = read(path)
        records = [one.facts() | {"calls": None if one.calls is None else asdict(one.calls)} for one in run.records]
        return cls(records, asdict(run.machine), run.when, run.commit, run.name)

    def run(self) -> Run:
        """The run as it would be read."""
        records = []
        for told in json.loads(json.dumps(self.records)):
            record = record_of(told)
            calls = told.get("calls")
            records.append(replace(record, calls=Calls(**calls)) if calls else record)
        machine = tolerant(Machine, json.loads(json.dumps(self.machine))) if self.machine else Machine()
        return Run(records, machine, self.when, self.commit, self.name)
