"""What is done to a network before it is measured; data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """An optional rewrite of the network and the number format the engine must lower it to.

    number_format  "fp32", "bf16" or "int8": what products are computed in.
    activations    for int8, "static" (scales from calibration) or "dynamic" (scales from each input); else None.
    rewrite        network -> network, done in PyTorch before any engine sees it; None leaves it as it is.
    part           the part of the model, one of its `parts`, that is lowered; None: all of it.
    only           the names of that part's modules, as the model has them; empty: all.
    """

    name: str
    number_format: str
    activations: str | None = None
    rewrite: Callable[[Any], Any] | None = None
    part: str | None = None
    only: tuple[str, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether building it needs samples."""
        return self.activations == "static"

    def left_alone(self, network: Any) -> list[str]:
        """The names of a network's innermost modules that stay in FP32."""
        chosen = tuple(f"{name}." for name in self.only)
        leaves = [name for name, module in network.named_modules() if not list(module.children())]
        return [name for name in leaves if self.only and not f"{name}.".startswith(chosen)]


recipes: Registry[Recipe] = Registry("precision")
recipes.add("fp32", Recipe("fp32", "fp32"))
recipes.add("bf16", Recipe("bf16", "bf16"))
recipes.add("int8_static", Recipe("int8_static", "int8", "static"))
recipes.add("int8_dynamic", Recipe("int8_dynamic", "int8", "dynamic"))
recipes.add("int8_encoder", Recipe("int8_encoder", "int8", "static", part="encoder"))
