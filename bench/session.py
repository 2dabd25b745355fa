"""The processes that a case is measured in, as the harness holds them: sessions of the case, and what cases share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import build
from bench.artifact import Artifact, Store
from bench.case import BASELINE, Case
from bench.dataset import datasets
from bench.engines import engines
from bench.errors import BaselineError, BenchError, CacheError, DataError, LackingData
from bench.machine import cores_for, energy_j
from bench.model import models, source
from bench.noise import Pace
from bench.recipe import recipes
from bench.registry import Origin
from bench.sampling import Plan, Slice
from bench.tasks import tasks
from bench.worker import Worker


@dataclass(frozen=True)
class Bench:
    """Where a session measures: the cache and data folders, how long to sample, when to give a worker up.

    cache            root of the artefact store.
    data             the user's data folder, None for embedded data.
    timeout_s        the longest that one question to a worker may take; building and judging have ten times
                     as long.
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
    if recipe.number_format == "int8" and recipe.bits not in engine.widths:
        widths = ", ".join(map(str, engine.widths))
        return f"{case.engine} holds whole numbers to {widths} bits here, not to {recipe.bits}"
    try:
        source(model, data)
    except LackingData as error:
        return str(error)
    return engine.missing() or engine.supports(recipe, case.device)


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
    """Adds up what a case's slices used, where the system tells."""

    joules: float = 0.0
    calls: int = 0

    def add(self, before_j: float | None, after_j: float | None, calls: int) -> None:
        """Count one slice; one in which the counter wrapped around, or which has none, is left out."""
        if before_j is not None and after_j is not None and after_j >= before_j:
            self.joules += after_j - before_j
            self.calls += calls

    @property
    def per_call_j(self) -> float | None:
        """Joules a call, None where nothing could be read."""
        return self.joules / self.calls if self.calls else None


class Session:
    """A worker with an engine session, once it is open suspended but for its turns; a Side of `paired`."""

    def __init__(
        self,
        case: Case,
        bench: Bench,
        built: dict[str, str],
        python: str = sys.executable,
        energy: Energy | None = None,
    ) -> None:
        self._energy = energy
        self.case, self._bench = case, bench
        self._facts = facts_of(case, bench) | built
        self._worker = worker_for(case, bench, case.threads, python=python)
        self.opened: dict[str, Any] = {}

    def open(self) -> None:
        """Load, call until it is steady, and stand by."""
        self.opened = self.ask("open", cores=cores_for(self.case.threads))
        self._worker.suspend()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds, while all other sessions are suspended."""
        before = energy_j()
        taken = Slice(**self.ask("slice", seconds=seconds))
        if self._energy is not None:
            self._energy.add(before, energy_j(), taken.calls)
        self._worker.suspend()
        return taken

    @property
    def pid(self) -> int:
        """The worker's process number."""
        return self._worker.pid

    def ask(self, question: str, patience: int = 1, **facts: Any) -> Any:
        """Ask the worker, which may take so many times the usual limit; it goes on after the answer."""
        return self._worker.ask(question, patience * self._bench.timeout_s, **facts, **self._facts)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


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
        self._drop()
        while self._probes:
            self._probes.popitem()[1].close()

    def _drop(self) -> None:
        while self._sessions:
            self._sessions.pop().close()
        self._case = None

    def probe(self, threads: int) -> dict[str, float]:
        """Probe the machine on the cores of a case of so many threads."""
        if threads not in self._probes:
            self._probes[threads] = Worker({"OMP_NUM_THREADS": str(threads)}, [])
        figures: dict[str, float] = self._probes[threads].ask(
            "probe", self._bench.timeout_s, threads=threads, cores=cores_for(threads)
        )
        self._probes[threads].suspend()
        return figures

    def start_s(self, count: int) -> float:
        """What starting the baseline's session for the `count`th launch would take; 0 where it is there."""
        return 0.0 if count <= len(self._sessions) else self._start_s

    def sessions(self, case: Case, count: int) -> list[Baseline]:
        """The sessions of the first `count` launches; BaselineError where the baseline cannot be measured."""
        try:
            if case != self._case:
                self._drop()
                reason = unsupported(case, self._bench.data)
                if reason is not None:
                    raise BaselineError(f"unsupported: {reason}")
                self._built, self._case = built_by(case, self._bench, self._python), case
            lacking = range(len(self._sessions), count)
            added = [Session(case, self._bench, self._built, self._python) for _ in lacking]
            self._sessions += added
            began = time.monotonic()
            open_all(added)
            self._start_s = (time.monotonic() - began) / len(added) if added else self._start_s
        except BenchError as error:
            self._drop()
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
            self.shared.close()
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
            return self._worker_for(case).ask(question, 10 * self._bench.timeout_s, **facts_of(case, self._bench))
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
) -> Worker:
    """A fresh worker with the environment that the case's engine wants for so many threads."""
    environment = engines.get(case.engine).environment(threads)
    return Worker(
        environment | {"TORCHINDUCTOR_CACHE_DIR": str(bench.cache / "inductor")},
        origins(),
        told,
        python,
        bench.memory_bytes,
    )
