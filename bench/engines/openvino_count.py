"""The multiplications of an OpenVINO IR, each with the number format in which the executed graph computes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.engines.lowered import Layer

CONVOLUTIONS = {1: "conv1d", 2: "conv2d", 3: "conv3d"}
RECURRENT = {"LSTMSequence": "lstm", "GRUSequence": "gru", "RNNSequence": "rnn"} | {
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "RNNCell": "rnn",
}
FORMATS = {"f32": "fp32", "f64": "fp64", "f16": "fp16", "bf16": "bf16"} | {
    **dict.fromkeys(("i8", "u8", "I8", "U8"), "int8"),
    **dict.fromkeys(("i4", "u4"), "int4"),
}
TURNS = ("Reshape", "Transpose", "Convert", "Multiply", "Subtract", "FakeQuantize", "Squeeze", "Unsqueeze", "Slice")
EXECUTED = (
    *("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell", "Subgraph", "MHA"),
    *("ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache", "LLMMLP", "QKVProjection"),
)


@dataclass(frozen=True)
class Product:
    """One multiplication of the IR: its operation's name and kind, and its weights, if any.

    quantized  False where a factor cannot be INT8 because a softmax made it just before.
    reason     why it stays in floating point; None where the IR does not show it.
    """

    name: str
    kind: str
    macs: int
    weights: int
    stored: str
    quantized: bool
    reason: str | None = None


@dataclass(frozen=True)
class Step:
    """One node of the executed graph: the names of operations fused into it, its format, and the MACs of its shapes.

    weights  the number format that the plugin states for it: that of its weights, where they stay INT8 beside
             activations in floating point.
    """

    names: frozenset[str]
    layer: str
    format: str
    macs: int
    weights: str = "fp32"


def layers_of(model: Any, runtime: Any, batch: int, at_run_time: frozenset[str] = frozenset()) -> list[Layer]:
    """The multiplications of a model as layers, counted per item of the batch; no reasons but the products' own.

    model        the IR, with fixed shapes.
    runtime      the compiled model's `get_runtime_model()`.
    at_run_time  the names of products whose activations the plugin quantizes at run time, which it does not show.
    """
    products = list(products_of(model))
    matches = matched(products, list(steps_of(runtime)))
    layers = []
    for place, product in enumerate(products):
        format, reason = matches[place].format if place in matches else "fp32", product.reason
        if place not in matches:
            reason = "not found in the executed graph"
        elif format == "int8" and not product.quantized:
            format = "fp32"
        elif product.name in at_run_time:
            format = "int8"
        name = product.name.removeprefix("__module.").partition("/")[0]
        name = name if product.name.startswith("__module.") else product.name
        macs = round(product.macs / batch)
        layers.append(Layer(name, product.kind, format, product.stored, macs, product.weights, reason))
    return layers


def matched(products: Sequence[Product], steps: Sequence[Step]) -> dict[int, Step]:
    """The executed node of each product, by the product's place.

    An operation is matched to the executed graph by its name, or, where fusing removed the name, in order by equal
    multiply-accumulates. An operation with neither is inside a fused subgraph and has its format.
    """
    matches = {place: step for place, product in enumerate(products) if (step := _named(product, steps)) is not None}
    free = [step for step in steps if not any(step is match for match in matches.values())]
    for place, product in enumerate(products):
        if place not in matches and (step := _alike(product, free)) is not None:
            matches[place] = step
            free.remove(step)
    for place, product in enumerate(products):
        if place not in matches and (step := _beside(product, steps)) is not None:
            matches[place] = step
    return matches


def _named(product: Product, steps: Sequence[Step]) -> Step | None:
    """The node with the operation's name. Where attention runs as two MatMul, only the second has the name."""
    name = product.name.removesuffix(_FIRST).removesuffix(_SECOND)
    step = next((step for step in steps if name in step.names), None)
    return None if step is not None and step.layer == "MatMul" and product.name.endswith(_FIRST) else step


def _alike(product: Product, steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if product.macs and step.macs == product.macs), None)


def _beside(product: Product, steps: Sequence[Step]) -> Step | None:
    """The subgraph that holds the most operations of the product's module; None where none holds any."""
    module = product.name.rpartition("/")[0]
    inside = [(sum(name.startswith(module) for name in step.names), step) for step in steps if not step.macs and module]
    best = max(inside, key=lambda pair: pair[0], default=(0, None))
    return best[1] if best[0] else None


def steps_of(runtime: Any) -> Iterator[Step]:
    """The nodes of an executed graph that multiply or may hold multiplications."""
    for node in runtime.get_ordered_ops():
        facts = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        layer = facts.get("layerType", "")
        if layer in EXECUTED:
            names = frozenset(filter(None, facts.get("originalLayersNames", "").split(",")))
            given = [tuple(port.get_shape()) for port in node.inputs()]
            made = [tuple(port.get_shape()) for port in node.outputs()]
            yield Step(
                names | {node.get_friendly_name()},
                layer,
                executed_format(facts),
                executed_macs(layer, given, made),
                FORMATS.get(facts.get("runtimePrecision", ""), "fp32"),
            )


def executed_format(told: dict[str, str]) -> str:
    """The format of an executed node by its kernel's name, such as brgconv_avx512_I8."""
    ending = told.get("primitiveType", "").rpartition("_")[2]
    return FORMATS.get(ending) or FORMATS.get(told.get("runtimePrecision", ""), "fp32")


