"""The processes that a case is measured in, as the harness holds them: sessions of the case, and what cases share."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.build import artefact as build
from bench.engines import engines
from bench.errors import BaselineError, BenchError, BenchWarning, CacheError, DataError, LackingData, WorkerError
from bench.machine.facts import LIBRARIES, cores_for, describe
from bench.machine.interpreter import Interpreter
from bench.machine.noise import Pace, Peak
from bench.spec.case import BASELINE, Case
from bench.spec.dataset import datasets
from bench.spec.model import models, source
from bench.spec.recipe import Recipe, recipes
from bench.spec.registry import Origin
from bench.store import Artifact, Store, key, refusals
from bench.tasks import tasks
from bench.timing.sampling import Plan, Slice
from bench.timing.worker import Worker

BUSY = 30  # how many times the limit a build may compute without telling how far it is: an hour, unless told otherwise
JUDGING = 10


@dataclass(frozen=True)
class Bench:
    """Where a session measures: the cache and data folders, how long to sample, when to give a worker up.

    cache            root of the artefact store.
    data             the user's data folder, None for embedded data.
    timeout_s        the longest that one question to a worker may take; building and judging may take as long as they
                     tell their progress so often, or use the CPU, that for up to BUSY and JUDGING times as long.
    baseline_python  the interpreter of the baselines' workers, None for this one.
    memory_bytes     the most private memory a worker may have, None for no limit.
    most_drop        the most that quality may fall in a precision that leaves layers in FP32 to keep to it; None: as
                     the precision states.
    explain          whether to tell what each case executed.
    pictures         the folder that strips of pictures are written to, None for none.
    failures         what could not be built in this session, by interpreter and what it was for, with the reason.
    """

    cache: Path
    data: Path | None = None
    plan: Plan = field(default_factory=Plan)
    timeout_s: float = 120.0
    baseline_python: str | None = None
    memory_bytes: int | None = None
    most_drop: float | None = None
    explain: bool = False
    pictures: Path | None = None
    failures: dict[tuple[str, ...], BenchError] = field(default_factory=dict, compare=False, repr=False)

    @property
    def store(self) -> Store:
        """The artefact store of the session."""
        return Store(self.cache)


def unsupported(case: Case, data: Path | None) -> str | None:
    """Give the reason why the case cannot be measured on this machine, with this folder of data, None where it can."""
    engine, recipe, model = engines.get(case.engine), recipes.get(case.precision), models.get(case.model)
    if recipe.part is not None and recipe.part not in model.parts:
        return f"{model.name} names no part {recipe.part!r}; it has: {', '.join(model.parts) or 'none'}"
    try:
        source(model, data)
    except LackingData as error:
        return str(error)
    return engine.missing() or engine.supports(recipe, case.device) or _not_stated(case.engine, recipe)


def _not_stated(name: str, recipe: Recipe) -> str | None:
    """The reason why the numbers that a recipe asks for are not among those that the engine states, None where they
    are. What it does not state it has not, lest a new recipe is lowered to another's numbers.
    """
    engine = engines.get(name)
    if recipe.number_format not in engine.formats:
        return f"{name} computes in {', '.join(engine.formats)} here, not in {recipe.number_format}"
    if recipe.number_format != "int8":
        stated = recipe.activations is not None or recipe.bits != 8
        return f"activations and bits are of int8 alone, {recipe.name} is {recipe.number_format}" if stated else None
    if recipe.activations not in engine.activations:
        there = " or ".join(engine.activations) or "no"
        return f"{name} has {there} scales of activations in int8 here, not {recipe.activations}"
    if recipe.bits not in engine.widths:
        return f"{name} holds whole numbers to {', '.join(map(str, engine.widths))} bits here, not to {recipe.bits}"
    return None


def find(case: Case, bench: Bench) -> tuple[Artifact, Artifact] | None:
    """The case's artefact and the reference outputs it is judged by, None where either is yet to be built."""
    chosen = source(models.get(case.model), bench.data)
    reference = build.reference(bench.store, chosen, make=False)
    if reference is None:
        return None
    artifact = build.artifact(bench.store, chosen, case.engine, case.precision, bench.most_drop, make=False)
    return None if artifact is None else (artifact, reference)


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
        self._built: dict[str, str] = {}
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
            figures: dict[str, float] = worker.ask(
                "probe", self._bench.timeout_s, threads=threads, cores=cores_for(threads)
            )
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
                    found = worker.ask("peak", self._bench.timeout_s, BUSY, threads=threads, cores=cores_for(threads))
                known = self.pace.raise_peaks(threads, {name: Peak(**one) for name, one in found.items()})
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
                self._built = built_by(case, self._bench, self._python)
                kept = compiled(case, self._bench, self._built, self._python)
                self._built |= {"compiled": kept["folder"]} if kept else {}
                self._case = case
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


