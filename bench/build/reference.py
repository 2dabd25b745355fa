"""FP32 PyTorch's answers to a model's data: what every engine is compared with."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.keys import Entry, NetworkFacts, data_facts, entry_of
from bench.build.network_files import interface_of_file
from bench.build.networks import STEPS
from bench.build.weights import load_data, trained_network
from bench.engines.onnx_graphs import reason_of
from bench.errors import BenchError, BuildError
from bench.spec.inputs import Inputs
from bench.spec.interface import Interface, adapted, interface_of
from bench.spec.model import Source
from bench.spec.network import NetworkFile
from bench.spec.recipe import recipes
from bench.spec.step import Step
from bench.store import Artifact, Facts, Store, key
from bench.tasks.inference import Answered, answered, inputs_of_all, load_answers, save_answers, save_inputs

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.spec.inputs import Given
    from bench.spec.interface import Predict


INTERFACE = "interface.json"
ANSWERS, ORIGINAL = "answers.npz", "original.npz"
OUTPUTS, UNROUNDED = "outputs.npy", "unrounded.npy"
INPUTS, INPUT_BYTES = 64, 2**24  # limits on the kept inputs, in number and in bytes; at least 1 is kept


def reference_entry(
    store: Store,
    source: Source,
    network: NetworkFacts,
    weights: Artifact,
    steps: Sequence[Step] = (),
    stage: Artifact | None = None,
    original: Artifact | None = None,
    unrounded: Artifact | None = None,
) -> Entry:
    """The store entry of FP32 PyTorch's results on the test split, against which fidelity is measured.

    stage     the network after these steps, None without steps; original  the reference without steps: drops are
              measured against its answers.
    unrounded  the reference before the first step that rounds activations, where there is such a step: what kernels
               may err is measured against what rounding loses.

    answers.npz     the answers to the whole split.
    inputs.npz      the first inputs; calls are timed with them, so that no timed process loads a data set. inputs.json
                    has their names.
    outputs.npy     the raw outputs for these inputs.
    whole.npy       which of these outputs are whole numbers.
    macs.json       the network's multiply-accumulates for one input.
    interface.json  how the network treats its input.
    steps.json      what the steps decided; original.npz  the original network's answers. Both with steps alone.
    unrounded.npy   the outputs before activations are rounded, where a step rounds them.
    """
    made_from: Facts = {
        "network": network.facts(),
        "weights": weights.digest,
        "data": data_facts(source.dataset, source.folder),
        "files": ["answers.npz", "outputs.npy", "whole.npy", "inputs.npz", "inputs.json", "macs.json", INTERFACE],
    }
    if stage is None or original is None:
        return entry_of("reference", made_from, store, source, lambda folder: _refer(source, weights, folder))
    made_from = {**made_from, "stage": [stage.digest, key(stage.made_from)], "original": original.digest}
    if unrounded is not None:
        made_from = {**made_from, "unrounded": unrounded.digest}

    def refer(folder: Path) -> None:
        _refer(source, stage, folder, steps)
        shutil.copyfile(stage.folder / STEPS, folder / STEPS)
        shutil.copyfile(original.folder / ANSWERS, folder / ORIGINAL)
        if unrounded is not None:
            shutil.copyfile(unrounded.folder / OUTPUTS, folder / UNROUNDED)

    return entry_of("reference", made_from, store, source, refer)


def original_answers(reference: Path) -> list[np.ndarray] | None:
    """The answers of the network before a recipe's steps, in a reference's folder; None without steps."""
    file = reference / ORIGINAL
    return load_answers(file) if file.is_file() else None


def outputs_before_rounding(reference: Path) -> np.ndarray:
    """The outputs for the first inputs, before a step rounds activations, in a reference's folder."""
    import numpy as np

    file = reference / UNROUNDED
    return np.load(file if file.is_file() else reference / OUTPUTS, mmap_mode="r", allow_pickle=False)


def _refer(source: Source, network_weights: Artifact, folder: Path, steps: Sequence[Step] = ()) -> None:
    import numpy as np

    network = trained_network(source, network_weights, steps)
    items = load_data(source, "test").inputs
    first = next(inputs_of_all(source.model, items))
    count = max(1, min(INPUTS, INPUT_BYTES // max(1, first.nbytes)))
    inputs = Inputs.joined(list(itertools.islice(inputs_of_all(source.model, items), count)))
    if isinstance(network, NetworkFile):
        inputs, interface, results, macs = _as_it_is(network, source, items, inputs)
    else:
        from bench.engines.torch_modules import predictor

        interface = interface_of(network, inputs[:1])
        network = adapted(network, interface, len(inputs.names))
        results = answered(predictor(network), source.model, items, count, interface)
        macs = macs_per_item(network, inputs[:1])
    save_inputs(folder, inputs)
    np.save(folder / "outputs.npy", results.raw, allow_pickle=False)
    np.save(folder / "whole.npy", results.whole, allow_pickle=False)
    (folder / INTERFACE).write_text(json.dumps(asdict(interface)))
    save_answers(folder / ANSWERS, results.answers)
    (folder / "macs.json").write_text(json.dumps({"macs_per_item": macs}))


def _as_it_is(
    network: NetworkFile, source: Source, items: Sequence[Any], inputs: Inputs
) -> tuple[Inputs, Interface, Answered, int]:
    """A network file's inputs, interface, results and multiply-accumulates, by the engine whose own format it is."""
    from bench.engines import engines, native_to
    from bench.engines.engine import session_of

    native = native_to(network.format)
    engine, recipe = engines.get(native), recipes.get("as_given")
    with tempfile.TemporaryDirectory() as place:
        folder, example = Path(place), inputs[:1].copy()
        architecture: Any = lambda: network  # noqa: E731 - of no PyTorch module, which these engines do not ask for
        engine.build(network, recipe, example, folder)

        def opened(items: Inputs) -> Predict:
            return session_of(engine.load(folder, recipe, architecture, items, os.cpu_count() or 1)).predict

        with _failing_as(f"{native} does not read this file"):
            predict = opened(example)
        sizes = ", ".join(f"{name} {shape}" for name, shape in network.sizes.items())
        with _failing_as(f"the file does not run on inputs of these shapes, {sizes}"):
            interface = interface_of_file(network, opened, inputs)
            results = answered(predict, source.model, items, 1, interface)
        layers = engine.layers(folder, recipe, architecture, example, 1) or []
    if None in interface.batch_axes:
        inputs = inputs.one_a_call()
    return inputs, interface, results, sum(layer.macs for layer in layers)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Raise BuildError, with what a runtime says, for the errors of its own that it raises inside."""
    try:
        yield
    except (BenchError, OSError):
        raise
    except Exception as error:
        raise BuildError(f"{what}: {reason_of(error)}") from error


def macs_per_item(network: torch.nn.Module, example: Given) -> int:
    """Multiply-accumulates for one item (1, ...). The item is copied first: a network may work in place."""
    from bench.engines.torch_count import products_of
    from bench.engines.torch_modules import predictor

    predict, item = predictor(network), Inputs.of(example).copy().batch()
    return sum(product.macs for product in products_of(lambda: predict(item)))
