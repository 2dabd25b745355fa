"""A network lowered by torch.ao: INT8 with scales from calibration or from each call, and bfloat16."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from bench.engines import own_scales
from bench.engines.attention import closed_attention, with_open_attention
from bench.engines.engine import quiet
from bench.engines.equivalents import without_padding_modes, without_prelu, without_transposed
from bench.engines.torch_modules import predictor
from bench.engines.torch_observed import VIEWS, mend, name_of
from bench.errors import Unsupported
from bench.machine.isa import saturates
from bench.spec.inputs import arrays_of, batch_of, tensors_of
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given


CALIBRATION_BATCH = 8  # items that pass the network at once


def quantized_engine() -> str:
    """The name of PyTorch's INT8 kernels for this processor."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else "qnnpack"


def saturating(network: torch.nn.Module) -> bool:
    """Whether activations must keep to 7 bits, because sums of 8-bit products would saturate in 16 bits.

    They saturate without VNNI, and in convolutions of more than 100 groups: "x86" hands these to FBGEMM's kernels
    instead of oneDNN's (PyTorch 2.15.0, measured by speed and error at 100 and 104 groups). MobileNetV2 kept 62% of its
    answers with 8 bits, 84% with 7.
    """
    import torch

    convolutions = (module for module in network.modules() if isinstance(module, torch.nn.modules.conv._ConvNd))
    return saturates() or any(module.groups > 100 for module in convolutions)


def lowered(network: torch.nn.Module, recipe: Recipe, example: Given, samples: Given | None = None) -> torch.nn.Module:
    """The network in the recipe's number format, float32 in and out; static INT8 is calibrated on samples."""
    import torch

    if recipe.number_format in ("fp32", "tf32") or recipe.autocast:
        return network
    if recipe.number_format in ("bf16", "fp16"):
        dtype = torch.bfloat16 if recipe.number_format == "bf16" else torch.float16
        return between_float32(network.to(dtype), dtype, None if samples is None else example)
    torch.backends.quantized.engine = quantized_engine()  # read when weights are packed
    if recipe.activations == "dynamic":
        return dynamic(network, recipe, example)
    watched = own_scales.observed(network, example, patterns) if recipe.scaled else observed(network, recipe, example)
    if samples is not None and recipe.calibrated:
        with torch.inference_mode():
            for first in range(0, len(samples), CALIBRATION_BATCH):
                watched(*tensors_of(samples[first : first + CALIBRATION_BATCH]))
    with quiet():
        from torch.ao.quantization.quantize_fx import convert_fx

        converted = convert_fx(watched, backend_config=patterns())
    if not recipe.partial and not any(node.target is torch.quantize_per_tensor for node in converted.graph.nodes):
        raise Unsupported("torch.ao has no INT8 with scales from calibration for anything in this network")
    return converted


