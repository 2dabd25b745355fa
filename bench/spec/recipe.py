"""What is done to a network before it is measured; data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.spec.limits import Limits
from bench.spec.registry import Registry
from bench.spec.step import Step


@dataclass(frozen=True)
class Recipe:
    """Steps that compress the network, an optional rewrite, and the number format the engine must lower it to.

    steps          done in order, once, before all else; each result is kept.
    number_format  what products are computed in: "fp32", "tf32" (FP32 whose factors keep 10 bits of mantissa), "bf16",
                   "fp16", "int8", "int4" (of weights alone) or "fp8".
    autocast       whether the engine picks the operations that are in that format, and weights stay in FP32.
    activations    for whole numbers, "static" (scales from calibration), "dynamic" (scales from each input), or
                   "float": weights alone are in the number format, and products in FP32; else None.
    rewrite        network -> network, done in PyTorch before any engine sees it; None leaves it as it is.
    part           which of the model's `parts` is lowered; None: the whole model.
    only           the module names of that part, as the model has them; empty: all.
    most_drop      the most that the first figure of quality may fall on the training side; as few layers as this
                   takes stay in FP32. None: no limit.
    left           the names of the modules that stay in FP32.
    left_by        the figure that selected `left`, where a most drop did.
    bits           for int8: how many bits weights and activations are held to; fewer than 8 simulate a smaller format
                   in 8-bit storage, with the size and speed of 8 bits.
    given          whether it takes a network file that is in its number format already, as it is.
    """

    name: str
    number_format: str
    activations: str | None = None
    rewrite: Callable[[Any], Any] | None = None
    part: str | None = None
    only: tuple[str, ...] = ()
    most_drop: float | None = None
    left: tuple[str, ...] = ()
    left_by: str | None = None
    bits: int = 8
    given: bool = False
    autocast: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether the network that its steps lead to has INT8 scales, which engines take as they are."""
        return self.number_format == "int8" and any(step.scales for step in self.steps)

    @property
    def calibrated(self) -> bool:
        """Whether building it needs samples."""
        return self.activations == "static" and not self.scaled

    @property
    def weights_alone(self) -> bool:
        """Whether weights are in the number format, and products in FP32."""
        return self.activations == "float"

    @property
    def partial(self) -> bool:
        """Whether an engine must be able to leave modules in FP32."""
        return bool(self.part or self.only or self.left) or self.most_drop is not None

    def within(self, limits: Limits) -> Recipe:
        """The recipe with the caller's limits in place of its own and its steps', where these have some."""
        most = self.most_drop if self.most_drop is None or limits.drop is None else limits.drop
        return replace(self, most_drop=most, steps=tuple(step.within(limits) for step in self.steps))

    def left_alone(self, network: Any) -> list[str]:
        """The names of the innermost modules of a network that stay in FP32."""
        prefixes = tuple(f"{name}." for name in self.only)
        leaves = [name for name, module in network.named_modules() if not list(module.children())]
        return [name for name in leaves if name in self.left or (self.only and not f"{name}.".startswith(prefixes))]


recipes: Registry[Recipe] = Registry("precision")
recipes.add("fp32", Recipe("fp32", "fp32"))
recipes.add("bf16", Recipe("bf16", "bf16"))
recipes.add("tf32", Recipe("tf32", "tf32"))
recipes.add("fp16", Recipe("fp16", "fp16"))
recipes.add("fp16_autocast", Recipe("fp16_autocast", "fp16", autocast=True))
recipes.add("int8_static", Recipe("int8_static", "int8", "static"))
recipes.add("int8_dynamic", Recipe("int8_dynamic", "int8", "dynamic"))
recipes.add("int8_weights", Recipe("int8_weights", "int8", "float"))
recipes.add("int4_weights", Recipe("int4_weights", "int4", "float"))
recipes.add("fp8_dynamic", Recipe("fp8_dynamic", "fp8", "dynamic"))
recipes.add("int8_encoder", Recipe("int8_encoder", "int8", "static", part="encoder"))
recipes.add("int4_simulated", Recipe("int4_simulated", "int8", "static", bits=4))
recipes.add("int2_simulated", Recipe("int2_simulated", "int8", "static", bits=2))
recipes.add("as_given", Recipe("as_given", "int8", given=True))
recipes.add("int8_auto", Recipe("int8_auto", "int8", "static", most_drop=0.01))
