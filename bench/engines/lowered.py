"""The number format of each part of a network in an artefact, counted from the artefact itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.spec.outcome import LeftLayer, Likeness, Lowered
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


def promised(layers: Sequence[Layer], recipe: Recipe, dynamic: Sequence[str]) -> float:
    """The share 0..1 of a network's multiply-accumulates that a recipe promises in its number format: all but the
    modules that it leaves and, with activations quantized at run time, all but the kinds of layers not in `dynamic`.

    layers  of the FP32 network, by its modules' names.
    """
    whole = sum(layer.macs for layer in layers)
    kept = sum(layer.macs for layer in layers if _unpromised(layer, recipe, dynamic) is None)
    return kept / whole if whole else 1.0


def with_reasons(
    layers: Sequence[Layer], recipe: Recipe, dynamic: Sequence[str], unlowered: Mapping[str, str]
) -> list[Layer]:
    """The layers, each that is not in the recipe's format with a reason. The first of these that there is: the count's
    reason other than UNFOUND, left by the recipe, of a kind not in `dynamic`, the engine's reason in `unlowered` (by
    kind), UNFOUND.
    """

    def reason(layer: Layer) -> str | None:
        counted = None if layer.reason == UNFOUND else layer.reason
        return counted or _unpromised(layer, recipe, dynamic) or unlowered.get(layer.kind) or layer.reason

    return [replace(layer, reason=None if layer.format == recipe.number_format else reason(layer)) for layer in layers]


def _unpromised(layer: Layer, recipe: Recipe, dynamic: Sequence[str]) -> str | None:
    """Why a recipe does not promise a layer in its number format; None where it does."""
    if recipe.left and within(layer.name, recipe.left):
        return "left in FP32 by the recipe, to keep the quality"
    if recipe.only and not within(layer.name, recipe.only):
        return f"not in the part that the recipe lowers: {', '.join(recipe.only)}"
    if recipe.activations == "dynamic" and layer.kind not in dynamic:
        return f"activations are quantized at run time in layers of these kinds alone: {', '.join(dynamic)}"
    return None


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether the named module is among the modules or inside any of them."""
    return f"{name}.".startswith(tuple(f"{module}." for module in modules))


NAMED = 3  # layers that a message names
NOT_LOWERED_DB = 90.0  # FP32 keeps some 120 dB of FP32 PyTorch's outputs, bfloat16 some 40, INT8 fewer than 60
NOT_FP32_DB = 60.0  # between FP32's 120 dB and bfloat16's 40
NOT_FP32_AGREEMENT = 0.95  # near ties fall either way: 1 of 64 labels is 1.6%


def contradiction(
    recipe: Recipe, outputs: Likeness, counted: Lowered | None = None, fp32_db: float = NOT_FP32_DB
) -> str | None:
    """Return why the outputs cannot come from the recipe's number format or are not finite; None where they can.

    outputs  likeness to the reference's outputs, FP32 PyTorch's or those of a network file on its own runtime.
    counted  the artefact's layers by number format; None where they could not be counted.
    fp32_db  the least SQNR in dB that FP32 keeps on the case's device.

    A figure under a wrong name is worse than none: engines leave a network in FP32 without a warning and compute FP32
    in bfloat16. Where the artefact was counted, the count decides. Otherwise the outputs decide: FP32 keeps some
    120 dB, TF32 some 70, bfloat16 some 40, INT8 fewer than 60. A count shows no TF32: the tensors are FP32, and a
    kernel rounds their factors. Equal whole numbers, as of a label map, show no number format.
    """
    if not outputs.finite:
        return "the outputs hold NaN or infinity"
    counted = counted if counted is not None and counted.macs else None
    if counted is not None and (reason := _misnamed(recipe, counted)) is not None:
        return reason
    if recipe.number_format != "fp32":
        shown = counted is not None and recipe.number_format != "tf32"
        if not shown and not recipe.given and not outputs.whole and outputs.sqnr_db > NOT_LOWERED_DB:
            return f"the outputs are FP32's to {outputs.sqnr_db:.0f} dB: nothing was computed in {recipe.number_format}"
        return None
    if recipe.rewrite is not None:
        return None
    if outputs.whole:
        if outputs.agreement < NOT_FP32_AGREEMENT:
            return f"only {outputs.agreement:.1%} of the outputs are FP32's: this was not computed in FP32"
    elif outputs.sqnr_db < fp32_db:
        return f"the outputs keep only {outputs.sqnr_db:.0f} dB of the FP32 reference's: this was not computed in FP32"
    return None


def _misnamed(recipe: Recipe, counted: Lowered) -> str | None:
    """Return why the shares of multiply-accumulates contradict the recipe's number format; None where they do not."""
    wanted, left = recipe.number_format, counted.left
    if wanted != "fp32" and not counted.shares.get(wanted):
        reasons = "; ".join(dict.fromkeys(layer.reason for layer in left if layer.reason))
        names = ", ".join(layer.name for layer in left[:NAMED]) + (", ..." if len(left) > NAMED else "")
        return f"nothing was computed in {wanted}: left are {names}" + (f" ({reasons})" if reasons else "")
    lower = {name: share for name, share in counted.macs.items() if name not in ("fp32", "fp64") and share}
    if wanted == "fp32" and lower:
        shares = ", ".join(f"{share:.1%} in {name}" for name, share in lower.items())
        return f"not all was computed in FP32: {shares} of the multiply-accumulates"
    return None
