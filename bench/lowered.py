"""What of a network an artefact holds in which number format, counted from the artefact itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KINDS = (
    *("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "linear", "matmul", "lstm", "gru", "rnn", "embedding"),
)


@dataclass(frozen=True)
class Layer:
    """One multiplication of a network as an artefact holds it; or an embedding, which has weights alone.

    name     the module's name in the network where the artefact tells it, else the operation's own.
    kind     one of KINDS; "matmul" is a product of two activations, as in attention.
    format   the number format that its products are computed in: "fp32", "bf16", "fp16", "int8".
    stored   the number format that its weights are stored in.
    macs     multiply-accumulates for one item.
    weights  how many numbers its weights are; 0 for a product of activations.
    reason   why it is not in the format that the recipe asks for, where that is known.
    """

    name: str
    kind: str
    format: str
    stored: str
    macs: int
    weights: int
    reason: str | None = None


def lowered(layers: Sequence[Layer], wanted: str) -> dict[str, Any]:
    """What a record says: `macs` and `weights`, the shares 0..1 by number format; `left`, the layers that are not in
    the format `wanted`, each with name, kind, format, its share of `macs` and the reason; `layers`, how many there are.
    Empty where nothing multiplies.
    """
    macs, weights = sum(layer.macs for layer in layers), sum(layer.weights for layer in layers)
    formats = dict.fromkeys([wanted, *(layer.format for layer in layers), *(layer.stored for layer in layers)])
    if not macs:
        return {}
    return {
        "macs": {name: sum(one.macs for one in layers if one.format == name) / macs for name in formats},
        "weights": {
            name: sum(one.weights for one in layers if one.stored == name) / weights if weights else 0.0
            for name in formats
        },
        "left": [
            {"name": one.name, "kind": one.kind, "format": one.format, "macs": one.macs / macs, "reason": one.reason}
            for one in layers
            if one.format != wanted and one.macs
        ],
        "layers": len(layers),
    }
