"""PyTorch's attention and transformer layers told by linear layers and a product; its own are closed to quantizers."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bench.engines.equivalents import calls_of, replaced

if TYPE_CHECKING:
    import numpy as np
    import torch

    Mask: TypeAlias = torch.Tensor | None


class Call(NamedTuple):
    """How a module is called, as far as its code must know.

    batched  whether all sequences have a batch axis.
    itself   whether query, key and value are the same tensor.
    masks    the names of the masks that are given, each with whether it holds booleans and how many axes it has.
    """

    batched: bool
    itself: bool
    masks: tuple[tuple[str, bool, int], ...]


def with_open_attention(network: torch.nn.Module, example: np.ndarray) -> torch.nn.Module:
    """A network that gives the same and in which nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.Transformer and their layers are made of nn.Linear and scaled_dot_product_attention, with the names of their
    parts kept.

    How they are called on the example (batch, ...) tells which masks come. Left as they are: classes derived from them,
    those without a batch axis, with bias_k or with add_zero_attn, those that are called in several ways or never, and
    an encoder that is given a padding mask, whose fast path gives zeros where there is padding.
    """
    from torch import nn

    inner = {part for box in closed_attention(network) for part in box.modules() if part is not box}
    calls = calls_of(network, _kinds(), example)

    def other(module: Any) -> torch.nn.Module | None:
        ways = {_call(module, args, options) for args, options in calls.get(module, [])}
        if module in inner or len(ways) != 1 or not _openable(module):
            return None
        call = ways.pop()
        zeroed = type(module) in (nn.TransformerEncoder, nn.Transformer)
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
    """The modules of a network that are PyTorch's attention and transformer layers, or derived from them."""
    return [module for module in network.modules() if isinstance(module, _kinds())]


def _kinds() -> tuple[type[torch.nn.Module], ...]:
    from torch import nn

    return (
        *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
        *(nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer),
    )


