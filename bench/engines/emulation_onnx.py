"""An ONNX graph's whole-number products, written as products of floating-point numbers that say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx

CLOSED = ("QAttention", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QGemm")
TYPES = {"float": 1, "uint8": 2, "int32": 6, "double": 11}


def in_floating_point(model: onnx.ModelProto) -> None:
    """Put, in place, float operations between DequantizeLinear and QuantizeLinear, of the node's own scales, for each
    node that multiplies whole numbers: what the graph says, by other kernels. Sums of ConvInteger are exact below 2^24,
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
        place = _Place(node, stored)
        form(place)
        nodes += place.nodes
        model.graph.initializer.extend(place.constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if not any(one.domain == "" for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 21))
    if left := sorted(set(multiplying_whole_numbers(model.graph.node))):
        raise Unsupported(f"no floating-point form is known of {', '.join(left)}")


def multiplying_whole_numbers(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """The kinds of those nodes, and of the nodes inside them, that multiply whole numbers."""
    found = []
    for node in nodes:
        if "QLinear" in node.op_type or "Integer" in node.op_type or node.op_type in CLOSED:
            found.append(node.op_type)
        for attribute in node.attribute:
            found += multiplying_whole_numbers(attribute.g.node)
    return found


def _of_8_bits(model: onnx.ModelProto) -> set[str]:
    """The names of the tensors that hold whole numbers of 8 bits, where the graph tells: what is quantized, and what
    only moves it.
    """
    moving = ("Reshape", "Transpose", "Resize", "MaxPool", "Concat", "Slice", "Squeeze", "Unsqueeze", "DepthToSpace")
    found: set[str] = set()
    for node in model.graph.node:
        makes = node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
        if makes or (node.op_type in moving and node.input[0] in found):
            found.update(node.output)
    return found


class _Place:
    """Where one node stood: makes the nodes that take its place, their names led by its output's."""

    def __init__(self, node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> None:
        import onnx

        self.node = node
        self.stored = stored
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = [*node.input, *[""] * (16 - len(node.input))]
        self.attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output; gives the output's name."""
        import onnx

        name = f"{self.node.output[0]}/{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        """An initializer; gives its name."""
        from onnx import numpy_helper

        name = f"{self.node.output[0]}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def values(self, name: str) -> Any:
        """What an initializer holds. Raises Unsupported where the name is none's."""
        from onnx import numpy_helper

        if name not in self.stored:
            raise Unsupported(f"{self.node.op_type} computes its own {name}, no constant")
        return numpy_helper.to_array(self.stored[name])

    def gives(self, name: str) -> None:
        """End: the node's output is what has this name."""
        import onnx

        self.nodes.append(onnx.helper.make_node("Identity", [name], [self.node.output[0]]))

    def taken(self, first: int, axis: int = 0) -> str:
        """The number that inputs `first`, its scale and its zero point stand for."""
        name, scale, zero = self.input[first : first + 3]
        return self.add("DequantizeLinear", *filter(None, (name, scale, zero)), axis=axis)

    def gives_quantized(self, name: str, scale: int) -> None:
        """End: the output is this number, quantized by the inputs `scale` and the one after it."""
        self.gives(self.add("QuantizeLinear", name, *filter(None, self.input[scale : scale + 2]), axis=0))

    def bias(self, name: str, *scales: str, factor: float = 1.0) -> str:
        """The number that a whole-number bias stands for: its unit is the product of the scales and the factor."""
        import numpy as np

        unit = self.add("Mul", *scales)
        if factor != 1.0:
            unit = self.add("Mul", unit, self.constant(np.float32(factor)))
        return self.add("Mul", self.add("Cast", name, to=TYPES["float"]), unit)

    def centred(self, name: str, zero: str, kind: str, axes: int = 0) -> str:
        """Whole numbers less their zero point, as floating-point numbers of a kind; `axes` new ones of the zero point
        come behind.
        """
        import numpy as np

        value = self.add("Cast", name, to=TYPES[kind])
        if not zero:
            return value
        zero = self.add("Cast", zero, to=TYPES[kind])
        if axes:
            shape = self.constant(np.array([-1] + [1] * axes, np.int64))
            zero = self.add("Reshape", zero, shape)
        return self.add("Sub", value, zero)


def _convolution(at: _Place) -> None:
    if at.attributes.pop("channels_last", 0):
        raise Unsupported("no floating-point form is known of a QLinearConv whose channels come last")
    inputs = [at.taken(0), at.taken(3, axis=0)]
    if at.input[8]:
        inputs.append(at.bias(at.input[8], at.input[1], at.input[4]))
    at.gives_quantized(at.add("Conv", *inputs, **at.attributes), 6)


def _matmul(at: _Place) -> None:
    at.gives_quantized(at.add("MatMul", at.taken(0), at.taken(3, axis=1)), 6)


def _gemm(at: _Place) -> None:
    transposed = at.attributes.get("transB", 0)
    product_of = [at.taken(0), at.taken(3, axis=0 if transposed else 1)]
    if at.input[6]:
        product_of.append(at.bias(at.input[6], at.input[1], at.input[4], factor=at.attributes.get("alpha", 1.0)))
    product = at.add("Gemm", *product_of, **at.attributes)
    if at.input[7]:
        at.gives_quantized(product, 7)
    else:
        at.gives(product)


def _of_two(kind: str) -> Callable[[_Place], None]:
    return lambda at: at.gives_quantized(at.add(kind, at.taken(0), at.taken(3)), 6)


def _of_one(kind: str) -> Callable[[_Place], None]:
    def form(at: _Place) -> None:
        last = at.attributes.pop("channels_last", 0)
        if last:
            raise Unsupported(f"no floating-point form is known of a {at.node.op_type} whose channels come last")
        at.attributes.pop("opset", None)
        at.gives_quantized(at.add(kind, at.taken(0), **at.attributes), 3)

    return form


def _concatenation(at: _Place) -> None:
    count = (len(at.node.input) - 2) // 3
    parts = [at.taken(2 + 3 * place) for place in range(count)]
    at.gives_quantized(at.add("Concat", *parts, **at.attributes), 0)


def _choice(at: _Place) -> None:
    at.gives_quantized(at.add("Where", at.input[0], at.taken(1), at.taken(4)), 7)


def _whole_convolution(at: _Place) -> None:
    value, weight, zero, weight_zero = at.input[:4]
    axes = 0
    if weight_zero and at.values(weight_zero).ndim:
        axes = at.values(weight).ndim - 1
    product = at.add(
        "Conv", at.centred(value, zero, "float"), at.centred(weight, weight_zero, "float", axes), **at.attributes
    )
    at.gives(at.add("Cast", product, to=TYPES["int32"]))


def _whole_matmul(at: _Place) -> None:
    value, weight, zero, weight_zero = at.input[:4]
    product = at.add("MatMul", at.centred(value, zero, "double"), at.centred(weight, weight_zero, "double"))
    at.gives(at.add("Cast", product, to=TYPES["int32"]))


def _quantized_now(at: _Place, name: str) -> str:
    """A number, quantized by its own range and dequantized."""
    import onnx

    parts = [f"{at.node.output[0]}/now_{len(at.nodes)}_{part}" for part in ("value", "scale", "zero")]
    at.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [name], parts))
    return at.add("DequantizeLinear", *parts)


