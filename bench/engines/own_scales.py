"""Networks that bring INT8 scales of their own, written for the engines: each takes them as they are.

Such a network (see bench.compress.quantize) calls quantizers for activations, and layers that quantize their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.compress.quantizer import applied, as_lowered, quantizer_class, weight_levels, weighted_class
from bench.engines.engine import quiet
from bench.spec.inputs import tensors_of

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given

SIGNED = 128  # what INT8 with a sign subtracts from zero points


def decomposed(network: torch.nn.Module, signed: bool = False) -> torch.nn.Module:
    """The network with PyTorch's operators that quantize and dequantize in place of its quantizers, in place.

    Weights are held in INT8.

    signed  whether activations are -128..127 instead of 0..255.
    """
    import torch
    from torch.ao.quantization.fx import _decomposed  # registers the operators

    operators = torch.ops.quantized_decomposed
    shift, dtype = (SIGNED, torch.int8) if signed else (0, torch.uint8)

    class Rounded(torch.nn.Module):
        def __init__(self, quantizer: Any) -> None:
            super().__init__()
            ends = (quantizer.lowest - shift, quantizer.highest - shift)
            self.settings = (float(quantizer.scale), int(quantizer.zero_point) - shift, *ends, dtype)

        def forward(self, x: torch.Tensor) -> Any:
            whole = operators.quantize_per_tensor(x, *self.settings)
            return operators.dequantize_per_tensor(whole, *self.settings)

    class Held(torch.nn.Module):
        ends = (*weight_levels(8), torch.int8)  # weights of fewer bits are held in 8
        weight: torch.Tensor

        def __init__(self, weighted: Any) -> None:
            super().__init__()
            self.layer, quantizer = weighted.layer, weighted.quantizer
            scales, zeros = quantizer.scale.detach().clone(), quantizer.zero_point.to(torch.int64)
            rounded = quantizer(self.layer.weight).detach()  # cut off at its own ends, if it has fewer bits
            whole = operators.quantize_per_channel(rounded, scales, zeros, 0, *self.ends)
            self.register_buffer("weight", whole)
            self.register_buffer("scales", scales)
            self.register_buffer("zeros", zeros)
            del self.layer.weight  # its FP32 would be saved beside its INT8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = operators.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, *self.ends)
            return applied(self.layer, x, weight)

    assert _decomposed is not None
    as_lowered(network)
    for name, part in list(network.named_modules()):
        if isinstance(part, quantizer_class()) and not part.by_channel:
            network.set_submodule(name, Rounded(part))
        elif isinstance(part, weighted_class()):
            network.set_submodule(name, Held(part))
    return network


def one_user_each(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Give each use of a dequantized value a dequantization of its own, as PT2E does: backends look for such pairs."""
    for node in list(module.graph.nodes):
        if "dequantize_per_tensor" in str(node.target):
            for user in list(node.users)[1:]:
                with module.graph.inserting_after(node):
                    copy = module.graph.node_copy(node)
                user.replace_input_with(node, copy)
    module.recompile()
    return module


def observed(network: torch.nn.Module, example: Given, patterns: Callable[[], Any]) -> torch.fx.GraphModule:
    """The network as torch.ao's FX observes it, its scales in the observers' place.

    patterns  () -> torch.ao's table of INT8 patterns.
    """
    import torch

    with quiet():
        from torch.ao.quantization import FixedQParamsObserver, QConfig, QConfigMapping
        from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
        from torch.ao.quantization.observer import PlaceholderObserver, UniformQuantizationObserverBase
        from torch.ao.quantization.quantize_fx import prepare_fx

        class Scales(UniformQuantizationObserverBase):
            """Gives the scales of a layer's channels, whatever it sees."""

            def __init__(self, quantizer: Any) -> None:
                lowest, highest = weight_levels(8)
                kind = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric}
                super().__init__(**kind, quant_min=lowest, quant_max=highest)
                self.ch_axis, self.scales = 0, quantizer.scale.detach()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

            def calculate_qparams(self, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
                return self.scales, torch.zeros(len(self.scales), dtype=torch.int64)

        as_lowered(network)
        anything = PlaceholderObserver.with_args(dtype=torch.quint8)
        mapping = QConfigMapping().set_global(QConfig(anything, PlaceholderObserver.with_args(dtype=torch.qint8)))
        layers = {name: part for name, part in network.named_modules() if isinstance(part, weighted_class())}
        for name, part in network.named_modules():
            if not list(part.children()) and hasattr(part, "weight"):
                mapping.set_module_name(name, None)  # it stays in FP32
        for name, part in layers.items():
            part.layer.weight.data = part.quantizer(part.layer.weight).detach()
            network.set_submodule(name, part.layer)
            mapping.set_module_name(name, QConfig(anything, lambda quantizer=part.quantizer: Scales(quantizer)))
        custom = PrepareCustomConfig().set_non_traceable_module_classes([quantizer_class()])
        given = tensors_of(example)
        watched = prepare_fx(network, mapping, given, prepare_custom_config=custom, backend_config=patterns())
    for node in list(watched.graph.nodes):
        part = watched.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(part, PlaceholderObserver):
            node.replace_all_uses_with(node.args[0])
            watched.graph.erase_node(node)
        elif isinstance(part, quantizer_class()):
            settings = {"dtype": torch.quint8, "quant_min": part.lowest, "quant_max": part.highest}
            fixed = FixedQParamsObserver(float(part.scale), int(part.zero_point), **settings)
            watched.set_submodule(str(node.target), fixed)
    watched.recompile()
    return watched
