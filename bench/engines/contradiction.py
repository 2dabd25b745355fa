"""Whether a case's outputs and its artefact contradict its precision: a figure under a wrong name fails."""

from __future__ import annotations

from bench.spec.outcome import Likeness, Lowered
from bench.spec.recipe import Recipe

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
    kernel rounds their factors. Equal whole numbers, as of a label map, show no number format. Of a
    network that rounds its activations itself, the count alone decides.
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
    if recipe.rewrite is not None or any(step.rounds for step in recipe.steps):
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
    if recipe.given and any(share for name, share in counted.weights.items() if name.startswith("int")):
        return None  # a file of weights alone in whole numbers: its share says so
    if wanted != "fp32" and not counted.shares.get(wanted):
        reasons = "; ".join(dict.fromkeys(layer.reason for layer in left if layer.reason))
        names = ", ".join(layer.name for layer in left[:NAMED]) + (", ..." if len(left) > NAMED else "")
        return f"nothing was computed in {wanted}: left are {names}" + (f" ({reasons})" if reasons else "")
    lower = {name: share for name, share in counted.macs.items() if name not in ("fp32", "fp64") and share}
    if wanted == "fp32" and lower:
        shares = ", ".join(f"{share:.1%} in {name}" for name, share in lower.items())
        return f"not all was computed in FP32: {shares} of the multiply-accumulates"
    return None
