"""What a worker does when it is asked: build, open, call, judge, explain. It runs in the worker's process"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import errors
from bench.machine.facts import energy_j
from bench.progress import tell
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


def _current(facts: dict[str, Any]) -> Session:
    """The session that the facts `case`, `cache` and `data` speak of; made at the first question about it."""
    global _session
    from bench.spec.model import models, source
    from bench.store import Store

    case = Case(**facts["case"])
    if _session is None or _session.case != case:
        folder = None if facts["data"] is None else Path(facts["data"])
        _session = Session(case, source(models.get(case.model), folder), Store(Path(facts["cache"])))
    return _session


def _build(facts: dict[str, Any]) -> dict[str, str]:
    """Make what is missing of weights, reference outputs and the case's artefact; give both folders."""
    from bench.build.artefact import artefact_of
    from bench.build.reference import reference_of

    session = _current(facts)
    reference = reference_of(session.store, session.source)
    case = session.case
    built = artefact_of(session.store, session.source, case.engine, case.precision, facts["most_drop"])
    gc.collect()  # exported programs refer to themselves in circles: a session that built 200 artefacts had 15 GB
    assert built is not None
    assert reference is not None
    return {"artifact": str(built.folder), "reference": str(reference.folder)}


def _refer(facts: dict[str, Any]) -> str:
    """Make what is missing of weights and reference outputs; give the folder of these."""
    from bench.build.reference import reference_of

    session = _current(facts)
    reference = reference_of(session.store, session.source)
    gc.collect()
    assert reference is not None
    return str(reference.folder)


