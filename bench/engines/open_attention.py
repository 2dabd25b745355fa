"""Multi-head attention made of linear layers and a product."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    Mask: TypeAlias = torch.Tensor | None


def open_attention(box: torch.nn.MultiheadAttention, itself: bool) -> torch.nn.Module:
    """The attention of `box`, opened; for self-attention (`itself`) a single layer makes query, key and value."""
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
                mixed = torch.matmul(weights, v)
                weights = weights.mean(1) if average_attn_weights else weights
            else:
                mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask)
            output = self.out_proj(mixed.transpose(1, 2).flatten(2))
            return output if box_batch_first else output.transpose(0, 1), weights

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
