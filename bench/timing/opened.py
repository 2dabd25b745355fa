"""The session that a worker holds: a case's parts and, once opened, the engine's session."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import errors
from bench.machine.facts import energy_j
from bench.spec.case import Case
from bench.timing.sampling import Timer, call_overhead_s, warmed


@dataclass
class Session:
    """What one worker holds: the case's parts and, once opened, the engine's session."""

    case: Case
    source: Any
    store: Any
    predict: Any = None
    example: Any = None
    example_digest: str = ""
    interface: Any = None
    opened: tuple[Any, ...] = ()
    timer: Timer | None = None


_session: Session | None = None


def current(facts: dict[str, Any]) -> Session:
    """The session that the facts `case`, `cache` and `data` speak of; made at the first question about it."""
    global _session
    from bench.spec.model import models, source
    from bench.store import Store

    case = Case(**facts["case"])
    if _session is None or _session.case != case:
        folder = None if facts["data"] is None else Path(facts["data"])
        _session = Session(case, source(models.get(case.model), folder), Store(Path(facts["cache"])))
    return _session


def open_session(facts: dict[str, Any]) -> dict[str, Any]:
    """Load the artefact, make the first call, call on until it is steady; load_s includes the import of the engine."""
    import numpy as np

    from bench.build.artefact import as_built, calibration_of
    from bench.build.networks import architecture, folded
    from bench.build.reference import INTERFACE
    from bench.engines import engines
    from bench.spec.interface import Interface, adapted
    from bench.spec.model import recipe_for
    from bench.store import versions

    session = current(facts)
    case, source, reference = session.case, session.source, Path(facts["reference"])
    inputs = np.load(reference / "inputs.npy", allow_pickle=False)
    session.example = np.array(inputs[np.arange(case.batch) % len(inputs)], order="C")
    session.example_digest = _digest(session.example)
    session.interface = Interface.saved(json.loads((reference / INTERFACE).read_text()))
    recipe = as_built(recipe_for(source.model, case.precision), Path(facts["artifact"]))

    def network() -> Any:
        bare = folded(architecture(source))
        return adapted(bare if recipe.rewrite is None else recipe.rewrite(bare), session.interface)

    session.opened = (Path(facts["artifact"]), recipe, network, session.example, case.threads)
    began = time.perf_counter()
    session.predict = engines.get(case.engine).load(*session.opened)
    loaded = time.perf_counter()
    session.predict(session.example)
    first_call_s = time.perf_counter() - loaded
    bind(facts["cores"])
    steady = warmed(lambda: session.predict(session.example))
    session.timer = Timer(steady.pop("typical_s"), meter=energy_j)
    unchanged(session)
    engine = engines.get(case.engine)
    return {
        "load_s": loaded - began,
        "first_call_s": first_call_s,
        "steady": steady,
        "calls_per_sample": session.timer.together,
        "versions": versions(engine.packages) | {"python": platform.python_version()},
        "pool": engine.pool(),
        "left": recipe.left,
        "calibration": calibration_of(Path(facts["artifact"])),
        "writes_input": session.interface.writes_input,
        "left_by": recipe.left_by,
        "call_overhead_s": call_overhead_s(),
    }


def _digest(array: Any) -> str:
    """What tells an array from one that was written into."""
    return hashlib.blake2b(array, digest_size=16).hexdigest()


def unchanged(session: Session) -> None:
    """Raise WorkerError where the array that calls are timed with is no longer what it was at the first of them."""
    if _digest(session.example) != session.example_digest:
        raise errors.WorkerError(
            f"{session.case.engine} writes into the array that it is called with, so that times would be of other "
            "numbers; its predict must leave its input as it is"
        )


def bind(cores: list[int] | None) -> None:
    """Bind all threads of this process to these CPUs; threads that they start later inherit it.

    Done when the session is open: until then, nothing is timed that others could be disturbed by.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread.id, cores)