def _rank(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each layer costs alone in the case's precision, the one that costs most first."""
    from bench.build import sensitivity
    from bench.build.artefact import trial
    from bench.build.weights import weights_of
    from bench.engines import engines
    from bench.spec.model import recipe_for

    session = _current(facts)
    network_weights = weights_of(session.store, session.source)
    assert network_weights is not None
    recipe = recipe_for(session.source.model, session.case.precision)
    trial = trial(engines.get(session.case.engine), recipe, session.source, network_weights)
    return [asdict(layer) for layer in sensitivity.ranked(trial, recipe)]


def _open(facts: dict[str, Any]) -> dict[str, Any]:
    """Load the artefact, make the first call, call on until it is steady; load_s includes the import of the engine."""
    import numpy as np

    from bench.build.artefact import as_built, calibration_of
    from bench.build.networks import architecture, folded
    from bench.build.reference import INTERFACE
    from bench.engines import engines
    from bench.spec.interface import Interface, adapted
    from bench.spec.model import recipe_for
    from bench.store import versions

    session = _current(facts)
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
    _bind(facts["cores"])
    steady = warmed(lambda: session.predict(session.example))
    session.timer = Timer(steady.pop("typical_s"), meter=energy_j)
    _unchanged(session)
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


def _unchanged(session: Session) -> None:
    """Raise WorkerError where the array that calls are timed with is no longer what it was at the first of them."""
    if _digest(session.example) != session.example_digest:
        raise errors.WorkerError(
            f"{session.case.engine} writes into the array that it is called with, so that times would be of other "
            "numbers; its predict must leave its input as it is"
        )


def _bind(cores: list[int] | None) -> None:
    """Bind all threads of this process to these CPUs; threads that they start later inherit it.

    Done when the session is open: until then, nothing is timed that others could be disturbed by.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread.id, cores)


def _slice(facts: dict[str, Any]) -> dict[str, Any]:
    session = _current(facts)
    predict, example = session.predict, session.example
    assert session.timer is not None
    taken = session.timer.slice(lambda: predict(example), facts["seconds"])
    return asdict(taken) | {"samples_s": [round(sample_s, 10) for sample_s in taken.samples_s]}


def _usage(facts: dict[str, Any]) -> dict[str, Any]:
    """What this process has used: CPU seconds of each thread, switches it did not ask for, peak memory in bytes."""
    process = psutil.Process()
    return {
        "threads_s": {str(thread.id): thread.user_time + thread.system_time for thread in process.threads()},
        "involuntary_switches": getattr(process.num_ctx_switches(), "involuntary", None),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _evaluate(facts: dict[str, Any]) -> dict[str, Any]:
    """Judge the session on the whole test split, in batches of the case's size."""
    import numpy as np

    from bench.build.weights import load_data
    from bench.statistics import paired_drop
    from bench.tasks import tasks
    from bench.tasks.fidelity import digests, likeness, told_of_truth
    from bench.tasks.inference import answered, load_answers

    session = _current(facts)
    _unchanged(session)
    source, reference = session.source, Path(facts["reference"])
    samples = load_data(source, "test")
    spent_s, done = 0.0, 0

    def predict(batch: np.ndarray) -> Any:
        nonlocal spent_s, done
        began = time.perf_counter()
        outputs = session.predict(batch)
        spent_s += time.perf_counter() - began
        done += 1
        tell("judging, batches", done, done)
        return outputs

    found = answered(predict, source.model, samples.inputs, session.case.batch, session.interface)
    known = load_answers(reference / "answers.npz")
    outputs, whole = (np.load(reference / name, allow_pickle=False) for name in ("outputs.npy", "whole.npy"))
    raw = likeness(found.raw, outputs, whole)
    nearness = {"sqnr_db": raw.pop("sqnr_db")} | ({"agreement": raw["agreement"]} if whole.any() else {})
    task = tasks.get(source.model.task)
    names, doubts = _pictures(facts["pictures"], session, samples, found.answers, known)
    return {
        "pictures": names,
        "warnings": doubts,
        "raw": raw,
        "quality": {"n": len(known)}
        | told_of_truth(task.quality(found.answers, samples.targets), source.dataset.name)
        | {"dataset": source.dataset.name, "weights": source.weights.name, "dataset_s": spent_s},
        "fidelity": nearness | task.fidelity(found.answers, known),
        "drop": {
            name: asdict(paired_drop(was, is_now))
            for (name, was), is_now in zip(
                task.scores(known, samples.targets).items(),
                task.scores(found.answers, samples.targets).values(),
                strict=True,
            )
            if len(was)
        },
        "answers": digests(task, found.answers),
        "macs_per_item": json.loads((reference / "macs.json").read_text())["macs_per_item"],
    }


def _pictures(
    folder: str | None, session: Session, samples: Any, answers: list[Any], known: list[Any]
) -> tuple[list[str], list[str]]:
    """The names of the strips of pictures written to the folder, and the reason where none could be: what was measured
    stands without them.
    """
    from bench.tasks import pictures, tasks

    if folder is None:
        return [], []
    task = tasks.get(session.source.model.task)
    try:
        return pictures.write(Path(folder), session.case.id, task, samples.inputs, samples.targets, answers, known), []
    except Exception as error:  # whatever an item is, drawing it is an extra
        traceback.print_exc()
        return [], [f"no strip of pictures: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]


def _explain(facts: dict[str, Any]) -> dict[str, Any]:
    """What a call executes, by the engine's own profiler; nothing where it has none."""
    from bench.engines import engines
    from bench.engines.operations import explained

    session = _current(facts)
    found = engines.get(session.case.engine).operations(*session.opened)
    return {} if found is None else explained(found, session.opened[1].number_format == "int8")


def _kernel(facts: dict[str, Any]) -> dict[str, Any]:
    """Whether the engine's kernels compute what the quantized network says, on the first of the stored inputs."""
    import numpy as np

    from bench.engines import engines, kernel

    session = _current(facts)
    case, reference = session.case, Path(facts["reference"])
    emulation = engines.get(case.engine).emulated(*session.opened)
    if emulation is None:
        return {
            "kernel_db": None,
            "by": None,
            "reason": f"{case.engine} tells of no floating-point form of its artefacts",
        }
    inputs = np.load(reference / "inputs.npy", allow_pickle=False)
    known = np.load(reference / "outputs.npy", mmap_mode="r", allow_pickle=False)[: len(inputs)]
    count = max(case.batch, min(kernel.ITEMS, len(inputs)) // case.batch * case.batch)
    places = np.arange(count) % len(inputs)
    batches = [inputs[some] for some in np.split(places, count // case.batch)]
    return kernel.compared(session.predict, emulation, batches, np.asarray(known[:count]))


def _layers(facts: dict[str, Any]) -> dict[str, Any]:
    """What of the network the artefact holds in which number format; nothing where the engine cannot be counted."""
    from bench.engines import engines
    from bench.engines.lowered import lowered, promised
    from bench.engines.torch import predictor
    from bench.engines.torch_count import batch_of, layers_of, products_of

    session = _current(facts)
    engine, (_, recipe, network, example, _) = engines.get(session.case.engine), session.opened
    layers = engine.layers(*session.opened)
    if layers is None:
        return {}
    share = 1.0
    if recipe.partial or recipe.activations == "dynamic":
        predict = predictor(network())
        share = promised(layers_of(products_of(lambda: predict(example)), batch_of(example)), recipe, engine.dynamic)
    return lowered(layers, recipe.number_format, share)


def _installed(facts: dict[str, Any]) -> dict[str, Any]:
    """Which libraries this interpreter finds, and where; the models' modules are imported, and have had their say."""
    from bench.machine.interpreter import Interpreter

    return asdict(Interpreter.here(facts["packages"]))


_probes: dict[str, Any] = {}


def _probe(facts: dict[str, Any]) -> dict[str, float]:
    from bench.machine.probes import probe

    if not _probes:
        _bind(facts["cores"])
    return probe(_probes, facts["threads"])


def _peak(facts: dict[str, Any]) -> dict[str, Any]:
    from bench.machine.probes import peaks

    _bind(facts["cores"])
    return peaks(facts["threads"])


QUESTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "refer": _refer,
    "build": _build,
    "rank": _rank,
    "open": _open,
    "slice": _slice,
    "usage": _usage,
    "probe": _probe,
    "peak": _peak,
    "evaluate": _evaluate,
    "explain": _explain,
    "installed": _installed,
    "kernel": _kernel,
    "layers": _layers,
}


def peak_rss_bytes() -> int | None:
    """The most resident memory this process has had, in bytes; None where the system does not tell.

    Linux: VmHWM, since ru_maxrss there also counts the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