def _dynamic_matmul(at: _Place) -> None:
    value, weight, scale, zero, bias = at.input[:5]
    weight = at.add("DequantizeLinear", *filter(None, (weight, scale, zero)), axis=1)
    product = at.add("MatMul", _quantized_now(at, value), weight)
    at.gives(at.add("Add", product, bias) if bias else product)


def _matmul_to_float(at: _Place) -> None:
    value, weight, scale, weight_scale, zero, weight_zero, bias = at.input[:7]
    value = at.add("DequantizeLinear", *filter(None, (value, scale, zero)))
    weight = at.add("DequantizeLinear", *filter(None, (weight, weight_scale, weight_zero)), axis=1)
    product = at.add("MatMul", value, weight)
    at.gives(at.add("Add", product, bias) if bias else product)


def _lstm(at: _Place) -> None:
    """The inputs of all steps quantized together, the state before each step, by their own ranges; one Scan over the
    steps for each direction. Gates stand in ONNX's order: input, output, forget, cell.
    """
    import numpy as np
    import onnx

    value, _, _, bias, lengths, first_hidden, first_cell, peepholes = at.input[:8]
    plain = {b"sigmoid", b"tanh"}
    if (
        lengths
        or peepholes
        or "clip" in at.attributes
        or not {one.lower() for one in at.attributes.get("activations", plain)} <= plain
        or at.attributes.get("input_forget")
    ):
        raise Unsupported(
            "no floating-point form is known of an LSTM with lengths, peepholes, a clip or other functions"
        )
    way = at.attributes.get("direction", b"forward")
    size = at.attributes["hidden_size"]

    def dequantized(weight: int, scale: int) -> Any:
        whole, unit, zero = (at.values(at.input[place]) for place in (weight, scale, scale + 1))
        shape = (len(whole), 1, -1)
        return ((whole.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * unit.reshape(shape)).astype(
            np.float32
        )

    weights, recurrent = dequantized(1, 8), dequantized(2, 10)
    biases = at.values(bias) if bias else np.zeros((len(weights), 8 * size), np.float32)
    given = _quantized_now(at, value)
    steps, hiddens, cells = [], [], []
    for place in range(len(weights)):
        own = at.constant(np.array([place], np.int64))
        start = [
            at.add("Squeeze", at.add("Gather", name, own, axis=0), at.constant(np.array([0], np.int64)))
            if name
            else at.add("Expand", at.constant(np.float32(0)), _state_shape(at, value, size))
            for name in (first_hidden, first_cell)
        ]
        products = at.add("MatMul", given, at.constant(weights[place]))
        both = (biases[place, : 4 * size] + biases[place, 4 * size :]).astype(np.float32)
        products = at.add("Add", products, at.constant(both))
        body = _step(f"{at.node.output[0]}/{place}", recurrent[place])
        backward = int(way == b"reverse" or place == 1)
        names = [f"{at.node.output[0]}/{place}/{part}" for part in ("hidden", "cell", "steps")]
        at.nodes.append(
            onnx.helper.make_node(
                *("Scan", [*start, products], names),
                body=body,
                num_scan_inputs=1,
                scan_input_directions=[backward],
                scan_output_directions=[backward],
            )
        )
        one = at.constant(np.array([1], np.int64))
        zero = at.constant(np.array([0], np.int64))
        steps.append(at.add("Unsqueeze", names[2], one))
        hiddens.append(at.add("Unsqueeze", names[0], zero))
        cells.append(at.add("Unsqueeze", names[1], zero))
    for output, parts, axis in zip(at.node.output, (steps, hiddens, cells), (1, 0, 0), strict=False):
        if output:
            at.nodes.append(onnx.helper.make_node("Concat", parts, [output], axis=axis))


def _state_shape(at: _Place, value: str, size: int) -> str:
    """(batch, size) for an input of (steps, batch, values)."""
    import numpy as np

    batch = at.add("Gather", at.add("Shape", value), at.constant(np.array([1], np.int64)), axis=0)
    return at.add("Concat", batch, at.constant(np.array([size], np.int64)), axis=0)


def _step(name: str, recurrent: Any) -> onnx.GraphProto:
    """A step of an LSTM: (hidden, cell, what the input adds to the gates) -> (hidden, cell, hidden)."""
    from onnx import TensorProto, helper, numpy_helper

    def own(part: str) -> str:
        return f"{name}/step/{part}"

    def value(part: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(own(part), TensorProto.FLOAT, None)

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(
            kind, [own(one) for one in inputs.split()], [own(one) for one in outputs.split()], **attributes
        )

    nodes = [
        node("DynamicQuantizeLinear", "h", "whole scale zero"),
        node("DequantizeLinear", "whole scale zero", "h_now"),
        node("MatMul", "h_now r", "recurrent"),
        node("Add", "x recurrent", "gates"),
        node("Split", "gates", "i o f c", axis=-1, num_outputs=4),
        *(node("Sigmoid", one, f"{one}_open") for one in "iof"),
        node("Tanh", "c", "c_new"),
        node("Mul", "f_open cell", "kept"),
        node("Mul", "i_open c_new", "added"),
        node("Add", "kept added", "cell_out"),
        node("Tanh", "cell_out", "shown"),
        node("Mul", "o_open shown", "h_out"),
        node("Identity", "h_out", "y"),
    ]
    stored = [numpy_helper.from_array(recurrent, own("r"))]
    return helper.make_graph(
        nodes,
        own("graph"),
        [value("h"), value("cell"), value("x")],
        [value("h_out"), value("cell_out"), value("y")],
        stored,
    )


def _resized(at: _Place) -> None:
    """Whole numbers that are interpolated: rounded to the nearest, where the kernel for them cuts off."""
    import numpy as np

    value = at.add("Resize", at.add("Cast", at.input[0], to=TYPES["float"]), *at.node.input[1:], **at.attributes)
    held = at.add("Clip", at.add("Round", value), at.constant(np.float32(0)), at.constant(np.float32(255)))
    at.gives(at.add("Cast", held, to=TYPES["uint8"]))


_FORMS: dict[str, Callable[[_Place], None]] = {
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
    "DynamicQuantizeLSTM": _lstm,
    "Resize": _resized,
}
