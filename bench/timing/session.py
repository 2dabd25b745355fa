"""The processes that a case is measured in, as the harness holds them: sessions of the case, and what cases share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import engines
from bench.machine.facts import cores_for, describe
from bench.spec.case import Case
from bench.store import key, refusals
from bench.timing.bench import Bench
from bench.timing.builder import BUSY, facts_of, worker_for
from bench.timing.sampling import Slice

JUDGING = 10


@dataclass
class Energy:
    """Adds up what a case's timed calls used, where the system tells."""

    joules: float = 0.0
    calls: int = 0

    def add(self, taken: Slice) -> None:
        """Count one slice; one in which the counter wrapped around, or which has none, is left out."""
        if taken.energy_j is not None and taken.energy_j >= 0:
            self.joules += taken.energy_j
            self.calls += taken.calls

    @property
    def per_call_j(self) -> float | None:
        """Joules a call, None where nothing could be read."""
        return self.joules / self.calls if self.calls else None


class Session:
    """A worker with an engine session, once it is open suspended but for its turns; a Side of `paired`.

    built  the folders of the case's `artifact` and `reference`, and of what its engine compiles, `compiled`, where it
           keeps that.
    """

    def __init__(self, case: Case, bench: Bench, built: dict[str, str], python: str = sys.executable) -> None:
        self.case, self._bench = case, bench
        self._facts = facts_of(case, bench) | built
        self._worker = worker_for(case, bench, case.threads, python=python, compiled=built.get("compiled"))
        self.opened: dict[str, Any] = {}

    def open(self) -> None:
        """Load, call until it is steady, and stand by; an engine that compiles may do so for as long as a build."""
        busy = 1 if engines.get(self.case.engine).compiled is None else BUSY
        self.opened = self.ask("open", busy, cores=cores_for(self.case.threads))
        self._worker.suspend()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds, while all other sessions are suspended."""
        taken = Slice(**self.ask("slice", seconds=seconds))
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

    def ask(self, question: str, busy: int = 1, **facts: Any) -> Any:
        """Ask the worker, which may use the CPU for so many times the usual limit; it goes on after the answer."""
        return self._worker.ask(question, self._bench.timeout_s, busy, **facts, **self._facts)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


def compiled(case: Case, bench: Bench, built: dict[str, str], python: str = sys.executable) -> dict[str, Any]:
    """Where a case's engine keeps what it compiles at the first call, and how long that call took when nothing was
    kept: `folder`, `seconds`; empty where it keeps nothing. Filled now where it is not: the session that compiles is
    not the one that is timed.
    """
    from filelock import FileLock

    if engines.get(case.engine).compiled is None:
        return {}
    of = [case.id, Path(built["artifact"]).name, python, describe()["fingerprint"]]
    folder = bench.cache / "compiled" / key({"of": of})
    told = folder / "first_call.json"
    with refusals(bench.cache):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with refusals(bench.cache, FileLock(f"{folder}.lock")):
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a session left that was killed while it compiled
            folder.mkdir()
            with Session(case, bench, built | {"compiled": str(folder)}, python) as session:
                session.open()
            half = told.with_suffix(".half")
            half.write_text(json.dumps({"seconds": session.opened["first_call_s"]}))
            half.replace(told)
        seconds: float = json.loads(told.read_text())["seconds"]
    return {"folder": str(folder), "seconds": seconds}


@dataclass(frozen=True)
class Metered:
    """A side whose slices' energy is added up."""

    side: Session
    energy: Energy

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds."""
        taken = self.side.take(seconds)
        self.energy.add(taken)
        return taken


def open_all(sessions: list[Session]) -> None:
    """Open sessions side by side, as many as there are CPUs at a time; nothing is being measured meanwhile."""
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        for opened in [pool.submit(session.open) for session in sessions]:
            opened.result()
