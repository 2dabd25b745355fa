"""What FP32 PyTorch answers to a model's data: all that engines do is held against it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.build.keys import Entry, Network, data_facts, followed
from bench.build.weights import load_data, trained_network
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Source
from bench.store import Artifact, Facts, Store, Used
from bench.store import source_digest as source_digest
from bench.store import versions as versions
from bench.tasks.inference import answered, inputs_of_all, save_answers, stacked

if TYPE_CHECKING:
    import numpy as np
    import torch


INTERFACE = "interface.json"
INPUTS, INPUT_BYTES = 64, 2**24


def reference_entry(store: Store, source: Source, network: Network, weights: Artifact) -> Entry:
    """What FP32 PyTorch makes of the whole test split, against which fidelity is measured: `answers.npz`, and of the
    first inputs the raw `outputs.npy` and which of them are whole numbers, `whole.npy`; the first inputs themselves,
    `inputs.npy`, with which calls are timed, so that no timed process needs to load a data set; in `macs.json` how many
    multiply-accumulates the network makes for one; and in `interface.json` how it treats its input.
    """
    made_from: Facts = {
        "network": network.facts(),
        "weights": weights.digest,
        "data": data_facts(source.dataset, source.folder),
        "files": ["answers.npz", "outputs.npy", "whole.npy", "inputs.npy", "macs.json", INTERFACE],
    }

    def write(folder: Path) -> Used:
        used = Used()
        with followed(store, source, used):
            _refer(source, weights, folder)
        return used

    return Entry("reference", made_from, write)


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
    known = answered(predictor(network), source.model, items, count, interface)
    macs = macs_per_item(network, inputs[:1])
    np.save(folder / "inputs.npy", inputs, allow_pickle=False)
    np.save(folder / "outputs.npy", known.raw, allow_pickle=False)
    np.save(folder / "whole.npy", known.whole, allow_pickle=False)
    (folder / INTERFACE).write_text(json.dumps(asdict(interface)))
    save_answers(folder / "answers.npz", known.answers)
    (folder / "macs.json").write_text(json.dumps({"macs_per_item": macs}))


def macs_per_item(network: torch.nn.Module, example: np.ndarray) -> int:
    """Multiply-accumulates for one item (1, ...), which stays as it is: a network may work in place."""
    from bench.engines.torch_count import products_of
    from bench.engines.torch_modules import predictor

    predict, item = predictor(network), example.copy()
    return sum(product.macs for product in products_of(lambda: predict(item)))
