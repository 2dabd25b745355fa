"""The number format of each part of a network in an artefact, counted from the artefact itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.spec.outcome import LeftLayer, Lowered
from bench.spec.recipe import Recipe

KINDS = (
    *("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "linear", "matmul", "lstm", "gru", "rnn", "embedding"),
)
UNFOUND = "quantized, but not found as a pattern: computed in floating point"


@dataclass(frozen=True)
class Layer:
    """One multiplication of a network as an artefact holds it; or an embedding, which has weights alone.

    name     the module's name in the network where the artefact holds it, else the operation's name.
    kind     one of KINDS; "matmul" is a product of two activations, as in attention.
    format   the number format that its products are computed in: "fp32", "bf16", "fp16", "int8".
    stored   the number format that its weights are stored in.
    macs     multiply-accumulates per item.
    weights  the count of its weights; 0 for a product of activations.
    reason   why it is not in the recipe's format; None where that is unknown.
    """

    name: str
    kind: str
    format: str
    stored: str
    macs: int
    weights: int
    reason: str | None = None


def lowered(layers: Sequence[Layer], wanted: str, promised: float = 1.0, stored: bool = False) -> Lowered | None:
    """The record's entry on an artefact's layers; None where nothing multiplies.

    wanted    the number format that the recipe asks for.
    promised  the share 0..1 of the multiply-accumulates that the recipe promises in it.
    stored    whether the engine only stores weights in it: the promise is of weights then.
    """
    macs, weights = sum(layer.macs for layer in layers), sum(layer.weights for layer in layers)
    if not macs:
        return None
    formats = dict.fromkeys([wanted, *(layer.format for layer in layers), *(layer.stored for layer in layers)])
    return Lowered(
        wanted=wanted,
        macs={name: sum(layer.macs for layer in layers if layer.format == name) / macs for name in formats},
        weights={
            name: sum(layer.weights for layer in layers if layer.stored == name) / weights if weights else 0.0
            for name in formats
        },
        promised=promised,
        left=tuple(
            LeftLayer(layer.name, layer.kind, layer.format, layer.macs / macs, layer.reason)
            for layer in layers
            if (layer.stored if stored else layer.format) != wanted and layer.macs
        ),
        layers=len(layers),
        of="weights" if stored else "macs",
        reason=_stored_otherwise(layers, wanted, stored),
    )


def _stored_otherwise(layers: Sequence[Layer], wanted: str, stored: bool) -> str | None:
    """What to say where weights are stored in one number format and products are computed in another, as no recipe of a
    floating format asks for; None where they are the same.
    """
    computed = ", ".join(dict.fromkeys(layer.format for layer in layers if layer.macs)).upper()
    if stored:
        return f"weights are stored in {wanted.upper()}, and products are computed in {computed}"
    weights = sum(layer.weights for layer in layers)
    other = sum(layer.weights for layer in layers if layer.stored != wanted and layer.format == wanted)
    if wanted not in ("bf16", "fp16") or not weights or 2 * other < weights:
        return None
    kinds = ", ".join(dict.fromkeys(layer.stored for layer in layers if layer.weights and layer.stored != wanted))
    share = f"{other / weights:.0%} of the weights are stored in {kinds.upper()}"
    return f"{share}; products are computed in {wanted.upper()}"


def as_stated(layers: Sequence[Layer], recipe: Recipe) -> list[Layer]:
    """The counted layers with what the tensors' types do not show: factors rounded to TF32 inside a kernel, and weights
    that autocast casts in each call. Outputs prove the first.
    """
    tf32 = recipe.number_format == "tf32"
    return [
        replace(
            layer,
            format="tf32" if tf32 and layer.format == "fp32" else layer.format,
            stored="fp32" if recipe.autocast else layer.stored,
        )
        for layer in layers
    ]


def promised(layers: Sequence[Layer], recipe: Recipe, covered: Sequence[str]) -> float:
    """The share 0..1 of a network's multiply-accumulates, or of its weights where these alone are lowered, that a
    recipe promises in its number format: all but the modules that it leaves and, without scales of activations, all but
    the kinds of layers that are not covered.

    layers  of the FP32 network, by its modules' names.
    """
    sizes = [layer.weights if recipe.weights_alone else layer.macs for layer in layers]
    kept = [_unpromised(layer, recipe, covered) is None for layer in layers]
    return sum(itertools.compress(sizes, kept)) / sum(sizes) if sum(sizes) else 1.0


def with_reasons(
    layers: Sequence[Layer], recipe: Recipe, covered: Sequence[str], unlowered: Mapping[str, str]
) -> list[Layer]:
    """The layers, each that is not in the recipe's format with a reason. The first of these that there is: the count's
    reason other than UNFOUND, left by the recipe, of a kind not covered, the engine's reason in `unlowered` (by kind),
    UNFOUND.
    """

    def reason(layer: Layer) -> str | None:
        counted = None if layer.reason == UNFOUND else layer.reason
        return counted or _unpromised(layer, recipe, covered) or unlowered.get(layer.kind) or layer.reason

    def there(layer: Layer) -> bool:
        return (layer.stored if recipe.weights_alone else layer.format) == recipe.number_format

    return [replace(layer, reason=None if there(layer) else reason(layer)) for layer in layers]


def _unpromised(layer: Layer, recipe: Recipe, covered: Sequence[str]) -> str | None:
    """Why a recipe does not promise a layer in its number format; None where it does."""
    if recipe.left and within(layer.name, recipe.left):
        return "left in FP32 by the recipe, to keep the quality"
    if recipe.only and not within(layer.name, recipe.only):
        return f"not in the part that the recipe lowers: {', '.join(recipe.only)}"
    if recipe.activations in ("dynamic", "float") and layer.kind not in covered:
        what = "weights alone are quantized" if recipe.weights_alone else "activations are quantized at run time"
        return f"{what} in layers of these kinds alone: {', '.join(covered)}"
    return None


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether the named module is among the modules or inside any of them."""
    return f"{name}.".startswith(tuple(f"{module}." for module in modules))
