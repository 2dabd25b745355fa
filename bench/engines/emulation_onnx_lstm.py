"""A dynamically quantized LSTM of ONNX Runtime in floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.engines.emulation_onnx_graph import Place, quantized_now
from bench.errors import Unsupported

if TYPE_CHECKING:
    import onnx


def lstm(at: Place) -> None:
    """Replace the node by a Scan over the steps for each direction. The inputs of all steps are quantized together, the
    state before each step, each by its range. Gates are in ONNX's order: input, output, forget, cell.
    """
    import numpy as np
    import onnx

    value, _, _, bias, lengths, first_hidden, first_cell, peepholes = at.input[:8]
    plain = {b"sigmoid", b"tanh"}
    if (
        lengths
        or peepholes
        or "clip" in at.attributes
        or not {name.lower() for name in at.attributes.get("activations", plain)} <= plain
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
    given = quantized_now(at, value)
    steps, hiddens, cells = [], [], []
    for place in range(len(weights)):
        direction = at.constant(np.array([place], np.int64))
        start = [
            at.add("Squeeze", at.add("Gather", name, direction, axis=0), at.constant(np.array([0], np.int64)))
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
        second = at.constant(np.array([1], np.int64))
        first = at.constant(np.array([0], np.int64))
        steps.append(at.add("Unsqueeze", names[2], second))
        hiddens.append(at.add("Unsqueeze", names[0], first))
        cells.append(at.add("Unsqueeze", names[1], first))
    for output, parts, axis in zip(at.node.output, (steps, hiddens, cells), (1, 0, 0), strict=False):
        if output:
            at.nodes.append(onnx.helper.make_node("Concat", parts, [output], axis=axis))


def _state_shape(at: Place, value: str, size: int) -> str:
    """The name of the shape (batch, size), for an input of (steps, batch, values)."""
    import numpy as np

    batch = at.add("Gather", at.add("Shape", value), at.constant(np.array([1], np.int64)), axis=0)
    return at.add("Concat", batch, at.constant(np.array([size], np.int64)), axis=0)


def _step(name: str, recurrent: Any) -> onnx.GraphProto:
    """A step of an LSTM: (hidden, cell, the input's part of the gates) -> (hidden, cell, hidden)."""
    from onnx import TensorProto, helper, numpy_helper

    def named(part: str) -> str:
        return f"{name}/step/{part}"

    def value(part: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(named(part), TensorProto.FLOAT, None)

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(
            kind, [named(part) for part in inputs.split()], [named(part) for part in outputs.split()], **attributes
        )

    nodes = [
        node("DynamicQuantizeLinear", "h", "whole scale zero"),
        node("DequantizeLinear", "whole scale zero", "h_now"),
        node("MatMul", "h_now r", "recurrent"),
        node("Add", "x recurrent", "gates"),
        node("Split", "gates", "i o f c", axis=-1, num_outputs=4),
        *(node("Sigmoid", gate, f"{gate}_open") for gate in "iof"),
        node("Tanh", "c", "c_new"),
        node("Mul", "f_open cell", "kept"),
        node("Mul", "i_open c_new", "added"),
        node("Add", "kept added", "cell_out"),
        node("Tanh", "cell_out", "shown"),
        node("Mul", "o_open shown", "h_out"),
        node("Identity", "h_out", "y"),
    ]
    stored = [numpy_helper.from_array(recurrent, named("r"))]
    return helper.make_graph(
        nodes,
        named("graph"),
        [value("h"), value("cell"), value("x")],
        [value("h_out"), value("cell_out"), value("y")],
        stored,
    )
