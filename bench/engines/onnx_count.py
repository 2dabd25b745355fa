"""The multiplications of an ONNX file as ONNX Runtime executes them: those of its optimized graph, each with the number
format of the operator that computes it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.lowered import Layer
from bench.engines.onnx_graphs import nodes_of, save
from bench.spec.inputs import arrays_of

if TYPE_CHECKING:
    import onnx

    from bench.spec.inputs import Batch

INTEGER = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize", "QOrdered")
CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}
RECURRENT = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "DynamicQuantizeLSTM": "lstm"}
PRODUCTS = (
    *("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "MatMulNBits", "GemmFastGelu", "GemmFloat8", "TransposeMatMul", "FusedMatMulActivation"),
)
FORMATS = {"float": "fp32", "double": "fp64", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
PARAMETER = (".weight", ".in_proj_weight", ".weight_ih_l0", ".weight_hh_l0")
FUSED_NONE = (
    "written as INT8 between quantize and dequantize operators, which ONNX Runtime did not fuse: computed as written"
)


@dataclass(frozen=True)
class Node:
    """An executed node of the graph, with the shapes and number formats of the call.

    inputs   (format, shape) of each input; constants that were packed before are missing.
    outputs  (format, shape) of each output.
    """

    proto: onnx.NodeProto
    inputs: Sequence[tuple[str, tuple[int, ...]]]
    outputs: Sequence[tuple[str, tuple[int, ...]]]


class Graph:
    """The constants of a graph and its inner graphs, and the node that makes each value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.nodes: dict[str, onnx.NodeProto] = {}
        self._learn(model.graph)

    def _learn(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.constants[tensor.name] = (_element(tensor.data_type), tuple(tensor.dims))
        for node in graph.node:
            self.nodes[node.name] = node
            self.makers |= dict.fromkeys(node.output, node)
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.constants[node.output[0]] = (_element(attribute.t.data_type), tuple(attribute.t.dims))
                for inner in (attribute.g, *attribute.graphs):
                    self._learn(inner)

    def constant(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """The format and shape of a constant, also if it is dequantized, cast or reordered first; None for others."""
        while name not in self.constants:
            maker = self.makers.get(name)
            if maker is None or maker.op_type not in ("DequantizeLinear", "Cast", "Identity", "ReorderInput"):
                return None
            name = maker.input[0]
        return self.constants[name]

    def parameter(self, node: onnx.NodeProto) -> str | None:
        """The module of a weight among the node's inputs, by the name from PyTorch's exporter; None without one."""
        for name in node.input:
            while name not in self.constants and name in self.makers:
                if self.makers[name].op_type not in ("DequantizeLinear", "Cast", "Identity"):
                    break
                name = self.makers[name].input[0]
            bare = name
            for added in ("_Q8", "_Q4", "_quantized", "_transposed"):  # what quantizers make of a name
                bare = bare.removesuffix(added)
            if name in self.constants and (ending := next((end for end in PARAMETER if bare.endswith(end)), None)):
                return bare.removesuffix(ending)
        return None

    def dequantized(self, node: onnx.NodeProto) -> bool:
        """Whether both factors of the node were dequantized just before."""
        makers = [self.makers.get(name) for name in node.input[:2]]
        return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def executed(
    file: Path,
    overrides: dict[str, int],
    batch: Batch,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    level: str = "ORT_ENABLE_ALL",
) -> tuple[Graph, list[Node]]:
    """The optimized graph of an ONNX or ORT file and the nodes that a call executes, in order.

    overrides  {name of a free dimension: its size}.
    batch      the inputs of the call, by name or in the session's order.
    providers  ONNX Runtime's execution providers.
    level      which optimizations a session makes, as ONNX Runtime names them.

    Of all of them only those that hold on every machine run; they choose the number formats. Those for this processor's
    layouts are left out: they pad channels, which would be counted.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as work:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        portable = "ORT_ENABLE_EXTENDED" if level == "ORT_ENABLE_ALL" else level
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, portable)
        for name, size in overrides.items():
            options.add_free_dimension_override_by_name(name, size)
        options.optimized_model_filepath = str(Path(work) / "optimized.onnx")
        options.add_session_config_entry("session.save_model_format", "ONNX")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(work) / "profile")
        session = onnxruntime.InferenceSession(_named(file, Path(work)), options, providers=list(providers))
        given = batch if isinstance(batch, (tuple, list)) else arrays_of(batch)
        names = batch if isinstance(batch, Mapping) else [port.name for port in session.get_inputs()]
        session.run(None, dict(zip(names, given, strict=True)))
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = Graph(onnx.load(Path(work) / "optimized.onnx", load_external_data=False))
    nodes = []
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and event["name"] != name and name in graph.nodes:
            facts = event["args"]
            shapes = (_shapes(facts.get(f"{side}_type_shape", [])) for side in ("input", "output"))
            nodes.append(Node(graph.nodes[name], *shapes))
    return graph, nodes


def _named(file: Path, folder: Path) -> Path:
    """The file where all its nodes have names, else a copy with names: the profile tells nodes apart by them."""
    import onnx

    if file.suffix != ".onnx":
        return file
    model = onnx.load(file, load_external_data=False)
    if all(node.name for node in nodes_of(model.graph)):
        return file
    model = onnx.load(file)
    for place, node in enumerate(nodes_of(model.graph)):
        node.name = node.name or f"{node.op_type}_{place}"
    copy = folder / "named.onnx"
    save(model, copy)
    return copy


def layers_of(graph: Graph, nodes: Sequence[Node], batch: int) -> list[Layer]:
    """The multiplications among the nodes as layers, counted per item of the batch; no reasons but FUSED_NONE."""
    counted: set[str] = set()
    layers = []
    for node in nodes:
        multiplication = counted_node(graph, node)
        if multiplication is None:
            continue
        kind, format, macs, weights = multiplication
        fresh = [name for name in weights if name not in counted]
        counted.update(fresh)
        held = [graph.constant(name) for name in fresh]
        sizes = [(element, math.prod(shape)) for element, shape in filter(None, held)]
        stored = next((FORMATS.get(element, element) for element, _ in sizes), format)
        count = sum(size for _, size in sizes)
        if node.proto.op_type == "MatMulNBits":
            stored, count = (
                f"int{_integer(node.proto, 'bits', 4)}",
                _integer(node.proto, "K") * _integer(node.proto, "N"),
            )
        name = graph.parameter(node.proto) or node.proto.name or node.proto.op_type
        reason = FUSED_NONE if format != "int8" and graph.dequantized(node.proto) else None
        layers.append(Layer(name, kind, format, stored, round(macs / batch), count, reason))
    return layers


def counted_node(graph: Graph, node: Node) -> tuple[str, str, int, list[str]] | None:
    """A node's kind, format, multiply-accumulates and names of weights; None where it multiplies nothing."""
    proto, operator = node.proto, node.proto.op_type
    format = "int8" if operator.startswith(INTEGER) else next((FORMATS.get(f, f) for f, _ in node.inputs), "fp32")
    if operator in RECURRENT:
        x = next((shape for _, shape in node.inputs), ())
        weights = list(proto.input[1:3])
        sizes = sum(math.prod(held[1]) for held in map(graph.constant, weights) if held is not None)
        return RECURRENT[operator], format, math.prod(x[:2]) * sizes, weights
    if "Conv" in operator:
        return _convolution(graph, node, format)
    if operator in PRODUCTS:
        return _product(graph, node, format)
    if operator == "Einsum":
        return "matmul", format, _einsum(_text(proto, "equation"), [shape for _, shape in node.inputs]), []
    if operator in ("Attention", "QAttention", "MultiHeadAttention", "DecoderMaskedMultiHeadAttention"):
        return _attention(graph, node, format)
    if operator in ("Gather", "GatherND"):
        held = graph.constant(proto.input[0])
        if held is not None and len(held[1]) > 1 and held[0] in FORMATS:
            return "embedding", FORMATS[held[0]], 0, [proto.input[0]]
    return None


def _convolution(graph: Graph, node: Node, format: str) -> tuple[str, str, int, list[str]]:
    proto, operator = node.proto, node.proto.op_type
    name = proto.input[3] if operator == "QLinearConv" else proto.input[1]
    held = graph.constant(name)
    weight = node.inputs[1][1] if held is None else held[1]
    x, y, groups = node.inputs[0][1], node.outputs[0][1], _integer(proto, "group", 1)
    weights = [] if held is None else [name]
    if operator.endswith("ConvTranspose"):
        return "transposed", format, math.prod(x) // weight[0] * math.prod(weight), weights
    kind = "depthwise" if groups > 1 and weight[1] == 1 else CONVOLUTIONS.get(len(weight), "conv2d")
    return kind, format, math.prod(y) // weight[0] * math.prod(weight), weights


def _product(graph: Graph, node: Node, format: str) -> tuple[str, str, int, list[str]]:
    proto, operator = node.proto, node.proto.op_type
    turned = _integer(proto, "transA")
    second = 3 if operator in ("QLinearMatMul", "QGemm") else 1
    factors = [proto.input[0], proto.input[second]]
    held = [graph.constant(name) for name in factors]
    first = node.inputs[0][1] if held[0] is None else held[0][1]
    summed = first[-2] if turned and len(first) > 1 else first[-1]
    weights = [name for name, constant in zip(factors, held, strict=True) if constant is not None]
    return "linear" if weights else "matmul", format, math.prod(node.outputs[0][1]) * summed, weights


def _attention(graph: Graph, node: Node, format: str) -> tuple[str, str, int, list[str]]:
    """Both products, and for a single input (n, length, planes) the one matrix that makes queries, keys and values."""
    proto, shapes = node.proto, [shape for _, shape in node.inputs]
    count, length, planes = shapes[0][0], shapes[0][-2], shapes[0][-1]
    held = graph.constant(proto.input[1])
    if held is None:
        keys = shapes[1][-2] if len(shapes) > 1 else length
        heads = shapes[0][1] if len(shapes[0]) == 4 else 1
        return "matmul", format, 2 * count * heads * length * keys * planes, []
    inner = held[1][-1] // 3
    macs = count * length * math.prod(held[1]) + 2 * count * length * length * inner
    return "linear", format, macs, [proto.input[1]]


def _einsum(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2 or "..." in equation:
        return math.prod(max(shapes, key=math.prod, default=())) if len(terms) > 1 else 0
    sizes = {
        label: size for term, shape in zip(terms, shapes, strict=False) for label, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


def _shapes(ports: Sequence[dict[str, list[int]]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(element, tuple(shape)) for port in ports for element, shape in port.items()]


def _element(data_type: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(data_type)).lower()


def _integer(node: onnx.NodeProto, name: str, otherwise: int = 0) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), otherwise)


def _text(node: onnx.NodeProto, name: str) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), "")
