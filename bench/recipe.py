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
    """

    name: str
    number_format: str
    activations: str | None = None
    rewrite: Callable[[Any], Any] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether building it needs samples."""
        return self.activations == "static"


recipes: Registry[Recipe] = Registry("precision")
recipes.add("fp32", Recipe("fp32", "fp32"))
recipes.add("bf16", Recipe("bf16", "bf16"))
recipes.add("int8_static", Recipe("int8_static", "int8", "static"))
recipes.add("int8_dynamic", Recipe("int8_dynamic", "int8", "dynamic"))