def executed_macs(layer: str, given: Sequence[tuple[int, ...]], made: Sequence[tuple[int, ...]]) -> int:
    """Multiply-accumulates of a node by the shapes at its ports; 0 for subgraphs."""
    if layer == "Convolution":
        x, weight, y = given[0], given[1], made[0]
        grouped = len(weight) > len(x)
        return math.prod(y) * math.prod(weight[2:] if grouped else weight[1:])
    if layer == "Deconvolution":
        x, weight = given[0], given[1]
        grouped = len(weight) > len(x)
        return math.prod(x) * math.prod(weight[2:] if grouped else weight[1:])
    if layer == "FullyConnected":
        return math.prod(made[0]) * given[0][-1]
    if layer == "MatMul":  # (b, m, k) x (b, k, n) -> (b, m, n): the three sizes' product is b^3 (m k n)^2
        y = made[0]
        whole = all(len(shape) == len(y) and shape[:-2] == y[:-2] for shape in given[:2])
        sizes = math.prod(given[0]) * math.prod(given[1]) * math.prod(y)
        return math.isqrt(sizes // math.prod(y[:-2])) if whole else 0
    if layer in ("RNNSeq", "RNNCell"):
        x = given[0]
        weights = [
            shape
            for shape in given[2:]
            if len(shape) == (3 if layer == "RNNSeq" else 2) and shape[-1] and shape[-2] > 1
        ]
        steps = math.prod(x[:-1])
        return steps * sum(math.prod(shape) for shape in weights[-2:])
    return 0


_FIRST, _SECOND = " (queries by keys)", " (weights by values)"


def products_of(model: Any) -> Iterator[Product]:
    """The multiplications of an IR; those in a loop's body count as often as it runs."""
    yield from _products(model, 1)


def _products(model: Any, times: int) -> Iterator[Product]:
    for node in model.get_ordered_ops():
        yield from _product(node, times)


def _product(node: Any, times: int) -> Iterator[Product]:
    operation, name = node.get_type_name(), node.get_friendly_name()
    given = [tuple(port.get_shape()) for port in node.inputs()] if node.get_type_name() not in ("If", "Result") else []
    made = [tuple(port.get_shape()) for port in node.outputs()] if given else []

    def product(
        kind: str, macs: int, *weights: int, quantized: bool = True, more: str = "", reason: str | None = None
    ) -> Product:
        constants = [constant for place in weights if (constant := constant_of(node, place)) is not None]
        count = sum(math.prod(constant.get_output_shape(0)) for constant in constants)
        stored = next((stored_format(constant) for constant in constants), "fp32")
        return Product(name + more, kind, macs * times, count, stored, quantized, reason)

    if operation in ("Convolution", "GroupConvolution"):
        weight = given[1]
        grouped = operation == "GroupConvolution"
        inner = weight[2:] if grouped else weight[1:]
        kind = "depthwise" if grouped and weight[2] == 1 else CONVOLUTIONS.get(len(given[0]) - 2, "conv2d")
        yield product(kind, math.prod(made[0]) * math.prod(inner), 1)
    elif operation in ("ConvolutionBackpropData", "GroupConvolutionBackpropData"):
        grouped = operation.startswith("Group")
        inner = given[1][2:] if grouped else given[1][1:]
        reason = "OpenVINO's CPU plugin has no INT8 kernel for grouped transposed convolutions" if grouped else None
        yield product("transposed", math.prod(given[0]) * math.prod(inner), 1, reason=reason)
    elif operation == "MatMul":
        turned = node.get_attributes().get("transpose_a")
        summed = given[0][-2] if turned and len(given[0]) > 1 else given[0][-1]
        constant_at = next((place for place in (1, 0) if constant_of(node, place) is not None), None)
        macs = math.prod(made[0]) * summed
        yield product("matmul", macs) if constant_at is None else product("linear", macs, constant_at)
    elif operation == "ScaledDotProductAttention":
        q, k, v = given[:3]
        scores = math.prod(q[:-1]) * k[-2]
        yield product("matmul", scores * q[-1], more=_FIRST)
        between = "the softmax before it is not quantized"
        yield product("matmul", scores * v[-1], quantized=False, more=_SECOND, reason=between)
    elif operation in RECURRENT:
        ahead = {"LSTMSequence": 4, "GRUSequence": 3, "RNNSequence": 3, "LSTMCell": 3, "GRUCell": 2, "RNNCell": 2}
        places = (ahead[operation], ahead[operation] + 1)
        steps = math.prod(given[0][:-1])
        yield product(RECURRENT[operation], steps * sum(math.prod(given[place]) for place in places), *places)
    elif operation == "Einsum":
        terms = node.get_attributes()["equation"].split("->")[0].split(",")
        sizes = {
            axis: size
            for term, shape in zip(terms, given, strict=True)
            for axis, size in zip(term, shape, strict=False)
        }
        yield product("matmul", math.prod(sizes.values()))
    elif (
        operation == "Gather"
        and (constant := constant_of(node, 0)) is not None
        and len(constant.get_output_shape(0)) > 1
    ):
        if stored_format(constant) in ("fp32", "fp16", "bf16", "int8", "int4"):
            yield product("embedding", 0, 0)
    elif operation in ("TensorIterator", "Loop"):
        inner = node.get_function() if hasattr(node, "get_function") else node.get_body()
        runs = max((shape[0] for shape in made if shape), default=1)
        yield from _products(inner, times * max(1, runs))


def constant_of(node: Any, place: int) -> Any:
    """The constant behind an input, through operations that quantize, reshape or move it; None where there is none."""
    source = node.input_value(place).get_node()
    while source.get_type_name() in TURNS and source.get_input_size():
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def stored_format(constant: Any) -> str:
    """The number format that a constant is stored in."""
    element = constant.get_output_element_type(0).get_type_name()
    return FORMATS.get(element, element)
