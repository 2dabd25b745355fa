"""Networks that are files and run as they are: what they take, drawn or real inputs for them, and their models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.exported_programs import (
    check_program,
    is_quantized_program,
    module_of,
    program_of,
    signature_of_program,
)
from bench.build.file_inputs import DRAWN, ITEMS, NO_TARGETS, RealInputs, digest_of, drawn, item_of
from bench.engines.onnx_graphs import data_files, quantized, signature_of_onnx
from bench.errors import DataError
from bench.spec.dataset import Dataset, Samples, datasets
from bench.spec.inputs import Inputs
from bench.spec.interface import Interface
from bench.spec.model import Model, Weights, models
from bench.spec.network import FORMATS, NetworkFile, Port, Signature, Sizes, sized

if TYPE_CHECKING:
    import numpy as np

    from bench.spec.interface import Outputs, Predict
    from bench.spec.model import Network

TOLERANCE = 1e-3  # of outputs of two items in one call against each alone: absolute and relative
# of an IR with static scales, and of one whose weights are INT8, with activations quantized at run time
IN_INT8 = (b'type="FakeQuantize"', b'<data element_type="i8"')
OF_IR = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"} | {
    f"{sign}{bits}": f"{'u' * (sign == 'u')}int{bits}" for sign in "iu" for bits in (8, 16, 32, 64)
}


def signature_of(file: Path) -> Signature:
    """What a network file takes and gives. Raises DataError where it cannot be read."""
    readers = {".onnx": signature_of_onnx, ".xml": _signature_of_ir, ".pt2": signature_of_program}
    return readers[file.suffix](file)


def files_of(file: Path) -> list[Path]:
    """A network file and the files beside it that hold its weights. Raises DataError where one is missing."""
    if file.suffix == ".pt2":
        return [file]
    beside = [file.with_suffix(".bin")] if file.suffix == ".xml" else sorted(data_files(file))
    for data in beside:
        if not data.is_file():
            raise DataError(f"{file} keeps its weights in {data}, which is not there; put it beside the file")
    return [file, *beside]


def _signature_of_ir(file: Path) -> Signature:
    from xml.etree import ElementTree

    try:
        layers = list(ElementTree.parse(file).iterfind("layers/layer"))
    except ElementTree.ParseError as error:
        raise DataError(f"{file} cannot be read as OpenVINO's IR: {error}") from error

    def port(layer: ElementTree.Element, value: ElementTree.Element) -> Port:
        names = (value.get("names") or layer.get("name") or "").split(",")
        extents = [int(extent.text or -1) for extent in value.iterfind("dim")]
        kind = (value.get("precision") or "").lower().replace("fp", "f")
        return Port(names[0], OF_IR.get(kind, kind), tuple(extent if extent >= 0 else "?" for extent in extents))

    inputs = [
        port(layer, value)
        for layer in layers
        if layer.get("type") == "Parameter"
        for value in layer.iterfind("output/port")
    ]
    outputs = [
        port(layer, value)
        for layer in layers
        if layer.get("type") == "Result"
        for value in layer.iterfind("input/port")
    ]
    if not inputs or not outputs:
        raise DataError(f"{file} is no IR of OpenVINO with inputs and outputs")
    return Signature(tuple(inputs), tuple(outputs))


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
                format=FORMATS[self.file.suffix],
                quantized=self.quantized,
                calibration=ITEMS["train"] if self.inputs is None else Model.calibration,
            ),
        )


def given_files(file: Path, choices: Sequence[Sizes], inputs: RealInputs | None, name: str) -> list[GivenFile]:
    """The models of a network file: one for each choice of the sizes that it leaves free.

    Raises DataError where the file cannot be read, or leaves sizes free that are in no choice and no input.
    """
    signature = signature_of(file)
    if inputs is not None:
        first = next(iter(inputs.items(signature, file)), None)
        if first is None:
            raise DataError(f"the inputs at {inputs.place} hold no item; give at least one")
        choices = [*choices, {port: array.shape for port, array in first.items()}]
    every = sized(signature, file, choices)
    digest = digest_of(files_of(file))
    quantized = is_quantized(file)
    if file.suffix == ".pt2":
        check_program(file, signature, quantized)
    varied = [port.name for port in signature.inputs if len({sizes[port.name] for sizes in every}) > 1]
    made = []
    for sizes in every:
        shapes = "_".join("x".join(map(str, sizes[port])) for port in varied)
        made.append(
            GivenFile(
                f"{name}_{shapes}" if shapes else name,
                file.absolute(),
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


def is_quantized(file: Path) -> bool:
    """Whether a network file computes in INT8 already."""
    if file.suffix == ".pt2":
        return is_quantized_program(file)
    if FORMATS[file.suffix] == "onnx":
        return quantized(file)
    text = file.read_bytes()
    return any(mark in text for mark in IN_INT8)


def network_of(given: GivenFile) -> Network:
    """The network of a given file: an exported program as a PyTorch module, any other file as it is.

    Raises DataError where the file has changed since the session began.
    """
    if given.file.suffix != ".pt2":
        return file_of(given)
    program = program_of(given.file)
    if digest_of([given.file]) != given.digest:
        raise DataError(f"{given.file} was changed since this session began; start again")
    return module_of(program)


def file_of(given: GivenFile) -> NetworkFile:
    """A given file with what it takes and gives."""
    format = FORMATS[given.file.suffix]
    return NetworkFile(given.file, format, signature_of(given.file), dict(given.sizes), given.digest)


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
    parts = drawn(network, split) if given.inputs is None else given.inputs.items(network.signature, given.file)
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
    return re.sub(r"[^A-Za-z0-9_.]+", "_", file.stem) or "network"
