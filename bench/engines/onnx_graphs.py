"""What an ONNX graph says of its inputs and its weights, read without running it; and ONNX files with their weights."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.network import Port, Signature

if TYPE_CHECKING:
    import onnx

QUANTIZED = (
    *("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantize", "QuantizeLinear", "Dequantize"),
    *("MatMulNBits", "GatherBlockQuantized"),  # weights alone
)
PASSING = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Transpose", "Flatten")
# bytes of a single file: PyTorch's exporter puts the weights of a larger one beside it; protobuf reads none above 2 GB
LARGEST = 1536 * 2**20
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # places of initial states among a node's inputs


@dataclass(frozen=True)
class Role:
    """What a graph does with an input.

    below  whole numbers from 0 to below this: it looks up rows of a table.
    value  the number that the graph compares it with.
    state  it is the initial state of a recurrent layer.
    """

    below: int | None = None
    value: int | None = None
    state: bool = False


def graph_of(file: Path) -> onnx.ModelProto:
    """The parsed file, without weights that lie beside it; to be read, not changed. Raises DataError where it is no
    ONNX file.
    """
    try:
        facts = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    return _parsed(file, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=1)  # collecting a file asks for its graph four times
def _parsed(file: Path, _changed_ns: int, _size: int) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise DataError(f"{file} cannot be read as ONNX: {' '.join(str(error).split()) or 'it is damaged'}") from error
    if not model.graph.output:
        raise DataError(f"{file} cannot be read as ONNX: it holds no graph with outputs")
    return model


def signature_of_onnx(file: Path) -> Signature:
    """What an ONNX file takes and gives; weights that are listed as inputs are none. Raises DataError."""
    graph = graph_of(file).graph
    stored = {tensor.name for tensor in (*graph.initializer,)} | {
        tensor.values.name for tensor in graph.sparse_initializer
    }
    inputs = tuple(_port(value, file) for value in graph.input if value.name not in stored)
    return Signature(inputs, tuple(_port(value, file) for value in graph.output))


def _port(value: onnx.ValueInfoProto, file: Path) -> Port:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise DataError(f"{file} has {value.name}, a {kind or 'value without a type'}; bench gives networks tensors")
    tensor = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(tensor.elem_type)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        dtype = "object"
    if dtype in ("object", "bfloat16") or dtype.startswith(("float8", "float4")):
        raise DataError(f"{file} has {value.name} of {element}; bench gives networks numbers that numpy has")
    if not tensor.HasField("shape"):
        return Port(value.name, dtype)
    return Port(value.name, dtype, tuple(map(_extent, tensor.shape.dim)))


def _extent(dim: Any) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or "?"


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of a graph and of its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors_of(inner)


def data_files(file: Path) -> set[Path]:
    """The files beside an ONNX file that hold its weights. Raises DataError where one lies outside of its folder."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    places = {
        ExternalDataInfo(tensor).location for tensor in tensors_of(graph_of(file).graph) if uses_external_data(tensor)
    }
    for place in places:
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise DataError(f"{file} keeps weights in {place}, outside of its folder; put them beside the file")
    return {file.parent / place for place in places}


def large(file: Path) -> bool:
    """Whether an ONNX file with its weights is too large for a single file."""
    return sum(each.stat().st_size for each in (file, *data_files(file))) > LARGEST


def save(model: onnx.ModelProto, file: Path) -> None:
    """Write an ONNX file, in place of what is there; of a model too large for a single file the weights lie beside it.
    The model is not to be used further.
    """
    import onnx

    file = file.absolute()
    beside = file.with_name(f"{file.name}.data")
    beside.unlink(missing_ok=True)
    size = sum(_bytes_of(tensor) for tensor in tensors_of(model.graph))
    with contextlib.chdir(file.parent):  # where onnx looks for a file in the way
        onnx.save(model, file, save_as_external_data=size > LARGEST, location=beside.name, convert_attribute=True)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """About the size of a tensor; protobuf cannot tell that of one above 2 GB."""
    import onnx

    return math.prod(tensor.dims) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def copied(files: Iterable[Path], root: Path, folder: Path) -> None:
    """Copy files below `root` to the same places below `folder`."""
    for file in files:
        place = folder / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def quantized(file: Path) -> bool:
    """Whether a graph computes in INT8, quantizes and dequantizes, or holds weights in few bits."""
    return any(node.op_type.startswith(QUANTIZED) for node in nodes_of(graph_of(file).graph))


def roles(file: Path, signature: Signature) -> dict[str, Role]:
    """What the graph does with each of its inputs, where that tells what may be put in."""
    graph = graph_of(file).graph
    nodes = list(nodes_of(graph))
    constants = {tensor.name: tensor for tensor in tensors_of(graph)}
    constants |= {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return {port.name: _role(port, nodes, constants) for port in signature.inputs}


def _role(port: Port, nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> Role:
    """Follow a value through the operations that only move or cast it."""
    from onnx import numpy_helper

    same, below, state, value = {port.name}, list[int](), False, None
    for node in nodes:  # in the order of the graph: what makes a value stands before what takes it
        places = [place for place, name in enumerate(node.input) if name in same]
        if not places:
            continue
        first = constants.get(node.input[0])
        if node.op_type == "Gather" and places == [1] and first is not None and first.dims:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            below.append(int(first.dims[axis]))
        elif node.op_type == "OneHot" and 0 in places and (depth := constants.get(node.input[1])) is not None:
            below.append(int(numpy_helper.to_array(depth).ravel()[0]))
        elif node.op_type == "Equal" and value is None:
            other = constants.get(node.input[1 - places[0]])
            if other is not None and numpy_helper.to_array(other).size == 1:
                value = int(numpy_helper.to_array(other).ravel()[0])
        elif node.op_type in STATES and set(places) & set(STATES[node.op_type]):
            state = True
        elif node.op_type in PASSING and 0 in places:
            same.update(node.output)
    if port.dtype.startswith(("int", "uint")):
        single = port.shape is not None and port.shape in ((), (1,))
        return Role(below=min(below) if below else None, value=value if single else None)
    return Role(state=state)


def reason_of(error: Exception) -> str:
    """The error of ONNX Runtime or the parser about a file, without places in its own source."""
    import onnxruntime

    version = onnxruntime.__version__
    text = " ".join(str(error).split())
    newer = re.search(r"IR version: (\d+), max supported IR version: (\d+)", text)
    if newer is not None:
        return (
            f"it is of IR version {newer[1]}, and onnxruntime {version} reads none above {newer[2]}; export it for an "
            "older one, or install a newer onnxruntime"
        )
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"\S+\.cc:\d+ \S+( .*?\))?(?= [A-Z])", "", text) or type(error).__name__
