"""The processes that measure a case, as the harness holds them, their energy, and what an engine compiles."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench.engines import engines
from bench.errors import refusals
from bench.machine.facts import cores_for, describe
from bench.spec.case import Case
from bench.store import key
from bench.timing.builder import BUSY, target_of, worker_for
from bench.timing.protocol import Answer, Built, Open, Opened, Question, TakeSlice
from bench.timing.sampling import Slice
from bench.timing.settings import Bench

JUDGING = 10  # how many times `timeout_s` judging may compute without reporting progress


@dataclass
class Energy:
    """Adds up the energy of a case's timed calls, where the system reports it."""

    joules: float = 0.0
    calls: int = 0

    def add(self, taken: Slice) -> None:
        """Add a slice, unless it has no energy or the counter wrapped around in it."""
        if taken.energy_j is not None and taken.energy_j >= 0:
            self.joules += taken.energy_j
            self.calls += taken.calls

    @property
    def per_call_j(self) -> float | None:
        """Joules per call, None where nothing could be read."""
        return self.joules / self.calls if self.calls else None


class WorkerSession:
    """A worker with an engine session; a Side of `paired`. Once open, it is suspended except in its turns.

    built  the folders that it is opened on.
    """

    def __init__(self, case: Case, bench: Bench, built: Built, python: str = sys.executable) -> None:
        self.case, self._bench, self._built = case, bench, built
        self._worker = worker_for(case, bench, case.threads, python=python, compiled=built.compiled)
        self._opened: Opened | None = None

    def open(self) -> None:
        """Load, call until times are steady, and suspend; an engine may compile for as long as a build."""
        busy = 1 if engines.get(self.case.engine).compiled is None else BUSY
        asked = Open(target_of(self.case, self._bench), self._built, cores_for(self.case.threads))
        self._opened = self.ask(asked, busy)
        self._worker.suspend()

    @property
    def is_open(self) -> bool:
        """Whether it has been opened."""
        return self._opened is not None

    @property
    def opened(self) -> Opened:
        """The worker's answer to `open`, which must come first."""
        assert self._opened is not None
        return self._opened

    def __enter__(self) -> WorkerSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, seconds: float) -> Slice:
        """Let the session call for so many seconds, while all other sessions are suspended."""
        taken = self.ask(TakeSlice(seconds))
        self._worker.suspend()
        return taken

    @property
    def pid(self) -> int:
        """The worker's process number."""
        return self._worker.pid

    @property
    def alive(self) -> bool:
        """Whether the worker is still there."""
        return self._worker.alive

    def ask(self, question: Question[Answer], busy: int = 1) -> Answer:
        """Ask the worker. It may use the CPU for `busy` times the usual limit, and keeps running after the answer."""
        return self._worker.ask(question, self._bench.timeout_s, busy)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


@dataclass(frozen=True)
class Compiled:
    """The folder for what an engine compiles at the first call, and the seconds of that call with the folder empty."""

    folder: Path
    first_call_s: float


def compiled(case: Case, bench: Bench, built: Built, python: str = sys.executable) -> Compiled | None:
    """What a case's engine keeps of what it compiles; None where it keeps nothing.

    An empty folder is filled now, by another session than those that are timed.
    """
    from filelock import FileLock

    if engines.get(case.engine).compiled is None:
        return None
    of = [case.id, built.artifact.name, python, describe().fingerprint]
    folder = bench.cache / "compiled" / key({"of": of})
    record = folder / "first_call.json"
    with refusals(bench.cache):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with refusals(bench.cache, FileLock(f"{folder}.lock")):
        if not record.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a session killed while it compiled leaves files
            folder.mkdir()
            with WorkerSession(case, bench, replace(built, compiled=folder), python) as session:
                session.open()
            half = record.with_suffix(".half")
            half.write_text(json.dumps({"seconds": session.opened.first_call_s}))
            half.replace(record)
        return Compiled(folder, json.loads(record.read_text())["seconds"])


@dataclass(frozen=True)
class Metered:
    """A session, as a Side, that adds the energy of its slices to `energy`."""

    side: WorkerSession
    energy: Energy

    def take(self, seconds: float) -> Slice:
        """Let the session call for so many seconds."""
        taken = self.side.take(seconds)
        self.energy.add(taken)
        return taken


class Openable(Protocol):
    """A session that can be opened once."""

    @property
    def is_open(self) -> bool:
        """Whether it has been opened."""
        ...

    def open(self) -> None:
        """Load, call until times are steady, and suspend."""
        ...


def open_all(sessions: Sequence[Openable]) -> None:
    """Open sessions in parallel, at most one for each CPU at a time; nothing is measured meanwhile."""
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        for opened in [pool.submit(session.open) for session in sessions]:
            opened.result()
