"""A worker's answers about what its session computes: quality, pictures, operations, kernels, layers."""

from __future__ import annotations

import json
import numbers
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import WorkerError
from bench.progress import tell
from bench.spec.outcome import Explained, Figures, Judged, Kernel, Lowered, names_of, parts_of
from bench.timing.opened import Loaded, loaded, unchanged
from bench.timing.protocol import AskKernel, AskLayers, Evaluate, Explain, Judgement

if TYPE_CHECKING:
    from bench.spec.dataset import Samples
    from bench.spec.inputs import Batch
    from bench.spec.interface import Output


def evaluate(asked: Evaluate) -> Judgement:
    """Judge the session on the whole test split, in batches of the case's size."""
    import numpy as np

    from bench.build.reference import ANSWERS, original_answers
    from bench.build.weights import load_data
    from bench.statistics import paired_drop
    from bench.tasks import tasks
    from bench.tasks.fidelity import digests, likeness, without_truth
    from bench.tasks.inference import answered, load_answers
    from bench.tasks.task import metric_of

    session = loaded()
    unchanged(session)
    source, reference = session.source, session.reference
    samples = load_data(source, "test")
    spent_s, done = 0.0, 0

    def predict(batch: Batch) -> Output:
        nonlocal spent_s, done
        began = time.perf_counter()
        outputs = session.predict(batch)
        spent_s += time.perf_counter() - began
        done += 1
        tell("judging, batches", done, done)
        return outputs

    result = answered(predict, source.model, samples.inputs, session.case.batch, session.interface)
    reference_answers = load_answers(reference / ANSWERS)
    fp32 = original_answers(reference) or reference_answers
    outputs, whole = (np.load(reference / name, allow_pickle=False) for name in ("outputs.npy", "whole.npy"))
    raw = likeness(result.raw, outputs, whole)
    nearness: Figures = {"sqnr_db": raw.sqnr_db, **({"agreement": raw.agreement} if whole.any() else {})}
    task = tasks.get(source.model.task)
    names, doubts = _pictures(asked.pictures, session, samples, result.answers, fp32)
    quality = task.quality(result.answers, samples.targets)
    fidelity = nearness | task.fidelity(result.answers, reference_answers)
    for name, value in (quality | fidelity).items():
        if not all(part is None or isinstance(part, numbers.Real) for part in parts_of(value)):
            raise WorkerError(
                f"task {source.model.task} gives {name!r} as {value!r}; a figure is a number, details a dict"
            )
    was, now = (task.scores(answers, samples.targets) for answers in (fp32, result.answers))
    count = min((len(scores) for scores in was.values()), default=0) or len(reference_answers)
    metrics = {name: metric_of(task, name) for name in names_of(quality | fidelity)}
    return Judgement(
        quality=quality,
        judged=Judged(
            count,
            source.dataset.name,
            source.weights.name,
            spent_s,
            source.dataset.unjudged or without_truth(quality, source.dataset.name),
        ),
        metrics=metrics,
        fidelity=fidelity,
        drop={name: paired_drop(was[name], now[name], metric_of(task, name).sign) for name in was if len(was[name])},
        answers=digests(task, result.answers),
        outputs=raw,
        macs_per_item=json.loads((reference / "macs.json").read_text())["macs_per_item"],
        pictures=tuple(names),
        warnings=tuple(doubts),
    )


def _pictures(
    folder: Path | None, session: Loaded, samples: Samples, answers: list[Any], fp32: list[Any]
) -> tuple[list[str], list[str]]:
    """Write strips of pictures to the folder. Returns their names, and warnings.

    A failure gives a warning: the measurement stands without pictures.
    """
    from bench.tasks import pictures, tasks

    if folder is None:
        return [], []
    task = tasks.get(session.source.model.task)
    try:
        return pictures.write(folder, session.case.id, task, samples.inputs, samples.targets, answers, fp32), []
    except Exception as error:  # an item may be anything, and drawing it is optional
        traceback.print_exc()
        return [], [f"no strip of pictures: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]


def explain(asked: Explain) -> Explained | None:
    """What a call executes, by the engine's profiler; None where it has none."""
    from bench.engines import engine_of
    from bench.engines.operations import explained

    session = loaded()
    operations = engine_of(session.case).operations(*session.loading)
    recipe = session.loading.recipe
    in_int8 = recipe.number_format == "int8" and not recipe.weights_alone
    return None if operations is None else explained(operations, in_int8)


def kernel_facts(asked: AskKernel) -> Kernel:
    """Whether the engine's kernels compute what the quantized network says, on the first stored inputs."""
    import numpy as np

    from bench.build.reference import outputs_before_rounding
    from bench.engines import engine_of, kernel
    from bench.tasks.inference import load_inputs

    session = loaded()
    case, reference = session.case, session.reference
    emulation = engine_of(case).emulated(*session.loading)
    if emulation is None:
        return Kernel(reason=f"{case.engine} tells of no floating-point form of its artefacts")
    inputs = load_inputs(reference)
    outputs = outputs_before_rounding(reference)[: len(inputs)]
    count = max(case.batch, min(kernel.ITEMS, len(inputs)) // case.batch * case.batch)
    places = np.arange(count) % len(inputs)
    batches = [inputs[rows] for rows in np.split(places, count // case.batch)]
    return kernel.compared(session.predict, emulation, batches, np.asarray(outputs[:count]), session.interface)


def layers(asked: AskLayers) -> Lowered | None:
    """Which part of the network the artefact holds in which number format; None where it cannot be counted."""
    from bench.engines import engine_of
    from bench.engines.lowered import lowered, promised
    from bench.engines.torch_count import layers_of, products_of
    from bench.engines.torch_modules import predictor

    session = loaded()
    engine, loading = engine_of(session.case), session.loading
    recipe, batch = loading.recipe, session.batch
    counted = engine.layers(*loading)
    if counted is None:
        return None
    share = 1.0
    if session.source.model.is_file:
        share = promised(counted, recipe, engine.covered(recipe))
    elif recipe.partial or recipe.activations in ("dynamic", "float"):
        predict = predictor(loading.network())
        products = products_of(lambda: predict(batch))
        share = promised(layers_of(products, session.case.batch), recipe, engine.covered(recipe))
    return lowered(counted, recipe.number_format, share, engine.only_stores(recipe))
