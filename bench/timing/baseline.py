"""What cases share: the baseline's processes, the control probes, and the check of the baseline's interpreter."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench.engines import engines
from bench.errors import BaselineError, BenchError, BenchWarning, WorkerError
from bench.machine.facts import LIBRARIES, cores_for
from bench.machine.interpreter import Interpreter
from bench.machine.pace import Pace
from bench.machine.probes import Peak
from bench.spec.case import Case
from bench.timing.builder import BUSY, built_by, worker_for
from bench.timing.protocol import AskInstalled, Built, MeasurePeaks, Probe
from bench.timing.sampling import Slice
from bench.timing.session import WorkerSession, compiled
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported
from bench.timing.worker import Worker


class Shared:
    """What the cases of a session share: the baseline's sessions, one for each launch, and the control probes.

    Each baseline session is a process, so every case's interval includes the differences between processes. Sharing
    them saves restarts. A case with another baseline replaces them. Each is suspended except in its turn. Use it as a
    context manager.

    pace  the best figures that the probes have sustained on this machine.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._probes: dict[int, Worker] = {}
        self._peakless: set[int] = set()
        self.pace = Pace(bench.cache)
        self._case: Case | None = None
        self._built: Built | None = None
        self._sessions: list[WorkerSession] = []

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
        """End the baseline's processes if any has died since the last case; the next case starts new ones.

        Called between cases alone: within a case a launch keeps its processes.
        """
        if not all(session.alive for session in self._sessions):
            self.drop()

    def probe(self, threads: int) -> dict[str, float]:
        """Run the control probes on the cores of a case with `threads` threads; their figures by name."""
        try:
            return self._probed(threads)
        except BenchError:  # the worker died between two cases: not the next case's failure, so try again
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
        """The best pace of products and convolutions in a number format, on the cores of a case with `threads` threads.

        None where nothing measures it. It is measured once, and again where a case reached more than that, `gops`. A
        failed measurement gives a BenchWarning and is not repeated.
        """
        peaks = self.pace.peaks(threads)
        wanted = not peaks or (number_format in peaks and peaks[number_format].gops < gops)
        if wanted and threads not in self._peakless:
            try:
                with Worker({"OMP_NUM_THREADS": str(threads)}, []) as worker:
                    measured = worker.ask(MeasurePeaks(threads, cores_for(threads)), self._bench.timeout_s, BUSY)
                peaks = self.pace.raise_peaks(threads, measured)
            except WorkerError as error:
                self._peakless.add(threads)
                warnings.warn(f"the peak of {threads} threads is not measured: {error}", BenchWarning, stacklevel=2)
        return peaks.get(number_format)

    def has(self, count: int) -> bool:
        """Whether there are the baseline's sessions of `count` launches."""
        return count <= len(self._sessions)

    def sessions(self, case: Case, count: int) -> list[Baseline]:
        """The baseline's sessions of the first `count` launches, new ones yet to be opened.

        Raises BaselineError where it cannot be measured.
        """
        try:
            if case != self._case:
                self.drop()
                reason = unsupported(case, self._bench)
                if reason is not None:
                    raise BaselineError(f"unsupported: {reason}")
                built = built_by(case, self._bench, self._python)
                kept = compiled(case, self._bench, built, self._python)
                self._built = built if kept is None else replace(built, compiled=kept.folder)
                self._case = case
            assert self._built is not None
            lacking = range(len(self._sessions), count)
            self._sessions += [WorkerSession(case, self._bench, self._built, self._python) for _ in lacking]
        except BenchError as error:
            self.drop()
            raise BaselineError(str(error)) from error
        return [Baseline(self, session) for session in self._sessions[:count]]

    @property
    def _python(self) -> str:
        return self._bench.baseline_python or sys.executable


@dataclass(frozen=True)
class Baseline:
    """A shared session in a launch. Its errors are BaselineErrors: they do not fail the case."""

    shared: Shared
    session: WorkerSession

    @property
    def is_open(self) -> bool:
        """Whether the session has been opened."""
        return self.session.is_open

    def open(self) -> None:
        """Open the session. Raises BaselineError where it breaks."""
        with self._failing():
            self.session.open()

    def take(self, seconds: float) -> Slice:
        """Let the session call for so many seconds. Raises BaselineError where it breaks."""
        with self._failing():
            return self.session.take(seconds)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BenchError as error:
            self.shared.drop()
            raise BaselineError(str(error)) from error


def examined(python: str, baselines: Iterable[Case], bench: Bench) -> Interpreter:
    """The facts of the interpreter that will run these baselines.

    Raises BaselineError where it cannot run the harness, or where it is of another environment but imports a baseline's
    engine from this one, as with PYTHONPATH set to this one's folder: a version would be compared with itself.
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
        installed = [package for package in engines.get(name).packages if package in there.places]
        if installed and all(there.places[package] == here.places.get(package) for package in installed):
            raise BaselineError(
                f"the baseline's interpreter {python} finds {', '.join(installed)} of the engine {name} in this "
                f"environment, {there.places[installed[0]]}: this would compare it with itself; install them there, or "
                "clear PYTHONPATH"
            )
    return there
