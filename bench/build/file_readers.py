"""How networks are read that are files, or have a name in a library: a row for each kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.build import named_networks as named
from bench.build.exported_programs import (
    check_program,
    is_quantized_program,
    module_of,
    program_of,
    roles_of_program,
    signature_of_program,
)
from bench.build.file_inputs import digest_of
from bench.engines.onnx_graphs import Role, data_files, quantized, roles, signature_of_onnx
from bench.errors import DataError
from bench.spec.network import NAMED, Port, Signature, kind_of

if TYPE_CHECKING:
    import torch

# of an IR with static scales, and of one whose weights are INT8, with activations quantized at run time
IN_INT8 = (b'type="FakeQuantize"', b'<data element_type="i8"')
OF_IR = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"} | {
    f"{sign}{bits}": f"{'u' * (sign == 'u')}int{bits}" for sign in "iu" for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Reader:
    """How the networks of a kind are read. All functions raise DataError where a network cannot be read.

    signature  what it takes and gives.
    files      the files that it is: itself, and those beside it that hold its weights.
    quantized  whether it computes in INT8 already.
    roles      what it does with its inputs, by name.
    module     the network as a PyTorch module in eval mode; None: it runs as it is.
    check      (file, signature, whether it is quantized) -> None: refuses what cannot be measured.
    identity   what tells networks of a name apart beside their files; None: the files do.
    """

    signature: Callable[[Path], Signature]
    files: Callable[[Path], list[Path]]
    quantized: Callable[[Path], bool]
    roles: Callable[[Path, Signature], dict[str, Role]]
    module: Callable[[Path], torch.nn.Module] | None = None
    check: Callable[[Path, Signature, bool], None] | None = None
    identity: Callable[[Path], str] | None = None

    def digest(self, file: Path) -> str:
        """The sha256 of a network's files, and of what else tells it apart."""
        digest = digest_of(self.files(file))
        return digest if self.identity is None else hashlib.sha256((digest + self.identity(file)).encode()).hexdigest()


def reader_of(file: Path) -> Reader:
    """The reader of a network file, or of a network by its name."""
    return READERS[kind_of(file)]


def _with(beside: Callable[[Path], list[Path]]) -> Callable[[Path], list[Path]]:
    """The files of a network whose weights lie beside it. Raises DataError where one is missing."""

    def files(file: Path) -> list[Path]:
        others = beside(file)
        for other in others:
            if not other.is_file():
                raise DataError(f"{file} keeps its weights in {other}, which is not there; put it beside the file")
        return [file, *others]

    return files


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


def _is_quantized_ir(file: Path) -> bool:
    text = file.read_bytes()
    return any(mark in text for mark in IN_INT8)


READERS = {
    ".onnx": Reader(signature_of_onnx, _with(lambda file: sorted(data_files(file))), quantized, roles),
    ".xml": Reader(
        _signature_of_ir, _with(lambda file: [file.with_suffix(".bin")]), _is_quantized_ir, lambda file, signature: {}
    ),
    ".pt2": Reader(
        signature_of_program,
        lambda file: [file],
        is_quantized_program,
        lambda file, signature: roles_of_program(file),
        lambda file: module_of(program_of(file)),
        check_program,
    ),
    **{
        library: Reader(
            named.signature_of,
            named.files_of,
            lambda file: False,
            named.roles_of,
            named.module_of,
            identity=named.identity_of,
        )
        for library in NAMED
    },
}
