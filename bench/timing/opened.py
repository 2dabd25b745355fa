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
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from bench import errors
from bench.machine.devices import Device, devices
from bench.machine.facts import energy_j
from bench.spec.case import Case
from bench.spec.inputs import arrays_of
from bench.spec.recipe import Recipe
from bench.timing.protocol import Open, Opened
from bench.timing.sampling import LEFT_S, LEFT_SHARE, Timer, call_overhead_s, left_over_s, warmed

if TYPE_CHECKING:
    from bench.engines.engine import Session
    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Interface, Predict
    from bench.spec.model import Network, Source


class Loading(NamedTuple):
    """The arguments of `Engine.load`, in its order."""

    folder: Path
    recipe: Recipe
    network: Callable[[], Any]
    example: Given
    threads: int


@dataclass(frozen=True)
class Loaded:
    """A case's parts and the engine's session.

    reference     the folder of the reference that the session is judged by.
    batch         the arrays that calls are timed with.
    batch_digest  their digest, as they were before the first call.
    """

    case: Case
    source: Source
    reference: Path
    interface: Interface
    loading: Loading
    session: Session
    device: Device
    timer: Timer
    batch: Batch
    batch_digest: str

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
    from bench.build.networks import architecture, folded, shaped
    from bench.build.reference import INTERFACE
    from bench.engines import engine_of
    from bench.engines.engine import session_of
    from bench.spec.interface import Interface, adapted
    from bench.spec.model import models, recipe_for, source
    from bench.spec.network import NetworkFile
    from bench.store import versions
    from bench.tasks.inference import load_inputs

    global _loaded
    case, reference, folder = asked.target.case, asked.built.reference, asked.built.artifact
    model = source(models.get(case.model), asked.target.data)
    inputs = load_inputs(reference)
    example = inputs[np.arange(case.batch) % len(inputs)].copy()
    batch = example.batch()
    digest, interface = _digest(batch), Interface.saved(json.loads((reference / INTERFACE).read_text()))
    recipe = as_built(recipe_for(model.model, case.precision, asked.target.limits), folder)

    def network() -> Network:
        bare = architecture(model)
        if isinstance(bare, NetworkFile):
            return bare
        bare = folded(shaped(bare, recipe.steps, reference))
        return adapted(bare if recipe.rewrite is None else recipe.rewrite(bare), interface, len(inputs.names))

    loading, engine = Loading(folder, recipe, network, example.given(), case.threads), engine_of(case)
    began = time.perf_counter()
    session = session_of(engine.load(*loading))
    predict = session.predict
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    predict(batch)
    first_call_s = time.perf_counter() - began
    bind(asked.cores)
    steady, typical_s = warmed(lambda: predict(batch))
    device = devices.get(case.device)
    waits(lambda: predict(batch), device)
    timer = Timer(typical_s, meter=energy_j, wait=device.synchronize)
    _loaded = Loaded(case, model, reference, interface, loading, session, device, timer, batch, digest)
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


def _digest(batch: Batch) -> str:
    """A digest that changes when an array is written into."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays_of(batch):
        digest.update(array.data)
    return digest.hexdigest()


def unchanged(session: Loaded) -> None:
    """Raise WorkerError where the array that calls are timed with has changed since before the first call."""
    if _digest(session.batch) != session.batch_digest:
        raise errors.WorkerError(
            f"{session.case.engine} writes into the array that it is called with, so that times would be of other "
            "numbers; its predict must leave its input as it is"
        )


def waits(call: Callable[[], object], device: Device) -> None:
    """Raise WorkerError where a call returns before the device is done, so that its time would be of queueing alone; or
    where it never used the device.
    """
    if not device.queues:
        return
    if device.works() is False:
        raise errors.WorkerError(f"nothing was computed on {device.name}: the engine fell back to the CPU")
    call_s, left_s = left_over_s(call, device.synchronize)
    if left_s > max(LEFT_S, LEFT_SHARE * call_s):
        raise errors.WorkerError(
            f"a call returns after {1e3 * call_s:.3g} ms, {1e3 * left_s:.3g} ms before {device.name} is done; the "
            "engine's predict must wait for its outputs"
        )


def bind(cores: tuple[int, ...] | None) -> None:
    """Bind all threads of this process to these CPUs; threads that they start later inherit the binding.

    A session is bound after its first call: until then nothing is timed that it could disturb.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread.id, cores)
