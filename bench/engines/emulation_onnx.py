"""Rewrites an ONNX graph's whole-number products as equal products of floating-point numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bench.engines.emulation_onnx_graph import TYPES, Place, quantized_now
from bench.engines.emulation_onnx_lstm import lstm
from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx

CLOSED = ("QAttention", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QGemm")


def in_floating_point(model: onnx.ModelProto) -> None:
    """Replace, in place, each node that multiplies whole numbers by float operations between DequantizeLinear and
    QuantizeLinear with the node's scales: the same graph by other kernels. Sums of ConvInteger are exact below 2^24,
    those of MatMulInteger below 2^53. Raises Unsupported where an operation has no such form here.
    """
    import onnx

    nodes: list[onnx.NodeProto] = []
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    whole = _of_8_bits(model)
    for node in model.graph.node:
        form = _FORMS.get(node.op_type)
        if node.op_type == "Resize" and node.input[0] not in whole:
            form = None
        if form is None:
            nodes.append(node)
            continue
        place = Place(node, stored)
        form(place)
        nodes += place.nodes
        model.graph.initializer.extend(place.constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if not any(opset.domain == "" for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 21))
    if left := sorted(set(multiplying_whole_numbers(model.graph.node))):
        raise Unsupported(f"no floating-point form is known of {', '.join(left)}")


def multiplying_whole_numbers(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """The operators, among the nodes and their inner graphs, that multiply whole numbers; a node each."""
    kinds = []
    for node in nodes:
        if "QLinear" in node.op_type or "Integer" in node.op_type or node.op_type in CLOSED:
            kinds.append(node.op_type)
        for attribute in node.attribute:
            kinds += multiplying_whole_numbers(attribute.g.node)
    return kinds


def _of_8_bits(model: onnx.ModelProto) -> set[str]:
    """The names of the tensors that the graph shows to hold whole numbers of 8 bits: quantized tensors, and those from
    operators that only move them.
    """
    moving = ("Reshape", "Transpose", "Resize", "MaxPool", "Concat", "Slice", "Squeeze", "Unsqueeze", "DepthToSpace")
    names: set[str] = set()
    for node in model.graph.node:
        makes = node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
        if makes or (node.op_type in moving and node.input[0] in names):
            names.update(node.output)
    return names


def _convolution(at: Place) -> None:
    if at.attributes.pop("channels_last", 0):
        raise Unsupported("no floating-point form is known of a QLinearConv whose channels come last")
    inputs = [at.taken(0), at.taken(3, axis=0)]
    if at.input[8]:
        inputs.append(at.bias(at.input[8], at.input[1], at.input[4]))
    at.gives_quantized(at.add("Conv", *inputs, **at.attributes), 6)


def _matmul(at: Place) -> None:
    at.gives_quantized(at.add("MatMul", at.taken(0), at.taken(3, axis=1)), 6)


def _gemm(at: Place) -> None:
    transposed = at.attributes.get("transB", 0)
    product_of = [at.taken(0), at.taken(3, axis=0 if transposed else 1)]
    if at.input[6]:
        product_of.append(at.bias(at.input[6], at.input[1], at.input[4], factor=at.attributes.get("alpha", 1.0)))
    product = at.add("Gemm", *product_of, **at.attributes)
    if at.input[7]:
        at.gives_quantized(product, 7)
    else:
        at.gives(product)


def _of_two(kind: str) -> Callable[[Place], None]:
    return lambda at: at.gives_quantized(at.add(kind, at.taken(0), at.taken(3)), 6)


def _of_one(kind: str) -> Callable[[Place], None]:
    def form(at: Place) -> None:
        last = at.attributes.pop("channels_last", 0)
        if last:
            raise Unsupported(f"no floating-point form is known of a {at.node.op_type} whose channels come last")
        at.attributes.pop("opset", None)
        at.gives_quantized(at.add(kind, at.taken(0), **at.attributes), 3)

    return form


def _concatenation(at: Place) -> None:
    count = (len(at.node.input) - 2) // 3
    parts = [at.taken(2 + 3 * place) for place in range(count)]
    at.gives_quantized(at.add("Concat", *parts, **at.attributes), 0)


def _choice(at: Place) -> None:
    at.gives_quantized(at.add("Where", at.input[0], at.taken(1), at.taken(4)), 7)


def _whole_convolution(at: Place) -> None:
    value, weight, zero, weight_zero = at.input[:4]
    axes = 0
    if weight_zero and at.values(weight_zero).ndim:
        axes = at.values(weight).ndim - 1
    product = at.add(
        "Conv", at.centred(value, zero, "float"), at.centred(weight, weight_zero, "float", axes), **at.attributes
    )
    at.gives(at.add("Cast", product, to=TYPES["int32"]))


def _whole_matmul(at: Place) -> None:
    value, weight, zero, weight_zero = at.input[:4]
    product = at.add("MatMul", at.centred(value, zero, "double"), at.centred(weight, weight_zero, "double"))
    at.gives(at.add("Cast", product, to=TYPES["int32"]))


def _dynamic_matmul(at: Place) -> None:
    value, weight, scale, zero, bias = at.input[:5]
    weight = at.add("DequantizeLinear", *filter(None, (weight, scale, zero)), axis=1)
    product = at.add("MatMul", quantized_now(at, value), weight)
    at.gives(at.add("Add", product, bias) if bias else product)


def _matmul_to_float(at: Place) -> None:
    value, weight, scale, weight_scale, zero, weight_zero, bias = at.input[:7]
    value = at.add("DequantizeLinear", *filter(None, (value, scale, zero)))
    weight = at.add("DequantizeLinear", *filter(None, (weight, weight_scale, weight_zero)), axis=1)
    product = at.add("MatMul", value, weight)
    at.gives(at.add("Add", product, bias) if bias else product)


def _resized(at: Place) -> None:
    """Interpolated whole numbers, rounded to the nearest, where the whole-number kernel cuts off."""
    import numpy as np

    value = at.add("Resize", at.add("Cast", at.input[0], to=TYPES["float"]), *at.node.input[1:], **at.attributes)
    held = at.add("Clip", at.add("Round", value), at.constant(np.float32(0)), at.constant(np.float32(255)))
    at.gives(at.add("Cast", held, to=TYPES["uint8"]))


_FORMS: dict[str, Callable[[Place], None]] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _of_two("Add"),
    "QLinearMul": _of_two("Mul"),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearLeakyRelu": _of_one("LeakyRelu"),
    "QLinearSoftmax": _of_one("Softmax"),
    "QLinearAveragePool": _of_one("AveragePool"),
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "QLinearConcat": _concatenation,
    "QLinearWhere": _choice,
    "ConvInteger": _whole_convolution,
    "MatMulInteger": _whole_matmul,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_to_float,
    "DynamicQuantizeLSTM": lstm,
    "Resize": _resized,
}
