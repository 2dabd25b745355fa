"""FP32 PyTorch's answers to a model's data: what every engine is compared with."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.build.keys import Entry, NetworkFacts, data_facts, entry_of
from bench.build.weights import load_data, trained_network
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Source
from bench.store import Artifact, Facts, Store
from bench.tasks.inference import answered, inputs_of_all, save_answers, stacked

if TYPE_CHECKING:
    import numpy as np
    import torch


INTERFACE = "interface.json"
INPUTS, INPUT_BYTES = 64, 2**24  # limits on the kept inputs, in number and in bytes; at least 1 is kept


def reference_entry(store: Store, source: Source, network: NetworkFacts, weights: Artifact) -> Entry:
    """The store entry of FP32 PyTorch's results on the test split, against which fidelity is measured.

    answers.npz     the answers to the whole split.
    inputs.npy      the first inputs; calls are timed with them, so that no timed process loads a data set.
    outputs.npy     the raw outputs for these inputs.
    whole.npy       which of these outputs are whole numbers.
    macs.json       the network's multiply-accumulates for one input.
    interface.json  how the network treats its input.
    """
    made_from: Facts = {
        "network": network.facts(),
        "weights": weights.digest,
        "data": data_facts(source.dataset, source.folder),
        "files": ["answers.npz", "outputs.npy", "whole.npy", "inputs.npy", "macs.json", INTERFACE],
    }
    return entry_of("reference", made_from, store, source, lambda folder: _refer(source, weights, folder))


def _refer(source: Source, network_weights: Artifact, folder: Path) -> None:
    import numpy as np

    from bench.engines.torch_modules import predictor

    network = trained_network(source, network_weights)
    items = load_data(source, "test").inputs
    first = next(inputs_of_all(source.model, items))
    count = max(1, min(INPUTS, INPUT_BYTES // first.nbytes))
    inputs = stacked(list(itertools.islice(inputs_of_all(source.model, items), count)))
    interface = interface_of(network, inputs[:1])
    network = adapted(network, interface)
    results = answered(predictor(network), source.model, items, count, interface)
    macs = macs_per_item(network, inputs[:1])
    np.save(folder / "inputs.npy", inputs, allow_pickle=False)
    np.save(folder / "outputs.npy", results.raw, allow_pickle=False)
    np.save(folder / "whole.npy", results.whole, allow_pickle=False)
    (folder / INTERFACE).write_text(json.dumps(asdict(interface)))
    save_answers(folder / "answers.npz", results.answers)
    (folder / "macs.json").write_text(json.dumps({"macs_per_item": macs}))


def macs_per_item(network: torch.nn.Module, example: np.ndarray) -> int:
    """Multiply-accumulates for one item (1, ...). The item is copied first: a network may work in place."""
    from bench.engines.torch_count import products_of
    from bench.engines.torch_modules import predictor

    predict, item = predictor(network), example.copy()
    return sum(product.macs for product in products_of(lambda: predict(item)))
