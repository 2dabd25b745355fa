"""PyTorch's transformer layers and their stacks, made of open attention, the names of their parts kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bench.engines.open_attention import open_attention

if TYPE_CHECKING:
    import torch

    Mask: TypeAlias = torch.Tensor | None


def encoder_layer(box: torch.nn.TransformerEncoderLayer) -> torch.nn.Module:
    from torch import nn

    first = box.norm_first

    class EncoderLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = open_attention(box.self_attn, True)
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


def decoder_layer(box: torch.nn.TransformerDecoderLayer) -> torch.nn.Module:
    from torch import nn

    first = box.norm_first

    class DecoderLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = open_attention(box.self_attn, True)
            self.multihead_attn = open_attention(box.multihead_attn, False)
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


def encoder(box: torch.nn.TransformerEncoder) -> torch.nn.Module:
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList([encoder_layer(layer) for layer in box.layers]), box.norm

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


def decoder(box: torch.nn.TransformerDecoder) -> torch.nn.Module:
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList([decoder_layer(layer) for layer in box.layers]), box.norm

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


def transformer(box: torch.nn.Transformer) -> torch.nn.Module:
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder(box.encoder), decoder(box.decoder)

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