def folders_of(artifact: Artifact, reference: Artifact) -> dict[str, str]:
    """What a session is opened on, as its worker is told."""
    return {"artifact": str(artifact.folder), "reference": str(reference.folder)}


def built_by(case: Case, bench: Bench, python: str = sys.executable) -> dict[str, str]:
    """The folders of the case's `artifact` and `reference` as this interpreter's libraries make them."""
    if python == sys.executable and (built := find(case, bench)) is not None:
        return folders_of(*built)
    with Builder(bench, python=python) as builder:
        return builder.build(case)


class Builder:
    """Builds what cases need in worker processes, one at a time, each with the environment of the engines it builds
    for; use it as a context manager.

    Reference outputs are PyTorch's, and are made in its environment, not in that of the engine that needs them first.
    What failed once is not tried again in the session: `bench.failures` keeps it, and it is raised once more.

    told  gets (label, done, total) as the work goes on.
    """

    def __init__(
        self, bench: Bench, told: Callable[[str, int, int], None] | None = None, python: str = sys.executable
    ) -> None:
        self._bench, self._told, self._python = bench, told, python
        self._worker: Worker | None = None
        self._environment: dict[str, str] = {}
        self._referred: set[str] = set()

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def refer(self, case: Case) -> None:
        """Make the reference outputs of the case's model, with the weights they need."""
        if case.model in self._referred:
            return
        chosen = source(models.get(case.model), self._bench.data)
        here = self._python == sys.executable
        if not here or build.reference(self._bench.store, chosen, make=False) is None:
            self._ask("refer", replace(case, **BASELINE), (case.model,))
        self._referred.add(case.model)

    def build(self, case: Case) -> dict[str, str]:
        """Make all that the case needs; give the folders of its `artifact` and `reference`."""
        self.refer(case)
        folders: dict[str, str] = self._ask("build", case, (case.model, case.engine, case.precision))
        return folders

    def _ask(self, question: str, case: Case, about: tuple[str, ...]) -> Any:
        failures, known = self._bench.failures, (self._python, *about)
        if known in failures:
            raise type(failures[known])(str(failures[known]))
        try:
            worker = self._worker_for(case)
            return worker.ask(question, self._bench.timeout_s, BUSY, **facts_of(case, self._bench))
        except BenchError as error:
            if not isinstance(error, DataError):  # whose files were refused: what broke in it may break what follows
                self.close()
            if not isinstance(error, CacheError):  # of a cache the user can make room in
                failures[known] = error
            raise

    def _worker_for(self, case: Case) -> Worker:
        environment = engines.get(case.engine).environment(os.cpu_count() or 1)
        if self._worker is not None and environment != self._environment:
            self.close()
        if self._worker is None:
            self._worker = worker_for(case, self._bench, os.cpu_count() or 1, self._told, self._python)
            self._environment = environment
        return self._worker


def origins() -> list[Origin]:
    """The files that registered members, which a worker imports to know them, in the order in which they did."""
    order: dict[Origin, int] = {}
    for registry in (models, datasets, recipes, engines, tasks):
        for origin, place in registry.order().items():
            order[origin] = min(place, order.get(origin, place))
    return sorted(order, key=lambda origin: order[origin])


def facts_of(case: Case, bench: Bench) -> dict[str, Any]:
    """What a worker is told with every question."""
    return {
        "case": case.axes(),
        "cache": str(bench.cache),
        "data": None if bench.data is None else str(bench.data),
        "most_drop": bench.most_drop,
    }


def worker_for(
    case: Case,
    bench: Bench,
    threads: int,
    told: Callable[[str, int, int], None] | None = None,
    python: str = sys.executable,
    compiled: str | None = None,
) -> Worker:
    """A fresh worker with the environment that the case's engine wants for so many threads, and for the folder of what
    it compiles.
    """
    engine = engines.get(case.engine)
    kept = {engine.compiled: compiled} if engine.compiled is not None and compiled is not None else {}
    return Worker(engine.environment(threads) | kept, origins(), told, python, bench.memory_bytes)


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
            there = Interpreter(**worker.ask("installed", bench.timeout_s, packages=packages))
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
