"""A place in an ONNX graph where other nodes replace a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx


class Place:
    """The place of a node: makes the nodes that replace it, whose names begin with its output's."""

    def __init__(self, node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> None:
        import onnx

        self.node = node
        self.stored = stored
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = [*node.input, *[""] * (16 - len(node.input))]
        self.attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with a single output; return the output's name."""
        import onnx

        name = f"{self.node.output[0]}/{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        """Add an initializer; return its name."""
        from onnx import numpy_helper

        name = f"{self.node.output[0]}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def values(self, name: str) -> Any:
        """The values of an initializer. Raises Unsupported where no initializer has the name."""
        from onnx import numpy_helper

        if name not in self.stored:
            raise Unsupported(f"the graph computes {name}, an input of {self.node.op_type} that must be a constant")
        return numpy_helper.to_array(self.stored[name])

    def gives(self, name: str) -> None:
        """End: make the named value the node's output."""
        import onnx

        self.nodes.append(onnx.helper.make_node("Identity", [name], [self.node.output[0]]))

    def taken(self, first: int, axis: int = 0) -> str:
        """Dequantize input `first`, whose scale and zero point are the next two inputs; return the name."""
        name, scale, zero = self.input[first : first + 3]
        return self.add("DequantizeLinear", *filter(None, (name, scale, zero)), axis=axis)

    def gives_quantized(self, name: str, scale: int) -> None:
        """End: the output is this value, quantized by input `scale` and the zero point at the next input."""
        self.gives(self.add("QuantizeLinear", name, *filter(None, self.input[scale : scale + 2]), axis=0))

    def bias(self, name: str, *scales: str, factor: float = 1.0) -> str:
        """A whole-number bias in floating point: its unit is the product of the scales and the factor."""
        import numpy as np

        unit = self.add("Mul", *scales)
        if factor != 1.0:
            unit = self.add("Mul", unit, self.constant(np.float32(factor)))
        return self.add("Mul", self.add("Cast", name, to=TYPES["float"]), unit)

    def centred(self, name: str, zero: str, kind: str, axes: int = 0) -> str:
        """Whole numbers less their zero point, as floating-point numbers of type `kind`; the zero point gets `axes` new
        axes at its end.
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
    """A value quantized by its range at run time and dequantized; return the name."""
    import onnx

    parts = [f"{at.node.output[0]}/now_{len(at.nodes)}_{part}" for part in ("value", "scale", "zero")]
    at.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [name], parts))
    return at.add("DequantizeLinear", *parts)


TYPES = {"float": 1, "uint8": 2, "int32": 6, "double": 11}
