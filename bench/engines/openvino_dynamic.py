"""INT8 with activations quantized at run time on OpenVINO's CPU plugin.

An IR holds weights in INT8 and says nothing of activations: the plugin quantizes them inside the kernels of fully
connected layers, GROUP numbers at a time, where the processor and the layer allow. Neither the IR nor the executed
graph shows it, so each layer is asked alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.engines.openvino_count import constant_of, matched, products_of, steps_of, stored_format
from bench.machine.isa import cpu_flags

GROUP = 32  # numbers of a row that share a scale: the plugin's default
AT_RUN_TIME = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP)}
NEVER = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
NOTHING = (
    f"OpenVINO finds scales at run time for linear layers of {GROUP} inputs and more, in none of this network (in none "
    "right after a reshape either)"
)
FLAGS = ("avx512_vnni", "avx_vnni")
NARROW = f"OpenVINO's CPU plugin left it in FP32, as it does with fewer than {GROUP} inputs or right after a reshape"
Compile = Callable[[Any, dict[str, str]], Any]  # model, properties -> compiled model


def lacking() -> str | None:
    """Return why the plugin quantizes no activations at run time here; None where it does."""
    if cpu_flags().isdisjoint(FLAGS):
        return (
            f"OpenVINO's CPU plugin quantizes activations at run time with {' or '.join(FLAGS)}: this CPU has neither"
        )
    return None


def compressed(model: Any, left: Iterable[str], kept: Iterable[str]) -> Any:
    """The model with the weights of its products in INT8, a scale for each channel.

    left  the names of operations that keep theirs.
    kept  the kinds of operations that keep theirs.
    """
    import nncf

    scope = nncf.IgnoredScope(names=list(left), types=list(kept), validate=False)
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)


def _products(model: Any) -> list[Any]:
    """The products of activations by weights that are stored in INT8."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul" and _place(node) is not None]


def _place(node: Any) -> int | None:
    """The place of a product's factor that is stored in INT8; None where none is, or the other has static scales."""
    for place in (1, 0):
        constant = constant_of(node, place)
        if constant is not None:
            static = node.input_value(1 - place).get_node().get_type_name() == "FakeQuantize"
            return place if stored_format(constant) == "int8" and not static else None
    return None


def quantized(model: Any, runtime: Any, compile: Compile) -> frozenset[str]:
    """The names of those products whose activations the plugin quantizes at run time.

    model    the IR, with fixed shapes.
    runtime  the compiled model's `get_runtime_model()`.

    Those whose weights are INT8 in the executed graph, too: some are turned to floating point there. Each of these runs
    alone on seeded normal numbers, with and without that quantization: other outputs show it.
    """
    nodes = {node.get_friendly_name(): node for node in _products(model)}
    if not nodes:
        return frozenset()
    listed = list(products_of(model))
    executed = matched(listed, list(steps_of(runtime)))
    kept = {listed[place].name for place, step in executed.items() if step.weights == "int8"}
    return frozenset(name for name, node in nodes.items() if name in kept and _quantizes(node, compile))


def _quantizes(node: Any, compile: Compile) -> bool:
    import numpy as np
    import openvino
    from openvino import opset13 as op

    place = _place(node)
    assert place is not None
    shape = list(node.input(1 - place).get_shape())
    given = op.parameter(shape, np.float32)
    weights, turned = node.input_value(place), node.get_attributes()
    factors = (given, weights) if place else (weights, given)
    alone = openvino.Model([op.matmul(*factors, turned["transpose_a"], turned["transpose_b"])], [given], "alone")
    numbers = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with_scales, without = (
        next(iter(compile(alone.clone(), properties)(numbers).values())).copy() for properties in (AT_RUN_TIME, NEVER)
    )
    return not np.array_equal(with_scales, without)


def rounded(model: Any, names: frozenset[str]) -> Any:
    """The model with the activations of the named products rounded as the plugin rounds them, by operations of their
    own: to whole numbers of -127..127 by the largest absolute value of each GROUP along the last axis.
    """
    for node in _products(model):
        if node.get_friendly_name() in names:
            place = _place(node)
            assert place is not None
            activations = node.input(1 - place)
            activations.replace_source_output(_rounded(activations.get_source_output()).output(0))
    return model


def _rounded(activations: Any) -> Any:
    import numpy as np
    from openvino import opset13 as op

    shape = list(activations.get_shape())
    groups = -(-shape[-1] // GROUP)
    ends = [0] * (len(shape) - 1) + [groups * GROUP - shape[-1]]
    padded = op.pad(activations, [0] * len(shape), ends, "constant", np.float32(0))
    grouped = op.reshape(padded, [*shape[:-1], groups, GROUP], False)
    scale = op.divide(op.reduce_max(op.absolute(grouped), [-1], True), np.float32(127))
    whole = op.round(op.divide(grouped, op.maximum(scale, np.finfo(np.float32).tiny)), "half_to_even")
    flat = op.reshape(op.multiply(whole, scale), [*shape[:-1], groups * GROUP], False)
    return op.slice(flat, [0], [shape[-1]], [1], [len(shape) - 1])
