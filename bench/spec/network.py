"""A network that is a file and runs as it is: what it takes and gives, and the sizes that the file leaves free."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError

Sizes = Mapping[str, tuple[int, ...]]  # the whole shape of an input, by its name


@dataclass(frozen=True)
class Port:
    """An input or output of a network.

    dtype  numpy's name of its type.
    shape  its extents; a free one by its name in the file, "?" where it has none. None where the file tells no shape.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None = None

    def __str__(self) -> str:
        extents = "?" if self.shape is None else ", ".join(map(str, self.shape))
        return f"{self.name} {self.dtype} ({extents})"


@dataclass(frozen=True)
class Signature:
    """What a network takes and gives."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def batch_axes(self) -> dict[str, int | None]:
        """The axis of the items of a call, by input: where the file leaves free the first axis of an input, and the
        axes of the same name in others. None for inputs without.
        """
        first = {port.shape[0] for port in self.inputs if port.shape and isinstance(port.shape[0], str)}
        return {
            port.name: next((axis for axis, extent in enumerate(port.shape or ()) if extent in first), None)
            for port in self.inputs
        }

    @property
    def ranks(self) -> dict[str, int]:
        """How many axes each input has, by name, where the file tells."""
        return {port.name: len(port.shape) for port in self.inputs if port.shape is not None}

    def free(self, sizes: Sizes) -> list[str]:
        """The free extents of each input whose size is not given, as words; the axis of the items counts as 1."""
        return [
            f"{port.name} ({', '.join(map(str, port.shape or '?'))})"
            for port in self.inputs
            if port.name not in sizes and self.fixed(port) is None
        ]

    def fixed(self, port: Port) -> tuple[int, ...] | None:
        """The shape of an input for one item; None where more than the axis of the items is free."""
        if port.shape is None:
            return None
        axis = self.batch_axes[port.name]
        shape = tuple(1 if place == axis else extent for place, extent in enumerate(port.shape))
        return None if any(isinstance(extent, str) for extent in shape) else tuple(map(int, shape))


@dataclass(frozen=True)
class NetworkFile:
    """A network that is a file and runs as it is.

    format  "onnx", "openvino-ir" or "torch": what an engine must read to run it.
    sizes   the shape of each input for one item, by name.
    digest  sha256 of the file and of its weights beside it, as they were when the session began.
    """

    file: Path
    format: str
    signature: Signature
    sizes: Sizes
    digest: str

    @property
    def batch_axes(self) -> dict[str, int | None]:
        """The axis of the items of a call, by input."""
        return self.signature.batch_axes


# of a network file, by its ending; an exported program becomes a PyTorch network
FORMATS = {".onnx": "onnx", ".xml": "openvino-ir", ".pt2": "torch"}
# of a network by its name, such as hf:NAME, by what comes before it; all become PyTorch networks
NAMED = {"hf:": "torch", "timm:": "torch", "torchvision:": "torch"}


def kind_of(file: Path) -> str:
    """The ending of a network file, or the library of a network's name."""
    return next((library for library in NAMED if str(file).startswith(library)), file.suffix)


def format_of(file: Path) -> str:
    """What an engine must read to run a network file, or a network by its name."""
    return (FORMATS | NAMED)[kind_of(file)]


def place_of(file: Path) -> Path:
    """The absolute path of a network file; a network's name as it is."""
    return file if kind_of(file) in NAMED else file.absolute()


def sized(signature: Signature, file: Path, given: Sequence[Sizes]) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs, once for each choice among those given.

    Given sizes count where all their names are inputs of this file and fit what it fixes; those for the same inputs are
    choices. Raises DataError, with what to type, where extents stay free.
    """
    choices: dict[frozenset[str], list[Sizes]] = {}
    ports = {port.name: port for port in signature.inputs}
    for sizes in given:
        if sizes.keys() <= ports.keys() and all(_fits(ports[name], shape) for name, shape in sizes.items()):
            choices.setdefault(frozenset(sizes), []).append(sizes)
    made = []
    for combined in itertools.product(*choices.values()):
        shapes = {name: shape for sizes in combined for name, shape in sizes.items()}
        if free := signature.free(shapes):
            asked = next(port for port in signature.inputs if port.name not in shapes and signature.fixed(port) is None)
            axis, extents = signature.batch_axes[asked.name], enumerate(asked.shape or ("?",))
            words = ["1" if place == axis else "?" if isinstance(size, str) else str(size) for place, size in extents]
            raise DataError(
                f"{file} leaves sizes free, of {'; '.join(free)}: name them by --bench-shape "
                f"{asked.name}={'x'.join(words)} with a number for each ?, or give real inputs by --bench-inputs"
            )
        made.append({port.name: shapes.get(port.name) or signature.fixed(port) or () for port in signature.inputs})
    return made


def _fits(port: Port, shape: tuple[int, ...]) -> bool:
    if port.shape is None:
        return True
    return len(shape) == len(port.shape) and all(
        isinstance(extent, str) or extent == size for extent, size in zip(port.shape, shape, strict=True)
    )
