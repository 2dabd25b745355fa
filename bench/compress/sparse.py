"""Pruning: weights that are set to zero and stay in their place.

No CPU engine here gains speed from zeros in convolutions; files compress better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from bench.compress.finetune import finetune, parts_of, restored
from bench.errors import BadCase
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context, Step

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Decided

KEPT, GROUP = 2, 4  # of the pattern 2:4


@dataclass(frozen=True)
class Sparse(Step):
    """Set the smallest weights of all convolutions and linear layers to zero.

    ratio    the share of zeros, over all layers together. With the pattern 2:4 it is a half.
    pattern  "any": wherever the smallest are; "2:4": two of each four that follow each other along the input channels.
    rises    smaller ratios that come before, each held for `hold` epochs.
    epochs   of fine-tuning at the end.
    """

    ratio: float
    pattern: str = "any"
    rises: tuple[float, ...] = ()
    hold: int = 3
    epochs: int = 5

    def __post_init__(self) -> None:
        ratios = (*self.rises, self.ratio)
        if not all(0 < ratio < 1 for ratio in ratios) or list(ratios) != sorted(ratios):
            raise BadCase(f"ratios of zeros rise from above 0 to below 1; there are {', '.join(map(str, ratios))}")
        if self.pattern not in ("any", "2:4") or (self.pattern == "2:4" and ratios != (KEPT / GROUP,)):
            raise BadCase(f"a pattern is 'any', or '2:4' with the ratio 0.5 alone; this is {self.pattern!r}, {ratios}")

    @property
    def trains(self) -> bool:
        """Whether it fine-tunes."""
        return bool(self.epochs or (self.rises and self.hold))

    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Prune, and fine-tune; the share of zeros is decided."""
        before = context.keepers(network)
        for ratio, epochs in [*((rise, self.hold) for rise in self.rises), (self.ratio, self.epochs)]:
            if self.pattern == "any":
                _prune(network, ratio)
            else:
                _prune_groups(network)
            restored(before)
            if epochs:
                finetune(network, context, epochs, (*before, self.keeper(network)))
        weights = [cast(Any, part).weight for part in parts_of(network)]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return network, {"zeros": zeros / sum(weight.numel() for weight in weights)}

    def keeper(self, network: torch.nn.Module) -> Callable[[], None]:
        """Zeros stay zeros."""
        masks = [(cast(Any, part).weight, cast(Any, part).weight != 0) for part in parts_of(network)]

        def keep() -> None:
            for weight, mask in masks:
                weight.mul_(mask)

        return keep


def _prune(network: torch.nn.Module, ratio: float) -> None:
    """Set the smallest weights of all layers together to zero; zeros of before are among them."""
    from torch.nn.utils import prune

    parts = parts_of(network)
    prune.global_unstructured([(part, "weight") for part in parts], prune.L1Unstructured, amount=ratio)
    for part in parts:
        prune.remove(part, "weight")


def _prune_groups(network: torch.nn.Module) -> None:
    """Keep the two largest of each four weights along the input channels; channels beyond the last four stay."""
    import torch

    for part in parts_of(network):
        weight = cast(Any, part).weight
        whole = weight.shape[1] // GROUP * GROUP
        with torch.no_grad():
            groups = weight[:, :whole].unflatten(1, (-1, GROUP)) if whole else None
            if groups is not None:
                largest = groups.abs().topk(KEPT, dim=2).indices
                mask = torch.zeros_like(groups).scatter_(2, largest, 1.0)
                weight[:, :whole] = (groups * mask).flatten(1, 2)


for percent in (30, 50, 70):
    name = f"sparse{percent}_fp32"
    recipes.add(name, Recipe(name, "fp32", steps=(Sparse(percent / 100),)))
HELD = Sparse(0.7, rises=(0.3, 0.5))
recipes.add("sparse70_held_fp32", Recipe("sparse70_held_fp32", "fp32", steps=(HELD,)))
recipes.add("sparse24_fp32", Recipe("sparse24_fp32", "fp32", steps=(Sparse(0.5, "2:4"),)))
recipes.add("sparse50_int8_static", Recipe("sparse50_int8_static", "int8", "static", steps=(Sparse(0.5),)))
