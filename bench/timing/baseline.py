"""The baseline's processes, which cases share, the control probes, and another environment's interpreter for them."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.engines import engines
from bench.errors import BaselineError, BenchError, BenchWarning, WorkerError
from bench.machine.facts import LIBRARIES, cores_for
from bench.machine.interpreter import Interpreter
from bench.machine.pace import Pace
from bench.machine.probes import Peak
from bench.spec.case import Case
from bench.timing.bench import Bench, unsupported
from bench.timing.builder import BUSY, built_by, worker_for
from bench.timing.handle import Worker
from bench.timing.protocol import AskInstalled, Built, MeasurePeaks, Probe
from bench.timing.sampling import Slice
from bench.timing.session import Session, compiled, open_all


class Shared:
    """What the cases of a session share: the sessions of their baseline, one for each launch, and the control probes.

    Each baseline session is a process of its own, so what differs from process to process is in every case's interval;
    that the cases share them saves starting them anew. Another baseline's sessions take their place. All are suspended
    but for their turns. Use it as a context manager.

    pace  the best that the probes have kept up on this machine.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._probes: dict[int, Worker] = {}
        self._peakless: set[int] = set()
        self.pace = Pace(bench.cache)
        self._case: Case | None = None
        self._built: Built | None = None
        self._sessions: list[Session] = []
        self._start_s = 0.0

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self.drop()
        while self._probes:
            self._probes.popitem()[1].close()

    def drop(self) -> None:
        """End the baseline's processes."""
        while self._sessions:
            self._sessions.pop().close()
        self._case = None

    def mend(self) -> None:
        """End the baseline's processes where one of them has died since the last case, so that it is begun anew: within
        a case a launch keeps its processes.
        """
        if not all(session.alive for session in self._sessions):
            self.drop()

    def probe(self, threads: int) -> dict[str, float]:
        """Probe the machine on the cores of a case of so many threads."""
        try:
            return self._probed(threads)
        except BenchError:  # something ended it between two cases, which is not the next one's failure
            return self._probed(threads)

    def _probed(self, threads: int) -> dict[str, float]:
        if threads not in self._probes:
            self._probes[threads] = Worker({"OMP_NUM_THREADS": str(threads)}, [])
        worker = self._probes[threads]
        try:
            figures = worker.ask(Probe(threads, cores_for(threads)), self._bench.timeout_s)
        except BenchError:
            del self._probes[threads]
            worker.close()
            raise
        worker.suspend()
        return figures

    def peak(self, threads: int, number_format: str, gops: float) -> Peak | None:
        """The best pace in a number format that products and convolutions have reached on the cores of a case of so
        many threads, None where nothing measures it. Measured once, and again where a case was faster; what cannot be
        measured is told by a BenchWarning, and not tried again.
        """
        known = self.pace.peaks(threads)
        wanted = not known or (number_format in known and known[number_format].gops < gops)
        if wanted and threads not in self._peakless:
            try:
                with Worker({"OMP_NUM_THREADS": str(threads)}, []) as worker:
                    found = worker.ask(MeasurePeaks(threads, cores_for(threads)), self._bench.timeout_s, BUSY)
                known = self.pace.raise_peaks(threads, found)
            except WorkerError as error:
                self._peakless.add(threads)
                warnings.warn(f"the peak of {threads} threads is not measured: {error}", BenchWarning, stacklevel=2)
        return known.get(number_format)

    def start_s(self, count: int) -> float:
        """What starting the baseline's session for the `count`th launch would take; 0 where it is there."""
        return 0.0 if count <= len(self._sessions) else self._start_s

    def sessions(self, case: Case, count: int) -> list[Baseline]:
        """The sessions of the first `count` launches; BaselineError where the baseline cannot be measured."""
        try:
            if case != self._case:
                self.drop()
                reason = unsupported(case, self._bench.data)
                if reason is not None:
                    raise BaselineError(f"unsupported: {reason}")
                built = built_by(case, self._bench, self._python)
                kept = compiled(case, self._bench, built, self._python)
                self._built = built if kept is None else replace(built, compiled=kept.folder)
                self._case = case
            assert self._built is not None
            lacking = range(len(self._sessions), count)
            added = [Session(case, self._bench, self._built, self._python) for _ in lacking]
            self._sessions += added
            began = time.monotonic()
            open_all(added)
            self._start_s = (time.monotonic() - began) / len(added) if added else self._start_s
        except BenchError as error:
            self.drop()
            raise BaselineError(str(error)) from error
        return [Baseline(self, session) for session in self._sessions[:count]]

    @property
    def _python(self) -> str:
        return self._bench.baseline_python or sys.executable


@dataclass(frozen=True)
class Baseline:
    """One of the shared sessions in a launch; what goes wrong with it is not the case's failure."""

    shared: Shared
    session: Session

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds; a BaselineError where it breaks."""
        try:
            return self.session.take(seconds)
        except BenchError as error:
            self.shared.drop()
            raise BaselineError(str(error)) from error


def examined(python: str, baselines: Iterable[Case], bench: Bench) -> Interpreter:
    """Look at the interpreter that shall run these baselines.

    Raises BaselineError where it cannot run the harness, or is of another environment but finds a baseline's engine in
    this one, as it does where PYTHONPATH names this one's folder: the comparison would be of one version with itself.
    """
    cases = list(baselines)
    packages = sorted({*LIBRARIES, *(package for case in cases for package in engines.get(case.engine).packages)})
    here = Interpreter.here(packages)
    try:
        with worker_for(cases[0], bench, 1, python=python) as worker:
            there = worker.ask(AskInstalled(tuple(packages)), bench.timeout_s)
    except (OSError, BenchError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BaselineError(f"the baseline's interpreter {python} cannot run the harness: {reason}") from error
    if there.prefix == here.prefix:
        return there
    for name in dict.fromkeys(case.engine for case in cases):
        found = [package for package in engines.get(name).packages if package in there.places]
        if found and all(there.places[package] == here.places.get(package) for package in found):
            raise BaselineError(
                f"the baseline's interpreter {python} finds {', '.join(found)} of the engine {name} in this "
                f"environment, {there.places[found[0]]}: this would compare it with itself; install them there, or "
                "clear PYTHONPATH"
            )
    return there