def _call(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Call:
    given = inspect.signature(type(module).forward).bind(module, *args, **options).arguments
    sequences = [given[name] for name in ("query", "key", "value", "src", "tgt", "memory") if name in given]
    masks = [(name, value) for name, value in given.items() if name.endswith("mask") and value is not None]
    return Call(
        all(sequence.dim() == 3 and not sequence.is_nested for sequence in sequences),
        all(sequence is sequences[0] for sequence in sequences),
        tuple((name, not value.is_floating_point(), value.dim()) for name, value in masks),
    )


def _openable(box: Any) -> bool:
    """Whether it and all the attention and layers in it are PyTorch's own, with what is told here."""
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
        own = (nn.TransformerEncoder, nn.TransformerDecoder)
        return (type(box.encoder), type(box.decoder)) == own and _openable(box.encoder) and _openable(box.decoder)
    layer = stacks.get(type(box))
    return layer is not None and all(type(part) is layer and _openable(part) for part in box.layers)


def _with_masks(opened: torch.nn.Module, box: torch.nn.Module, call: Call) -> torch.nn.Module:
    """The opened module, called as the box is: with masks of booleans, of 3 axes for each head or of the keys alone."""
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
        return _attention(box, itself)
    if isinstance(box, nn.TransformerEncoderLayer):
        return _encoder_layer(box)
    if isinstance(box, nn.TransformerDecoderLayer):
        return _decoder_layer(box)
    if isinstance(box, nn.TransformerEncoder):
        return _encoder(box)
    return _decoder(box) if isinstance(box, nn.TransformerDecoder) else _transformer(box)


def _attention(box: torch.nn.MultiheadAttention, itself: bool) -> torch.nn.Module:
    """Attention of `num_heads` heads; of a sequence to itself with one linear layer for query, key and value."""
    import torch
    from torch import nn

    size, biases = box.embed_dim, [None] * 3 if box.in_proj_bias is None else box.in_proj_bias.chunk(3)
    if box.in_proj_weight is not None:
        weights = box.in_proj_weight.chunk(3)
    else:
        weights = (box.q_proj_weight, box.k_proj_weight, box.v_proj_weight)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if itself:
                self.in_proj = _linear(box.in_proj_weight, box.in_proj_bias)
            else:
                self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
            self.out_proj = _linear(box.out_proj.weight, box.out_proj.bias)

        def forward(
            self,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            key_padding_mask: Mask = None,
            need_weights: bool = True,
            attn_mask: Mask = None,
            average_attn_weights: bool = True,
            is_causal: bool = False,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if itself:
                together = self.in_proj(query).chunk(3, -1)
                parts = [together[place] for place in range(3)]  # FX cannot iterate
            else:
                parts = [self.q_proj(query), self.k_proj(key), self.v_proj(value)]
            if not box_batch_first:
                parts = [part.transpose(0, 1) for part in parts]
            q, k, v = (part.unflatten(-1, (heads, size // heads)).transpose(1, 2) for part in parts)
            mask = _sum(attn_mask, key_padding_mask)
            weights = None
            if need_weights:
                products = torch.matmul(q * (size // heads) ** -0.5, k.transpose(-2, -1))
                weights = torch.softmax(products if mask is None else products + mask, -1)
                found = torch.matmul(weights, v)
                weights = weights.mean(1) if average_attn_weights else weights
            else:
                found = nn.functional.scaled_dot_product_attention(q, k, v, mask)
            found = self.out_proj(found.transpose(1, 2).flatten(2))
            return found if box_batch_first else found.transpose(0, 1), weights

    box_batch_first, heads = box.batch_first, box.num_heads
    return Attention().eval()


def _sum(mask: Mask, padding: Mask) -> Mask:
    if mask is None or padding is None:
        return padding if mask is None else mask
    return mask + padding


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    import torch

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False)


def _encoder_layer(box: torch.nn.TransformerEncoderLayer) -> torch.nn.Module:
    from torch import nn

    first = box.norm_first

    class EncoderLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = _attention(box.self_attn, True)
            self.linear1, self.linear2 = box.linear1, box.linear2
            self.norm1, self.norm2, self.activation = box.norm1, box.norm2, box.activation

        def forward(
            self, src: torch.Tensor, src_mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool = False
        ) -> torch.Tensor:
            x = self.norm1(src) if first else src
            x = src + self.self_attn(x, x, x, src_key_padding_mask, False, src_mask)[0]
            x = x if first else self.norm1(x)
            deep = self.linear2(self.activation(self.linear1(self.norm2(x) if first else x)))
            return x + deep if first else self.norm2(x + deep)

    return EncoderLayer().eval()


def _decoder_layer(box: torch.nn.TransformerDecoderLayer) -> torch.nn.Module:
    from torch import nn

    first = box.norm_first

    class DecoderLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = _attention(box.self_attn, True)
            self.multihead_attn = _attention(box.multihead_attn, False)
            self.linear1, self.linear2, self.activation = box.linear1, box.linear2, box.activation
            self.norm1, self.norm2, self.norm3 = box.norm1, box.norm2, box.norm3

        def forward(
            self,
            tgt: torch.Tensor,
            memory: torch.Tensor,
            tgt_mask: Mask = None,
            memory_mask: Mask = None,
            tgt_key_padding_mask: Mask = None,
            memory_key_padding_mask: Mask = None,
            tgt_is_causal: bool = False,
            memory_is_causal: bool = False,
        ) -> torch.Tensor:
            x = self.norm1(tgt) if first else tgt
            x = tgt + self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask)[0]
            x = x if first else self.norm1(x)
            query = self.norm2(x) if first else x
            x = x + self.multihead_attn(query, memory, memory, memory_key_padding_mask, False, memory_mask)[0]
            x = x if first else self.norm2(x)
            deep = self.linear2(self.activation(self.linear1(self.norm3(x) if first else x)))
            return x + deep if first else self.norm3(x + deep)

    return DecoderLayer().eval()


def _encoder(box: torch.nn.TransformerEncoder) -> torch.nn.Module:
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList([_encoder_layer(layer) for layer in box.layers]), box.norm

        def forward(
            self,
            src: torch.Tensor,
            mask: Mask = None,
            src_key_padding_mask: Mask = None,
            is_causal: bool | None = None,
        ) -> torch.Tensor:
            for layer in self.layers:
                src = layer(src, mask, src_key_padding_mask)
            return src if self.norm is None else self.norm(src)

    return Encoder().eval()


def _decoder(box: torch.nn.TransformerDecoder) -> torch.nn.Module:
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList([_decoder_layer(layer) for layer in box.layers]), box.norm

        def forward(
            self,
            tgt: torch.Tensor,
            memory: torch.Tensor,
            tgt_mask: Mask = None,
            memory_mask: Mask = None,
            tgt_key_padding_mask: Mask = None,
            memory_key_padding_mask: Mask = None,
            tgt_is_causal: bool | None = None,
            memory_is_causal: bool = False,
        ) -> torch.Tensor:
            for layer in self.layers:
                tgt = layer(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
            return tgt if self.norm is None else self.norm(tgt)

    return Decoder().eval()


def _transformer(box: torch.nn.Transformer) -> torch.nn.Module:
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = _encoder(box.encoder), _decoder(box.decoder)

        def forward(
            self,
            src: torch.Tensor,
            tgt: torch.Tensor,
            src_mask: Mask = None,
            tgt_mask: Mask = None,
            memory_mask: Mask = None,
            src_key_padding_mask: Mask = None,
            tgt_key_padding_mask: Mask = None,
            memory_key_padding_mask: Mask = None,
            src_is_causal: bool | None = None,
            tgt_is_causal: bool | None = None,
            memory_is_causal: bool = False,
        ) -> torch.Tensor:
            memory = self.encoder(src, src_mask, src_key_padding_mask)
            masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
            return self.decoder(tgt, memory, *masks)

    return Transformer().eval()
