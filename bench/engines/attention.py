"""PyTorch's attention and transformer layers rewritten as linear layers and a product, for quantizers to see into."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bench.engines.equivalents import calls_of, replaced
from bench.engines.open_attention import open_attention
from bench.engines.transformer_layers import decoder, decoder_layer, encoder, encoder_layer, transformer

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given

    Mask: TypeAlias = torch.Tensor | None


class Call(NamedTuple):
    """How a module is called, as far as the rewritten module depends on it.

    batched  whether all sequences have a batch axis.
    itself   whether query, key and value are the same tensor.
    masks    each mask that is given: its name, whether it holds booleans, how many axes it has.
    """

    batched: bool
    itself: bool
    masks: tuple[tuple[str, bool, int], ...]


def with_open_attention(network: torch.nn.Module, example: Given) -> torch.nn.Module:
    """An equivalent network whose attention is made of nn.Linear and scaled_dot_product_attention, its part names kept.

    It rewrites nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer and their layers.
    Their calls on the example (batch, ...) show which masks they get. Left as they are: derived classes, calls without
    a batch axis, bias_k, add_zero_attn, modules that are called in several ways or never, and an encoder of nested
    tensors (`enable_nested_tensor`, PyTorch's default) with a padding mask: it outputs zeros at the padding.
    """
    inner = {part for box in closed_attention(network) for part in box.modules() if part is not box}
    calls = calls_of(network, _kinds(), example)

    def other(module: Any) -> torch.nn.Module | None:
        ways = {_call(module, args, options) for args, options in calls.get(module, [])}
        if module in inner or len(ways) != 1 or not _openable(module):
            return None
        call = ways.pop()
        zeroed = any(getattr(part, "use_nested_tensor", False) for part in module.modules())
        if not call.batched or (zeroed and any(name == "src_key_padding_mask" for name, *_ in call.masks)):
            return None
        opened = _opened(module, call.itself)
        for name in (
            "embed_dim",
            "num_heads",
            "head_dim",
            "kdim",
            "vdim",
            "batch_first",
            "num_layers",
            "d_model",
            "nhead",
        ):
            if hasattr(module, name):
                setattr(opened, name, getattr(module, name))  # a network may read them
        return _with_masks(opened, module, call)

    return replaced(network, _kinds(), other)


def closed_attention(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules of a network that are PyTorch's attention or transformer layers, or derived from them."""
    return [module for module in network.modules() if isinstance(module, _kinds())]


def _kinds() -> tuple[type[torch.nn.Module], ...]:
    from torch import nn

    return (
        *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
        *(nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer),
    )


def _call(module: torch.nn.Module, args: tuple[Any, ...], options: Mapping[str, object]) -> Call:
    given = inspect.signature(type(module).forward).bind(module, *args, **options).arguments
    sequences = [given[name] for name in ("query", "key", "value", "src", "tgt", "memory") if name in given]
    masks = [(name, value) for name, value in given.items() if name.endswith("mask") and value is not None]
    return Call(
        all(sequence.dim() == 3 and not sequence.is_nested for sequence in sequences),
        all(sequence is sequences[0] for sequence in sequences),
        tuple((name, not value.is_floating_point(), value.dim()) for name, value in masks),
    )


def _openable(box: Any) -> bool:
    """Whether the module and all attention and layers in it are PyTorch's own classes, with supported options."""
    from torch import nn

    stacks: dict[Any, Any] = {
        nn.TransformerEncoder: nn.TransformerEncoderLayer,
        nn.TransformerDecoder: nn.TransformerDecoderLayer,
    }
    if type(box) is nn.MultiheadAttention:
        return box.bias_k is None and not box.add_zero_attn
    if type(box) is nn.TransformerEncoderLayer:
        return _openable(box.self_attn)
    if type(box) is nn.TransformerDecoderLayer:
        return _openable(box.self_attn) and _openable(box.multihead_attn)
    if type(box) is nn.Transformer:
        halves = (nn.TransformerEncoder, nn.TransformerDecoder)
        return (type(box.encoder), type(box.decoder)) == halves and _openable(box.encoder) and _openable(box.decoder)
    layer = stacks.get(type(box))
    return layer is not None and all(type(part) is layer and _openable(part) for part in box.layers)


def _with_masks(opened: torch.nn.Module, box: torch.nn.Module, call: Call) -> torch.nn.Module:
    """The opened module with the box's masks: of booleans, of 3 axes (for each head), or of the keys alone."""
    import torch

    if not call.masks:
        return opened
    heads = next(part.num_heads for part in box.modules() if isinstance(part, torch.nn.MultiheadAttention))
    signature = inspect.signature(type(box).forward)

    def additive(mask: torch.Tensor, name: str, is_bool: bool, axes: int) -> torch.Tensor:
        if is_bool:
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -math.inf)
        if name.endswith("key_padding_mask"):
            return mask.unsqueeze(1).unsqueeze(1)
        return mask.unflatten(0, (-1, heads)) if axes == 3 else mask

    class Masked(type(opened)):  # type: ignore[misc]  # derived, so that the names of its parts stay
        def forward(self, *args: Any, **options: Any) -> Any:
            given = signature.bind(self, *args, **options).arguments
            given.pop("self")
            for name, is_bool, axes in call.masks:
                given[name] = additive(given[name], name, is_bool, axes)
            return super().forward(**given)

    opened.__class__ = Masked
    return opened


def _opened(box: Any, itself: bool) -> torch.nn.Module:
    from torch import nn

    if isinstance(box, nn.MultiheadAttention):
        return open_attention(box, itself)
    if isinstance(box, nn.TransformerEncoderLayer):
        return encoder_layer(box)
    if isinstance(box, nn.TransformerDecoderLayer):
        return decoder_layer(box)
    if isinstance(box, nn.TransformerEncoder):
        return encoder(box)
    return decoder(box) if isinstance(box, nn.TransformerDecoder) else transformer(box)
