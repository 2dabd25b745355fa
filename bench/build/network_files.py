"""Networks that are files and run as they are: what they take, drawn or real inputs for them, and their models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.file_inputs import DRAWN, ITEMS, NO_TARGETS, RealInputs, drawn, item_of
from bench.build.file_readers import reader_of
from bench.errors import DataError
from bench.spec.dataset import Dataset, Samples, datasets
from bench.spec.inputs import Inputs
from bench.spec.interface import Interface
from bench.spec.model import Model, Weights, models
from bench.spec.network import NetworkFile, Sizes, format_of, place_of, sized

if TYPE_CHECKING:
    import numpy as np

    from bench.spec.interface import Outputs, Predict
    from bench.spec.model import Network

TOLERANCE = 1e-3  # of outputs of two items in one call against each alone: absolute and relative


@dataclass(frozen=True)
class GivenFile:
    """A network file that a user gave: what a worker needs to have the same model.

    name    of the model; file  absolute; digest  sha256 of the file and of its weights beside it.
    sizes   (input, shape of one item) of each input.
    inputs  real ones; None for drawn inputs.
    quantized  whether it is in INT8 already.
    """

    name: str
    file: Path
    digest: str
    sizes: tuple[tuple[str, tuple[int, ...]], ...]
    inputs: RealInputs | None = None
    quantized: bool = False

    def register(self) -> None:
        """Add its model and its data to the tables."""
        data = partial(samples_of, self)
        unjudged = DRAWN if self.inputs is None else NO_TARGETS
        datasets.add(self.name, Dataset(self.name, f"inputs of {self.file.name}", data, unjudged=unjudged))
        models.add(
            self.name,
            Model(
                self.name,
                "features",
                partial(network_of, self),
                (Weights(self.file.name, self.name),),
                preprocess=as_they_are,
                answer=joined,
                format=format_of(self.file),
                quantized=self.quantized,
                calibration=ITEMS["train"] if self.inputs is None else Model.calibration,
            ),
        )


def given_files(file: Path, choices: Sequence[Sizes], inputs: RealInputs | None, name: str) -> list[GivenFile]:
    """The models of a network file: one for each choice of the sizes that it leaves free.

    Raises DataError where the file cannot be read, or leaves sizes free that are in no choice and no input.
    """
    reader = reader_of(file)
    signature = reader.signature(file)
    if inputs is not None:
        first = next(iter(inputs.items(signature, file)), None)
        if first is None:
            raise DataError(f"the inputs at {inputs.place} hold no item; give at least one")
        choices = [*choices, {port: array.shape for port, array in first.items()}]
    every = sized(signature, file, choices)
    digest = reader.digest(file)
    quantized = reader.quantized(file)
    if reader.check is not None:
        reader.check(file, signature, quantized)
    varied = [port.name for port in signature.inputs if len({sizes[port.name] for sizes in every}) > 1]
    made = []
    for sizes in every:
        shapes = "_".join("x".join(map(str, sizes[port])) for port in varied)
        made.append(
            GivenFile(
                f"{name}_{shapes}" if shapes else name,
                place_of(file),
                digest,
                tuple(sizes.items()),
                inputs,
                quantized,
            )
        )
    return made


def taken(files: Sequence[GivenFile], registered: Mapping[str, GivenFile]) -> list[str]:
    """The names of given files that other models have."""
    return [given.name for given in files if given.name in models.names() and registered.get(given.name) != given]


def network_of(given: GivenFile) -> Network:
    """The network of a given file: a PyTorch module where its reader makes one, else the file as it is.

    Raises DataError where the file has changed since the session began.
    """
    reader = reader_of(given.file)
    if reader.module is None:
        return file_of(given)
    module = reader.module(given.file)
    if reader.digest(given.file) != given.digest:
        raise DataError(f"{given.file} was changed since this session began; start again")
    return module


def file_of(given: GivenFile) -> NetworkFile:
    """A given file with what it takes and gives."""
    signature = reader_of(given.file).signature(given.file)
    return NetworkFile(given.file, format_of(given.file), signature, dict(given.sizes), given.digest)


def as_they_are(inputs: Inputs) -> Inputs:
    """The preprocessing of a network file: none."""
    return inputs


def joined(outputs: Outputs | np.ndarray, item: Any) -> np.ndarray:
    """The answer of a network file: its outputs for an item, in a row where there are several."""
    import numpy as np

    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    return np.concatenate([np.ravel(part) for part in parts]) if len(parts) > 1 else np.asarray(parts[0])


def samples_of(given: GivenFile, split: str, folder: Path | None = None) -> Samples:
    """A split of a given file's inputs, without targets. What calibrates does not judge, where there are two."""
    network = file_of(given)
    if given.inputs is None:
        parts = drawn(network, split, reader_of(given.file).roles(given.file, network.signature))
    else:
        parts = given.inputs.items(network.signature, given.file)
    items = [item_of(network, part) for part in parts]
    if given.inputs is not None and len(items) > 1:
        items = items[::2] if split == "train" else items[1::2]
    return Samples(items, [None] * len(items))


def interface_of_file(network: NetworkFile, opened: Callable[[Inputs], Predict], inputs: Inputs) -> Interface:
    """How a network file holds its outputs, from calls of one item and of two.

    Where a call of two gives other numbers than two calls, the network takes one item in a call.

    opened  opens a session for inputs of these shapes.
    """
    import numpy as np

    def outputs(predict: Predict, items: Inputs) -> tuple[np.ndarray, ...]:
        given = predict(items.batch())
        return tuple(np.array(part) for part in given) if isinstance(given, tuple) else (np.array(given),)

    pair = inputs[[0, min(1, len(inputs) - 1)]]
    single = opened(pair[:1])
    alone = [outputs(single, item) for item in pair]
    names = tuple(port.name for port in network.signature.outputs)
    gives = "tensor" if len(alone[0]) == 1 else "dict"
    axes: list[int | None] = [None] * len(alone[0])
    if any(axis is not None for axis in network.batch_axes.values()):
        try:
            both = outputs(opened(pair), pair)
            axes = [_axis(part, [item[place] for item in alone]) for place, part in enumerate(both)]
        except Exception:  # any refusal of the runtime means that it takes one item in a call
            axes = [None] * len(alone[0])
    batch_axes = (None,) * len(axes) if None in axes else tuple(axes)
    return Interface(gives=gives, names=names, batch_axes=batch_axes)


def _axis(both: np.ndarray, alone: list[np.ndarray]) -> int | None:
    """The axis along which a call's output holds two items that were also computed alone; None where there is none."""
    import numpy as np

    for axis in range(both.ndim):
        if alone[0].ndim == both.ndim and alone[0].shape[axis] == 1 and both.shape[axis] == 2:
            wanted = np.concatenate(alone, axis)
            close = wanted.shape == both.shape and np.allclose(
                both, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(wanted).max(initial=0)), equal_nan=True
            )
            return axis if close else None
    return None


def model_name(file: Path) -> str:
    """A model's name for a network file: its stem, with letters that stand in an id and on a command line."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", file.stem.rpartition(":")[2]) or "network"