def dynamic(network: torch.nn.Module, recipe: Recipe, example: Given) -> torch.nn.Module:
    """The network with its linear and recurrent layers in INT8. Raises Unsupported where it has none.

    Weights have scales per channel, activations a scale from each input. torch.ao has no INT8 for nn.RNN, nor for
    recurrent layers without biases or with projections: they stay in FP32.
    """
    from torch import nn

    with quiet():
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        def has_kernel(module: Any) -> bool:
            recurrent = type(module) in (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
            return type(module) is nn.Linear or (recurrent and module.bias and not getattr(module, "proj_size", 0))

        alone = recipe.left_alone(network)
        network = with_open_attention(network, example)
        closed = {
            part for box in closed_attention(network) for part in box.modules()
        }  # closed boxes read the weights of their parts
        layers = [(name, module) for name, module in network.named_modules() if has_kernel(module)]
        names = [name for name, module in layers if name not in alone and module not in closed]
        if names == [""]:
            network, names = nn.Sequential(network), ["0"]  # a layer is replaced in its parent
        if not names:
            raise Unsupported(
                "torch.ao quantizes activations at run time in linear layers, LSTM and GRU with biases, and recurrent "
                "cells; this network has none"
            )
        return quantize_dynamic(network, dict.fromkeys(names, per_channel_dynamic_qconfig), inplace=True)


def patterns() -> Any:
    """torch.ao's table of INT8 patterns, without kernels that err or that compute in FP32 (PyTorch 2.15.0).

    Transposed convolutions give wrong results: oneDNN's where they change the number of channels, FBGEMM's for 2x2 at
    stride 2. Normalization is folded wrongly into those of several groups. The product of two activations is computed
    in FP32 between a dequantization and a quantization, which is not INT8.
    """
    import torch
    from torch.ao.quantization.backend_config import BackendConfig, get_native_backend_config

    axes = (1, 2, 3)
    barred = {
        torch.matmul,
        *(getattr(torch.nn, f"ConvTranspose{count}d") for count in axes),
        *(getattr(torch.nn.functional, f"conv_transpose{count}d") for count in axes),
    }

    def parts(pattern: Any) -> set[Any]:
        return set().union(*map(parts, pattern)) if isinstance(pattern, tuple) else {pattern}

    table = BackendConfig("native without what errs")
    return table.set_backend_pattern_configs(
        [entry for entry in get_native_backend_config().configs if barred.isdisjoint(parts(entry.pattern))]
    )


def in_float32(outputs: Any) -> Any:
    """A network's output, a tensor or several, with floating numbers as float32; whole numbers stay as they are."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return outputs.to(torch.float32) if outputs.is_floating_point() else outputs
    return tuple(output.to(torch.float32) if output.is_floating_point() else output for output in outputs)


def between_float32(network: torch.nn.Module, dtype: torch.dtype, example: Given | None = None) -> torch.nn.Module:
    """The network with its floating inputs cast to `dtype` and its floating outputs to float32.

    Whole numbers stay as they are. An input that must be exact (see Interface) is not cast at the network's entry:
    each module that has weights casts its own inputs instead. Raises Unsupported where such a call on an example
    (1, ...) fails: where the network multiplies by an exact input outside of its modules, or where this processor
    lacks a kernel, such as oneDNN's LSTM.
    """
    import torch

    late, name = getattr(network, "exact_input", False), str(dtype).removeprefix("torch.")

    def cast(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floating else value

    def casting(module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(cast(value) for value in given)

    class Cast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *given: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            return in_float32(self.network(*(given if late else map(cast, given))))

    whole = Cast().eval()
    if late:
        for module in network.modules():
            if any(parameter.is_floating_point() for parameter in module.parameters(recurse=False)):
                module.register_forward_pre_hook(casting)
    if example is not None:
        try:
            predictor(whole)(batch_of(example))
        except RuntimeError as error:
            line, kinds = str(error).splitlines()[0], ", ".join(str(array.dtype) for array in arrays_of(example))
            if not late or "primitive" in line:
                raise Unsupported(f"PyTorch cannot compute this network in {name} here: {line}") from error
            raise Unsupported(
                f"{name} would round the network's input ({kinds}), which must stay exact, and the network "
                "multiplies by it outside of its modules, where it cannot be cast; multiply in torch.nn modules: "
                f"{line}"
            ) from error
    return whole


def observed(network: torch.nn.Module, recipe: Recipe, example: Given) -> torch.fx.GraphModule:
    """The network with observers where static INT8 will be, uncalibrated. Raises Unsupported where FX cannot trace it.

    Weights have symmetric scales per channel. Modules that FX or the kernels lack are replaced by equivalents.
    Fewer than 8 bits are simulated by fewer levels in the storage and kernels of 8 bits: weights keep to 2^bits - 1
    levels about 0, activations to 2^bits over the range that calibration saw. Values beyond that range are not cut off,
    because these kernels have no such limit.
    """
    import torch

    with quiet():
        from torch.ao.quantization import (
            HistogramObserver,
            MinMaxObserver,
            QConfig,
            QConfigMapping,
            default_per_channel_weight_observer,
            get_default_qconfig_mapping,
        )
        from torch.ao.quantization.quantize_fx import prepare_fx

        activations, weights = HistogramObserver.with_args(reduce_range=saturating(network)), {}
        if recipe.bits < 8:
            most = 2 ** (recipe.bits - 1) - 1
            activations = MinMaxObserver.with_args(quant_min=0, quant_max=2**recipe.bits - 1)
            weights = {"quant_min": -most, "quant_max": most}
        usual = QConfig(activations, default_per_channel_weight_observer.with_args(**weights))
        mapping = QConfigMapping() if recipe.only else get_default_qconfig_mapping(quantized_engine())
        mapping.set_global(None if recipe.only else usual)
        # a sigmoid of 256 levels gives confident boxes equal scores: SCRFD's COCO AP drops from 0.34 to 0.28
        for sigmoid in (torch.sigmoid, torch.nn.Sigmoid, "sigmoid", "sigmoid_"):
            mapping.set_object_type(sigmoid, None)
        for name in recipe.only:
            mapping.set_module_name(name, usual)
        for name in recipe.left:
            mapping.set_module_name(name, None)
        network = without_transposed(with_open_attention(network, example), example)
        # the kernel of nn.PReLU scales values above zero too: 3 dB of signal to noise instead of 35 (PyTorch 2.15.0)
        network = without_prelu(without_padding_modes(network))
        try:
            watched = prepare_fx(in_order(network), mapping, tensors_of(example), backend_config=patterns())
        except Unsupported:
            raise
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise Unsupported(f"torch.ao's FX cannot trace the network: {type(error).__name__}: {line}") from error
        mend(watched, example)
        return watched


def in_order(network: torch.nn.Module) -> torch.nn.Module:
    """The traced network in which each use of a tensor after a write into it takes the write's result.

    Returns the network itself where nothing uses a written tensor. Raises Unsupported where it writes into a part of a
    tensor that is used later. FX orders operations only by their results: after `x.sub_(mean)` it quantizes the x from
    before the write, and only 2 dB are left.
    """
    from torch.ao.quantization.fx.tracer import QuantizationTracer
    from torch.fx import GraphModule, Node

    graph = QuantizationTracer([], []).trace(network)
    place = {node: number for number, node in enumerate(graph.nodes)}
    written = False
    for node in graph.nodes:
        target = _written(node, network)
        if not isinstance(target, Node):
            continue
        later = [user for user in target.users if place[user] > place[node]]
        whole = target.args[0] if target.args and _is_part(target) else None
        if isinstance(whole, Node) and any(place[user] > place[node] for user in whole.users):
            raise Unsupported("torch.ao's FX cannot follow a network that writes into a part of a tensor")
        if later:
            target.replace_all_uses_with(node, later.__contains__)
            written = True
    return GraphModule(network, graph) if written else network


def _written(node: torch.fx.Node, network: torch.nn.Module) -> Any:
    """The argument that a node of a graph writes into, None where it writes into nothing."""
    if isinstance(node.kwargs.get("out"), type(node)):
        return node.kwargs["out"]
    name = str(getattr(node.target, "__name__", node.target)) if node.op.startswith("call_") else ""
    if node.op == "call_module":
        in_place = getattr(network.get_submodule(str(node.target)), "inplace", False) is True
    else:
        in_place = (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace") is True
    return node.args[0] if in_place and node.args else None


def _is_part(node: torch.fx.Node) -> bool:
    """Whether a node's result may share memory with its input."""
    return name_of(node) in VIEWS
