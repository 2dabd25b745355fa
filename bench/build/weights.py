"""A model's network and its weights, read from a file or trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.build.file_inputs import digest_of
from bench.build.file_readers import reader_of
from bench.build.keys import Entry, NetworkFacts, data_facts, followed
from bench.build.networks import SEED, architecture, folded, load_state, shaped
from bench.engines.onnx_graphs import copied
from bench.errors import DataError
from bench.spec.dataset import Samples
from bench.spec.inputs import Inputs
from bench.spec.model import Source
from bench.spec.network import NetworkFile
from bench.spec.state import read_state, save_state
from bench.spec.step import Step
from bench.store import Artifact, Facts, Store, Used
from bench.tasks.inference import inputs_of, preprocessed

if TYPE_CHECKING:
    from bench.spec.model import Network


def weights_entry(store: Store, source: Source, network: NetworkFacts) -> Entry:
    """The model's weights as one safetensors file, read from the user's file or trained; or a copy of the file that the
    network is.

    The key holds no library versions: trained weights stay the same under all versions, as long as the names and shapes
    of the network's parameters do.
    """
    trained = source.weights.train is not None
    made_from: Facts = {
        **{name: network.made_from[name] for name in ("model", "weights", "code", "values", "file")},
        "state": network.state,
        "shaped by": network.files,
        "data": data_facts(source.dataset, source.folder) if trained else None,
        "seed": SEED,
    }

    def write(folder: Path) -> Used:
        used = Used()
        with followed(store, source, used):
            network = architecture(source)
            if isinstance(network, NetworkFile):
                files = reader_of(network.file).files
                copied(files(network.file), network.file.parent, folder)
                if digest_of(files(folder / network.file.name)) != network.digest:
                    raise DataError(f"{network.file} was changed since this session began; start again")
                return used
            if source.weights_file is not None and source.weights.read is not None:
                load_state(network, source.weights.read(source.weights_file), str(source.weights_file))
            elif source.weights.train is not None:
                samples = load_data(source, "train")
                inputs = Inputs.joined([inputs_of(source.model, item)[0] for item in samples.inputs])
                source.weights.train(network, inputs.given(), samples.targets)
        save_state(network, folder / "weights.safetensors")
        return Used(used.files)

    return Entry("weights", made_from, write)


def trained_network(source: Source, network_weights: Artifact, steps: Sequence[Step] = ()) -> Network:
    """The network with the stored weights, in eval mode, without gradients, with parametrizations folded; or the stored
    copy of the file that it is.

    steps  those that led to these weights, where they are a stage's.
    """
    network = architecture(source)
    if isinstance(network, NetworkFile):
        return replace(network, file=network_weights.folder / network.file.name)
    network, file = shaped(network, steps, network_weights.folder), network_weights.folder / "weights.safetensors"
    load_state(network, read_state(file), str(file))
    return folded(network).requires_grad_(False)


def load_data(source: Source, split: str) -> Samples:
    """A split of the source's data: of the model's own lengths, where it has a `collate`.

    Raises DataError where it is empty or inputs and targets differ in number.
    """
    samples = source.dataset.load(split, source.folder)
    if not len(samples.inputs) or len(samples.inputs) != len(samples.targets):
        raise DataError(
            f"data set {source.dataset.name} gave {len(samples.inputs)} inputs and {len(samples.targets)} targets "
            f"for {split!r}; it must give as many of both, and at least one"
        )
    collate = source.model.collate
    if collate is None:
        return samples
    inputs, targets = samples.inputs, samples.targets
    places = [place for place, item in enumerate(inputs) if collate.takes(preprocessed(source.model, item))]
    if not places:
        raise DataError(
            f"{source.model.name} takes items of lengths {collate.above + 1} to {collate.length}; data set "
            f"{source.dataset.name} has none for {split!r}"
        )
    return Samples([inputs[place] for place in places], [targets[place] for place in places])
