"""How a model is trained further, for recipes with steps that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Training:
    """How a model's network is trained further, by SGD with momentum 0.9 and a cosine schedule.

    distance  (the network's outputs, a teacher's outputs for the same inputs) -> a scalar tensor that training lowers.
    batch     items of an update.
    rate      the learning rate of the first update.
    whole     the names of layers whose outputs keep all channels, where removing some would break the network.
    repeats   how often an epoch goes over the items: more than once where they are few, and augmentation varies them.
    clip      the most that the norm of all gradients together may be, longer ones are scaled; None: as they are.
    augment   (inputs of a batch, generator) -> as many inputs, which may be smaller; None: as they are.
    loss      (the network's outputs, the items' targets as a tensor (n, ...)) -> a scalar tensor; None: the network is
              not trained from chance.
    features  the names of modules whose outputs (n, channels, height, width) a review compares, shallow to deep; the
              teacher has modules of the same names.
    teacher   the name of a larger model that takes the same inputs and gives outputs of the same kind.
    """

    distance: Callable[[Any, Any], torch.Tensor]
    batch: int = 64
    rate: float = 0.01
    repeats: int = 1
    clip: float | None = None
    whole: tuple[str, ...] = ()
    augment: Callable[[tuple[torch.Tensor, ...], torch.Generator], tuple[torch.Tensor, ...]] | None = None
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    teacher: str | None = None
    features: tuple[str, ...] = ()
