"""A recipe's steps: each step's result is kept, and is the start of every recipe that begins with the same steps."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.build import quality_drop
from bench.build.fingerprint import fingerprint
from bench.build.keys import Entry, NetworkFacts, class_digest, data_facts, entry_of
from bench.build.networks import HUFFMAN, STEPS, architecture, decided_in, shaped
from bench.build.quality_drop import TrainingDrop
from bench.build.weights import load_data, trained_network
from bench.compress import huffman
from bench.compress.quantizer import stored_state
from bench.spec import limits
from bench.spec.dataset import Samples
from bench.spec.digests import source_digest
from bench.spec.inputs import Inputs, tensors_of
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Source
from bench.spec.state import save_state
from bench.spec.step import Context, Step
from bench.store import Artifact, Facts, Store, key, versions
from bench.tasks import tasks
from bench.tasks.inference import inputs_of

if TYPE_CHECKING:
    import torch

    from bench.spec.interface import Predict


# code beside the step's that its result is made by
USED = [Path(str(module.__file__)) for module in (huffman, quality_drop, limits)]
TRAINING = "training"  # the folder of the store that holds checkpoints


@dataclass(frozen=True)
class Tutor:
    """A model that teaches another: its weights and its data on this machine."""

    source: Source
    network: NetworkFacts
    weights: Artifact


def stage_entry(
    store: Store,
    source: Source,
    network: NetworkFacts,
    weights: Artifact,
    before: Artifact | None,
    steps: Sequence[Step],
    tutor: Tutor | None,
) -> Entry:
    """The store entry of a network after the last of `steps`: its weights, and what each step decided.

    weights  those of the original network.
    before   the stage before; None for the first step.
    tutor    the model's teacher, for a step that is taught; else None.
    """
    step = steps[-1]
    made_from: Facts = {
        "network": network.facts(),
        "weights": weights.digest,
        "before": None if before is None else [before.digest, key(before.made_from)],
        "step": fingerprint(step),
        "code": [class_digest(step), source_digest(Path(__file__)), *map(source_digest, USED)],
        "versions": versions(["torch", *step.packages]),
        "training": data_facts(source.dataset, source.folder),
        "task": class_digest(tasks.get(source.model.task)) if step.judges else None,
        **({} if tutor is None else {"teacher": [tutor.network.facts(), tutor.weights.digest]}),
    }
    kept = store.root / TRAINING / key(made_from)
    make = partial(_make, source, weights, before or weights, steps, tutor, kept)
    return entry_of("stage", made_from, store, source, make)


def _make(
    source: Source,
    original: Artifact,
    start: Artifact,
    steps: Sequence[Step],
    tutor: Tutor | None,
    kept: Path,
    folder: Path,
) -> None:
    from bench.engines.torch_modules import predictor

    network, teacher = _network(source, start, steps[:-1]), _network(source, original, ())
    samples = load_data(source, "train")
    inputs, targets = items_of(source, samples)

    @cache
    def judge() -> tuple[TrainingDrop, Callable[[torch.nn.Module], Predict]]:
        example = inputs_of(source.model, samples.inputs[0])[1][0]
        interface = interface_of(teacher, example.given())

        def predict(judged: torch.nn.Module) -> Predict:
            return predictor(adapted(copy.deepcopy(judged).eval(), interface, len(example.names)))

        return TrainingDrop(source, samples, predict(teacher), interface), predict

    def fallen(judged: torch.nn.Module) -> float:
        known, predict = judge()
        return known.of(predict(judged))

    def bare(seed: int) -> torch.nn.Module:
        return shaped(cast("torch.nn.Module", architecture(source, seed)), steps[:-1], start.folder)

    context = Context(
        source.model.training,
        teacher,
        len(samples.inputs),
        inputs,
        tuple(steps[:-1]),
        targets,
        bare,
        None if tutor is None else _network(tutor.source, tutor.weights, ()),
        (kept / f"{count}.pt" for count in itertools.count()),
        fallen,
        calibration=source.model.calibration,
    )
    network, decided = steps[-1].make(network, context)
    save_state(network, folder / "weights.safetensors")
    size = {HUFFMAN: huffman.huffman_bytes(stored_state(network))}
    (folder / STEPS).write_text(json.dumps([*decided_in(start.folder), {**decided, **size}]))
    shutil.rmtree(kept, ignore_errors=True)


def items_of(
    source: Source, samples: Samples
) -> tuple[Callable[[Sequence[int]], tuple[torch.Tensor, ...]], Callable[[Sequence[int]], torch.Tensor]]:
    """Functions of places among the training items: their inputs as tensors of a call, and their targets (n, ...)."""
    import numpy as np
    import torch

    def inputs(places: Sequence[int]) -> tuple[torch.Tensor, ...]:
        some = [inputs_of(source.model, samples.inputs[place])[1][0] for place in places]
        return tensors_of(Inputs.joined(some))

    def targets(places: Sequence[int]) -> torch.Tensor:
        return torch.as_tensor(np.stack([samples.targets[place] for place in places]))

    return inputs, targets


def _network(source: Source, kept: Artifact, steps: Sequence[Step]) -> torch.nn.Module:
    import torch

    network = trained_network(source, kept, steps)
    assert isinstance(network, torch.nn.Module)  # recipes with steps are for these alone
    return network
