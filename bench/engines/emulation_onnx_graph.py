"""A place in an ONNX graph where a node is told by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx


class Place:
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


def quantized_now(at: Place, name: str) -> str:
    """A number, quantized by its own range and dequantized."""
    import onnx

    parts = [f"{at.node.output[0]}/now_{len(at.nodes)}_{part}" for part in ("value", "scale", "zero")]
    at.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [name], parts))
    return at.add("DequantizeLinear", *parts)


TYPES = {"float": 1, "uint8": 2, "int32": 6, "double": 11}
