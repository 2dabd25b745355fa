"""A step of a recipe: what is done to a network before an engine lowers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from bench.spec.training import Training

    Decided = Mapping[str, object]  # plain JSON


@dataclass(frozen=True)
class Context:
    """What a step may use.

    training  the model's; never None for a step that trains.
    teacher   the model's original network in FP32, in eval mode.
    items     how many training items there are.
    inputs    places among them -> the tensors of a call.
    keepers   functions that restore the effects of the recipe's earlier steps; to be called after each change of
              parameters.
    """

    training: Training | None
    teacher: torch.nn.Module
    items: int
    inputs: Callable[[Sequence[int]], tuple[torch.Tensor, ...]]
    keepers: tuple[Callable[[], None], ...] = ()


class Step(ABC):
    """A step. Subclass it as a frozen dataclass: its fields and its code are in the key of what it makes.

    packages  the distributions that it needs beside PyTorch.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def trains(self) -> bool:
        """Whether it needs the model's `training`."""
        return False

    @abstractmethod
    def make(self, network: torch.nn.Module, context: Context) -> Decided:
        """Change the trained network in place; return, as plain JSON, what `shape` needs.

        It runs once: the result is kept.
        """

    def shape(self, network: torch.nn.Module, decided: Decided) -> None:
        """Bring a network with unset weights to the structure that `make` gave it; for steps that change structure."""
        return

    def keeper(self, network: torch.nn.Module) -> Callable[[], None]:
        """A function that restores this step's effect after a later change of the parameters."""
        return lambda: None
