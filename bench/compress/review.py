"""Knowledge review: a student's features are fused from deep to shallow, and each fusion is held against a teacher's.

Chen et al. 2021, "Distilling Knowledge via Knowledge Review" (arXiv 2104.09044).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_MIDDLE = 512  # channels of a fusion
POOLED = (4, 2, 1)  # heights and widths at which features are compared beside their own


@cache
def fusion_class() -> Any:
    """The class of fusions, made at its first use: PyTorch is imported then."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Fusion(nn.Module):
        """Fuse a feature (n, given, h, w) with what the fusion of a deeper one passed on (the paper's ABF).

        deepest  whether nothing is passed on to it.
        """

        def __init__(self, given: int, middle: int, wanted: int, deepest: bool) -> None:
            super().__init__()
            self.narrow = nn.Sequential(nn.Conv2d(given, middle, 1, bias=False), nn.BatchNorm2d(middle))
            self.widen = nn.Sequential(nn.Conv2d(middle, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))
            self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())
            for convolution in (self.narrow[0], self.widen[0]):
                assert isinstance(convolution, nn.Conv2d)
                nn.init.kaiming_uniform_(convolution.weight, a=1)

        def forward(self, x: torch.Tensor, passed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            """Return the feature to compare, (n, wanted, h, w), and what is passed on, (n, middle, h, w)."""
            x = self.narrow(x)
            if self.attention is not None:
                assert passed is not None
                passed = functional.interpolate(passed, x.shape[2:], mode="nearest")
                share = self.attention(torch.cat([x, passed], 1))
                x = x * share[:, :1] + passed * share[:, 1:]
            return self.widen(x), x

    return Fusion


def fusions(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.nn.ModuleList:
    """A fusion for each pair of features, from deep to shallow; features are given from shallow to deep."""
    import torch

    middle = min(MOST_MIDDLE, student[-1].shape[1])
    pairs = list(zip(student, teacher, strict=True))[::-1]
    return torch.nn.ModuleList(
        fusion_class()(given.shape[1], middle, wanted.shape[1], place == 0)
        for place, (given, wanted) in enumerate(pairs)
    )


def reviewed(
    fusions: torch.nn.ModuleList, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The distance of a student's features, fused, to a teacher's: the sum over all pairs."""
    import torch

    total, passed = torch.zeros(()), None
    for fusion, given, wanted in zip(fusions, student[::-1], teacher[::-1], strict=True):
        fused, passed = fusion(given, passed)
        total = total + context_distance(fused, wanted)
    return total


def context_distance(fused: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of features, pooled to smaller sizes too, each weighing half of the one before (the
    paper's HCL).
    """
    from torch.nn import functional

    if fused.shape[2:] != wanted.shape[2:]:
        fused = functional.interpolate(fused, wanted.shape[2:], mode="nearest")
    total, weight, weights = functional.mse_loss(fused, wanted), 1.0, 1.0
    for size in POOLED:
        if size < fused.shape[2]:
            ours, theirs = (functional.adaptive_avg_pool2d(each, size) for each in (fused, wanted))
            weight /= 2
            total = total + weight * functional.mse_loss(ours, theirs)
            weights += weight
    return total / weights


@contextmanager
def features(network: torch.nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The outputs of the named modules by name, filled in at each call of the network."""
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        return lambda module, given, output: seen.__setitem__(name, output)

    hooks = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()
