"""What cases need, built in worker processes before anything is timed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench.build.bill import NotBuilt
from bench.engines import engine_of, engines
from bench.errors import BenchError, CacheError, DataError
from bench.machine.devices import devices
from bench.spec.case import BASELINE, Case, baseline_of
from bench.spec.dataset import datasets
from bench.spec.model import models
from bench.spec.recipe import recipes
from bench.spec.registry import Origin
from bench.store import Artifact
from bench.tasks import tasks
from bench.timing.protocol import Answer, Build, Built, Question, Refer, Target
from bench.timing.settings import Bench
from bench.timing.worker import Worker

BUSY = 30  # how many times `timeout_s` a build may compute without reporting progress: an hour at the default of 120 s


def find(case: Case, bench: Bench) -> tuple[Artifact, Artifact] | None:
    """The case's artefact and its reference outputs; None where either is yet to be built."""
    bill = bench.bill(case)
    try:
        reference = bill.reference(case.precision)
        return bill.artefact(case.engine, case.precision, case.device), reference
    except NotBuilt:
        return None


def folders_of(artifact: Artifact, reference: Artifact) -> Built:
    """The folders that a session is opened on."""
    return Built(artifact.folder, reference.folder)


def built_by(case: Case, bench: Bench, python: str = sys.executable) -> Built:
    """The folders of the case's artefact and reference, built by the libraries of the interpreter `python`."""
    if python == sys.executable and (built := find(case, bench)) is not None:
        return folders_of(*built)
    with Builder(bench, python=python) as builder:
        return builder.build(case)


class Builder:
    """Builds what cases need in worker processes, one at a time; use it as a context manager.

    Each worker has the environment of the engines it builds for. Reference outputs are PyTorch's: they are made in its
    environment, whichever engine needs them first. A failed build is not repeated in the session: `bench.failures`
    keeps its error, which is raised again.

    told  gets (label, done, total) as the work goes on.
    """

    def __init__(
        self, bench: Bench, told: Callable[[str, int, int], None] | None = None, python: str = sys.executable
    ) -> None:
        self._bench, self._on_progress, self._python = bench, told, python
        self._worker: Worker | None = None
        self._environment: dict[str, str] = {}
        self._referred: set[tuple[str, ...]] = set()

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, if it runs."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def refer(self, case: Case) -> None:
        """Make the reference outputs of the case's model after the recipe's steps, with the weights they need."""
        about = stage_of(case, self._bench)
        if about in self._referred:
            return
        if self._python != sys.executable or not self._has_reference(case):
            of = baseline_of(case, BASELINE | {"device": "cpu", "precision": case.precision})
            self._ask(Refer(target_of(of, self._bench)), of, about)
        self._referred.add(about)

    def _has_reference(self, case: Case) -> bool:
        try:
            self._bench.bill(case).reference(case.precision)
        except NotBuilt:
            return False
        return True

    def build(self, case: Case) -> Built:
        """Build all that the case needs; the folders of its artefact and reference."""
        self.refer(case)
        about = (case.model, case.engine, case.precision, case.device)
        return self._ask(Build(target_of(case, self._bench)), case, about)

    def _ask(self, question: Question[Answer], case: Case, about: tuple[str, ...]) -> Answer:
        failures, key = self._bench.failures, (self._python, *about)
        if key in failures:
            raise type(failures[key])(str(failures[key]))
        try:
            return self._worker_for(case).ask(question, self._bench.timeout_s, BUSY)
        except BenchError as error:
            if not isinstance(error, DataError):  # after it the worker is sound; other errors may break what follows
                self.close()
            if not isinstance(error, CacheError):  # the user can make room in the cache: the next try may work
                failures[key] = error
            raise

    def _worker_for(self, case: Case) -> Worker:
        environment = environment_of(case, self._bench, os.cpu_count() or 1)
        if self._worker is not None and environment != self._environment:
            self.close()
        if self._worker is None:
            self._worker = worker_for(case, self._bench, os.cpu_count() or 1, self._on_progress, self._python)
            self._environment = environment
        return self._worker


def stage_of(case: Case, bench: Bench) -> tuple[str, ...]:
    """What cases share that have the same reference outputs: the model, and the recipe's steps as text."""
    return (case.model, *map(repr, recipes.get(case.precision).within(bench.limits).steps))


def origins() -> list[Origin]:
    """The files that registered members, in order of registration; a worker imports them to have the same members."""
    order: dict[Origin, int] = {}
    for registry in (models, datasets, recipes, engines, devices, tasks):
        for origin, place in registry.order().items():
            order[origin] = min(place, order.get(origin, place))
    return sorted(order, key=lambda origin: order[origin])


def target_of(case: Case, bench: Bench) -> Target:
    """The Target of a case: what a worker needs to build or open it."""
    return Target(case, bench.cache, bench.data, bench.limits)


def worker_for(
    case: Case,
    bench: Bench,
    threads: int,
    told: Callable[[str, int, int], None] | None = None,
    python: str = sys.executable,
    compiled: Path | None = None,
) -> Worker:
    """A fresh worker with the environment of the case's engine for so many threads.

    told      gets (label, done, total) whenever the worker reports progress.
    compiled  the folder for what the engine compiles, None for none.
    """
    engine, environment = engine_of(case), environment_of(case, bench, threads)
    kept = {engine.compiled: str(compiled)} if engine.compiled is not None and compiled is not None else {}
    return Worker(environment | kept, origins(), told, python, bench.memory_bytes, bench.files.values())


def environment_of(case: Case, bench: Bench, threads: int) -> dict[str, str]:
    """What a process of the case needs in its environment: for its engine, and to see its device alone."""
    return engine_of(case).environment(threads) | devices.get(case.device).environment(bench.device_index)
