"""What a worker says of what its session computes: quality, pictures, operations, kernels, layers."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.progress import tell
from bench.timing.opened import Session, current, unchanged


def evaluate(facts: dict[str, Any]) -> dict[str, Any]:
    """Judge the session on the whole test split, in batches of the case's size."""
    import numpy as np

    from bench.build.weights import load_data
    from bench.statistics import paired_drop
    from bench.tasks import tasks
    from bench.tasks.fidelity import digests, likeness, told_of_truth
    from bench.tasks.inference import answered, load_answers

    session = current(facts)
    unchanged(session)
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


def explain(facts: dict[str, Any]) -> dict[str, Any]:
    """What a call executes, by the engine's own profiler; nothing where it has none."""
    from bench.engines import engines
    from bench.engines.operations import explained

    session = current(facts)
    found = engines.get(session.case.engine).operations(*session.opened)
    return {} if found is None else explained(found, session.opened[1].number_format == "int8")


def kernel_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Whether the engine's kernels compute what the quantized network says, on the first of the stored inputs."""
    import numpy as np

    from bench.engines import engines, kernel

    session = current(facts)
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


def layers(facts: dict[str, Any]) -> dict[str, Any]:
    """What of the network the artefact holds in which number format; nothing where the engine cannot be counted."""
    from bench.engines import engines
    from bench.engines.lowered import lowered, promised
    from bench.engines.torch_count import batch_of, layers_of, products_of
    from bench.engines.torch_modules import predictor

    session = current(facts)
    engine, (_, recipe, network, example, _) = engines.get(session.case.engine), session.opened
    layers = engine.layers(*session.opened)
    if layers is None:
        return {}
    share = 1.0
    if recipe.partial or recipe.activations == "dynamic":
        predict = predictor(network())
        share = promised(layers_of(products_of(lambda: predict(example)), batch_of(example)), recipe, engine.dynamic)
    return lowered(layers, recipe.number_format, share)
