"""The multiplications of an ExecuTorch program: those handed to XNNPACK, and those of ExecuTorch's own kernels."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bench.engines.lowered import Layer

Fields = dict[str, Any]  # of a node or a value, in flatc's JSON

# XNNPACK's data types, as its serialized graph names them
FORMATS = {
    **{"xnn_datatype_fp32": "fp32", "xnn_datatype_fp16": "fp16", "xnn_datatype_bf16": "bf16"},
    **{"xnn_datatype_pfp32": "fp32", "xnn_datatype_qcint4": "int4", "xnn_datatype_qbint4": "int4"},
    **dict.fromkeys((f"xnn_datatype_{kind}" for kind in ("qint8", "quint8", "qcint8", "qdint8", "qpint8")), "int8"),
}
# ExecuTorch's scalar types
PORTABLE = {"FLOAT": "fp32", "DOUBLE": "fp64", "HALF": "fp16", "BFLOAT16": "bf16", "CHAR": "int8", "BYTE": "int8"}
# by the number of axes of the input
CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}
UNHANDED = "not handed to XNNPACK: computed by ExecuTorch's own kernel in floating point"


def layers_of(program: bytes) -> list[Layer]:
    """The multiplications of a serialized program (built for one item) as layers."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    plan = deserialize_pte_binary(program).program
    layers: list[Layer] = []
    for method in plan.execution_plan:
        for chain in method.chains:
            for instruction in chain.instructions:
                call = instruction.instr_args
                kind = type(call).__name__
                if kind == "DelegateCall":
                    data = plan.backend_delegate_data[method.delegates[call.delegate_index].processed.index].data
                    layers += [layer for node in _nodes(bytes(data)) if (layer := _handed(*node)) is not None]
                elif kind == "KernelCall":
                    name = method.operators[call.op_index].name
                    values = [method.values[place].val for place in call.args]
                    tensors = [value for value in values if type(value).__name__ == "Tensor"]
                    if (layer := _unhanded(name, tensors)) is not None:
                        layers.append(layer)
    return [Layer(**{**vars(layer), "name": f"{layer.name} {place}"}) for place, layer in enumerate(layers)]


def _nodes(payload: bytes) -> Iterator[tuple[str, Fields, dict[int, Fields]]]:
    """Each node of an XNNPACK graph: its type, its fields, and the values of the whole graph by number."""
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as work:
        schema, binary = Path(work) / "schema.fbs", Path(work) / "graph.bin"
        schema.write_bytes(resources.files(serialization).joinpath("schema.fbs").read_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(work, str(schema), str(binary))
        text = re.sub(r":\s*(-?(?:inf|nan))\b", r': "\1"', (Path(work) / "graph.json").read_text())
        graph = json.loads(text)  # flatc writes inf and nan, which JSON lacks
    values: dict[int, Fields] = {}
    for value in graph["xvalues"]:
        tensor = value["xvalue_union"]
        tensor = tensor.get("tensor_value", tensor)
        values[tensor.get("id_out", 0)] = tensor
    for node in graph["xnodes"]:
        yield node["xnode_union_type"], node["xnode_union"], values


def _handed(kind: str, node: Fields, values: dict[int, Fields]) -> Layer | None:
    """The layer of a node of an XNNPACK graph, None where it multiplies nothing."""

    def dims(name: str) -> Sequence[int]:
        return values[node.get(name, 0)].get("dims", ())

    def format(name: str) -> str:
        datatype = values[node.get(name, 0)].get("datatype", "xnn_datatype_invalid")
        return FORMATS.get(datatype, datatype.removeprefix("xnn_datatype_"))

    bare = kind.removeprefix("_").removeprefix("XNN")
    if bare in ("Conv2d", "DepthwiseConv2d", "ConvTranspose2d"):
        taps = node.get("kernel_height", 1) * node.get("kernel_width", 1)
        weights = math.prod(dims("filter_id"))
        if bare == "ConvTranspose2d":
            macs = math.prod(dims("input1_id")) * taps * node["group_output_channels"]
        else:
            macs = math.prod(dims("output_id")) * taps * node["group_input_channels"]
        depthwise = bare == "DepthwiseConv2d" or (node.get("groups", 1) > 1 and node["group_input_channels"] == 1)
        convolution = "transposed" if bare == "ConvTranspose2d" else "depthwise" if depthwise else "conv2d"
        return Layer(bare, convolution, format("input1_id"), format("filter_id"), macs, weights)
    if bare == "FullyConnected":
        weights = math.prod(dims("filter_id"))
        macs = math.prod(dims("output_id")) * dims("input1_id")[-1]
        return Layer(bare, "linear", format("input1_id"), format("filter_id"), macs, weights)
    if bare == "BatchMatrixMultiply":
        held = format("input1_id")
        return Layer(bare, "matmul", held, held, math.prod(dims("output_id")) * dims("input1_id")[-1], 0)
    if bare == "ScaledDotProductAttention":
        queries, keys, held = dims("query_id"), dims("key_id"), format("query_id")
        return Layer(bare, "matmul", held, held, 2 * math.prod(queries) * keys[-2], 0)
    return None


def _unhanded(name: str, tensors: Sequence[Any]) -> Layer | None:
    """The layer of an ATen operator, None where it holds no weights and multiplies nothing.

    tensors  its inputs in order, then its output.
    """
    bare = name.removeprefix("aten::")
    shapes = [tuple(tensor.sizes) for tensor in tensors]
    if bare == "convolution" and len(shapes) >= 3:
        x, weight, y = shapes[0], shapes[1], shapes[-1]
        transposed = weight[0] == x[1] and weight[0] != y[1]
        macs = math.prod(x if transposed else y) * math.prod(weight[1:])
        grouped = weight[1] == 1 and x[1] > 1
        kind = "transposed" if transposed else "depthwise" if grouped else CONVOLUTIONS.get(len(x), "conv2d")
        return _portable(bare, kind, tensors[0], macs, math.prod(weight))
    if bare in ("mm", "bmm", "addmm", "baddbmm", "linear"):
        first, second = (1, 2) if bare in ("addmm", "baddbmm") else (0, 1)
        constant = tensors[second].data_buffer_idx > 0
        macs = math.prod(shapes[-1]) * shapes[first][-1]
        weights = math.prod(shapes[second]) if constant else 0
        return _portable(bare, "linear" if constant else "matmul", tensors[first], macs, weights)
    if bare == "embedding":
        return _portable(bare, "embedding", tensors[0], 0, math.prod(shapes[0]))
    return None


def _portable(name: str, kind: str, factor: Any, macs: int, weights: int) -> Layer:
    """A layer of ExecuTorch's own kernels, in the format of its factor."""
    held = PORTABLE.get(factor.scalar_type.name, factor.scalar_type.name.lower())
    return Layer(name, kind, held, held, macs, weights, UNHANDED)
