"""The session that a worker holds: a case's parts and the engine's session."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from bench import errors
from bench.machine.facts import energy_j
from bench.spec.case import Case
from bench.spec.recipe import Recipe
from bench.timing.protocol import Open, Opened
from bench.timing.sampling import Timer, call_overhead_s, warmed

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines.engine import Session
    from bench.spec.interface import Interface, Predict
    from bench.spec.model import Source


class Loading(NamedTuple):
    """The arguments of `Engine.load`, in its order."""

    folder: Path
    recipe: Recipe
    network: Callable[[], torch.nn.Module]
    example: np.ndarray
    threads: int


@dataclass(frozen=True)
class Loaded:
    """A case's parts and the engine's session.

    reference       the folder of the reference that the session is judged by.
    example_digest  digest of the array that calls are timed with, as it was before the first call.
    """

    case: Case
    source: Source
    reference: Path
    interface: Interface
    loading: Loading
    session: Session
    timer: Timer
    example_digest: str

    @property
    def predict(self) -> Predict:
        """The session's call."""
        return self.session.predict


_loaded: Loaded | None = None


def loaded() -> Loaded:
    """This worker's session. Raises WorkerError where none is open."""
    if _loaded is None:
        raise errors.WorkerError("no session is open in this worker")
    return _loaded


def open_session(asked: Open) -> Opened:
    """Load the artefact, make the first call, and repeat it until times are steady."""
    import numpy as np

    from bench.build.artefact import as_built, calibration_of
    from bench.build.networks import architecture, folded
    from bench.build.reference import INTERFACE
    from bench.engines import engines
    from bench.engines.engine import session_of
    from bench.spec.interface import Interface, adapted
    from bench.spec.model import models, recipe_for, source
    from bench.store import versions

    global _loaded
    case, reference, folder = asked.target.case, asked.built.reference, asked.built.artifact
    model = source(models.get(case.model), asked.target.data)
    inputs = np.load(reference / "inputs.npy", allow_pickle=False)
    example = np.array(inputs[np.arange(case.batch) % len(inputs)], order="C")
    digest, interface = _digest(example), Interface.saved(json.loads((reference / INTERFACE).read_text()))
    recipe = as_built(recipe_for(model.model, case.precision), folder)

    def network() -> torch.nn.Module:
        bare = folded(architecture(model))
        return adapted(bare if recipe.rewrite is None else recipe.rewrite(bare), interface)

    loading, engine = Loading(folder, recipe, network, example, case.threads), engines.get(case.engine)
    began = time.perf_counter()
    session = session_of(engine.load(*loading))
    predict = session.predict
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    predict(example)
    first_call_s = time.perf_counter() - began
    bind(asked.cores)
    steady, typical_s = warmed(lambda: predict(example))
    timer = Timer(typical_s, meter=energy_j)
    _loaded = Loaded(case, model, reference, interface, loading, session, timer, digest)
    unchanged(_loaded)
    return Opened(
        load_s=load_s,
        first_call_s=first_call_s,
        steady=steady,
        calls_per_sample=timer.together,
        versions=versions(engine.packages) | {"python": platform.python_version()},
        pool=session.pools(),
        call_overhead_s=call_overhead_s(),
        writes_input=interface.writes_input,
        left=recipe.left,
        left_by=recipe.left_by,
        calibration=calibration_of(folder),
    )


def _digest(array: np.ndarray) -> str:
    """A digest that changes when the array is written into."""
    return hashlib.blake2b(array.data, digest_size=16).hexdigest()


def unchanged(session: Loaded) -> None:
    """Raise WorkerError where the array that calls are timed with has changed since before the first call."""
    if _digest(session.loading.example) != session.example_digest:
        raise errors.WorkerError(
            f"{session.case.engine} writes into the array that it is called with, so that times would be of other "
            "numbers; its predict must leave its input as it is"
        )


def bind(cores: tuple[int, ...] | None) -> None:
    """Bind all threads of this process to these CPUs; threads that they start later inherit the binding.

    A session is bound after its first call: until then nothing is timed that it could disturb.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread.id, cores)
