"""The settings that a session of the harness measures with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.build.bill import Bill
from bench.build.network_files import GivenFile
from bench.errors import BenchError
from bench.spec.case import Case
from bench.spec.limits import NO_LIMITS, Limits
from bench.spec.model import models, source
from bench.store import Store
from bench.timing.sampling import Plan


@dataclass(frozen=True)
class Bench:
    """A session's settings: the cache and data folders, how long to sample, when to give a worker up.

    cache            root of the artefact store.
    data             the user's data folder, None for embedded data.
    plan             how long and how often to sample.
    timeout_s        the longest that a worker may take for a question, in seconds. Building and judging may take longer
                     while they report progress this often; on CPU use alone, up to BUSY and JUDGING times as long.
    baseline_python  the interpreter of the baselines' workers, None for this process's.
    memory_bytes     a worker's limit of private memory, None for no limit.
    limits           what replaces the limits of precisions that search within some.
    device_index     which of the devices of a kind: the first is 0.
    explain          whether to record what each case executed.
    pictures         the folder for strips of pictures, None for none.
    files            the network files that are models of this session, by model.
    bills            the Bill of each model that was looked up in this session.
    failures         the error of each build that failed in this session, by interpreter, model, engine and precision.
    """

    cache: Path
    data: Path | None = None
    plan: Plan = field(default_factory=Plan)
    timeout_s: float = 120.0
    baseline_python: str | None = None
    memory_bytes: int | None = None
    limits: Limits = NO_LIMITS
    device_index: int = 0
    explain: bool = False
    pictures: Path | None = None
    files: dict[str, GivenFile] = field(default_factory=dict, compare=False, repr=False)
    bills: dict[str, Bill] = field(default_factory=dict, compare=False, repr=False)
    failures: dict[tuple[str, ...], BenchError] = field(default_factory=dict, compare=False, repr=False)

    @property
    def store(self) -> Store:
        """The artefact store of the session."""
        return Store(self.cache)

    def bill(self, case: Case) -> Bill:
        """What the store has of a case's model; it builds nothing. Raises LackingData and DataError."""
        given = source(models.get(case.model), self.data)
        if case.model not in self.bills or self.bills[case.model].source != given:
            self.bills[case.model] = Bill(self.store, given, build=False, limits=self.limits)
        return self.bills[case.model]
