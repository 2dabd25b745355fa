"""What of a network an artefact holds in which number format, counted from the artefact itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.spec.recipe import Recipe

KINDS = (
    *("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "linear", "matmul", "lstm", "gru", "rnn", "embedding"),
)
UNFOUND = "quantized, but not found as a pattern: computed in floating point"


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


def lowered(layers: Sequence[Layer], wanted: str, promised: float = 1.0) -> dict[str, Any]:
    """What a record says: `wanted`, the format asked for; `macs` and `weights`, the shares 0..1 by number format;
    `promised`, the share of `macs` that the recipe promises in the format `wanted`; `left`, the layers that are not in
    it, each with name, kind, format, its share of `macs` and the reason; `layers`, how many there are. Empty where
    nothing multiplies.
    """
    macs, weights = sum(layer.macs for layer in layers), sum(layer.weights for layer in layers)
    if not macs:
        return {}
    formats = dict.fromkeys([wanted, *(layer.format for layer in layers), *(layer.stored for layer in layers)])
    return {
        "wanted": wanted,
        "macs": {name: sum(layer.macs for layer in layers if layer.format == name) / macs for name in formats},
        "weights": {
            name: sum(layer.weights for layer in layers if layer.stored == name) / weights if weights else 0.0
            for name in formats
        },
        "promised": promised,
        "left": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "format": layer.format,
                "macs": layer.macs / macs,
                "reason": layer.reason,
            }
            for layer in layers
            if layer.format != wanted and layer.macs
        ],
        "layers": len(layers),
    }


def promised(layers: Sequence[Layer], recipe: Recipe, dynamic: Sequence[str]) -> float:
    """The share 0..1 of a network's multiply-accumulates that a recipe promises in its number format: all, but for the
    modules that it leaves, and with activations quantized at run time, but for kinds of layers not in `dynamic`.

    layers  of the FP32 network, by its modules' names.
    """
    whole = sum(layer.macs for layer in layers)
    kept = sum(layer.macs for layer in layers if _unpromised(layer, recipe, dynamic) is None)
    return kept / whole if whole else 1.0


def with_reasons(
    layers: Sequence[Layer], recipe: Recipe, dynamic: Sequence[str], unlowered: Mapping[str, str]
) -> list[Layer]:
    """The layers, those that are not in the recipe's format with the reason where it is known: left by the recipe, not
    of the kinds in `dynamic`, or by `unlowered`, which tells by kind why an engine leaves them. A reason that the count
    itself gave goes first, unless it is UNFOUND.
    """

    def reason(layer: Layer) -> str | None:
        known = None if layer.reason == UNFOUND else layer.reason
        return known or _unpromised(layer, recipe, dynamic) or unlowered.get(layer.kind) or layer.reason

    return [replace(layer, reason=None if layer.format == recipe.number_format else reason(layer)) for layer in layers]


def _unpromised(layer: Layer, recipe: Recipe, dynamic: Sequence[str]) -> str | None:
    if recipe.left and within(layer.name, recipe.left):
        return "left in FP32 by the recipe, to keep the quality"
    if recipe.only and not within(layer.name, recipe.only):
        return f"not in the part that the recipe lowers: {', '.join(recipe.only)}"
    if recipe.activations == "dynamic" and layer.kind not in dynamic:
        return f"activations are quantized at run time in layers of these kinds alone: {', '.join(dynamic)}"
    return None


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a module of that name is one of the modules or inside one."""
    return f"{name}.".startswith(tuple(f"{module}." for module in modules))
