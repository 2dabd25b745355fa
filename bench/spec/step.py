"""A step of a recipe: what is done to a network before an engine lowers it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from bench.spec.limits import Limits
    from bench.spec.training import Training

    Decided = Mapping[str, object]  # plain JSON


@dataclass(frozen=True)
class Context:
    """What a step may use.

    training  the model's; never None for a step that trains.
    teacher   the model's original network in FP32, in eval mode.
    items     how many training items there are.
    inputs    places among them -> the tensors of a call.
    targets   places -> their targets, (n, ...).
    bare      seed -> the network with the weights that it is built with under the seed.
    tutor     the model that `training.teacher` names, in eval mode; None for a step that is not `taught`.
    checkpoints  a file for each training of the step, in order, that keeps its state; None: it is not kept.
    plan      what else tells a training from others, for its checkpoint.
    fallen    a network -> how far its first figure of quality is below the original's on the training side; without
              targets there, how far its agreement is below 1. Raises BuildError where there is nothing to judge by.
    calibration  how many training items set the scales of values, as the model says.
    before    the recipe's earlier steps, whose effects must last: see `keepers`.
    """

    training: Training | None
    teacher: torch.nn.Module
    items: int
    inputs: Callable[[Sequence[int]], tuple[torch.Tensor, ...]]
    before: tuple[Step, ...] = ()
    targets: Callable[[Sequence[int]], torch.Tensor] | None = None
    bare: Callable[[int], torch.nn.Module] | None = None
    tutor: torch.nn.Module | None = None
    checkpoints: Iterator[Path | None] = field(default_factory=lambda: itertools.repeat(None))
    fallen: Callable[[torch.nn.Module], float] | None = None
    plan: tuple[str, ...] = ()
    calibration: int = 256

    def keepers(self, network: torch.nn.Module) -> tuple[Callable[[], None], ...]:
        """Functions that restore the effects of the earlier steps after each change of parameters.

        They are made from the network as it is: ask after structure has changed, and before parameters do.
        """
        return tuple(step.keeper(network) for step in self.before)


class Step(ABC):
    """A step. Subclass it as a frozen dataclass: its fields and its code are in the key of what it makes.

    packages  the distributions that it needs beside PyTorch.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def trains(self) -> bool:
        """Whether it needs the model's `training`."""
        return False

    @property
    def from_chance(self) -> bool:
        """Whether it needs the model's `training.loss`."""
        return False

    @property
    def taught(self) -> bool:
        """Whether it needs the model's `training.teacher`."""
        return False

    @property
    def reviews(self) -> bool:
        """Whether it needs the model's `training.features`."""
        return False

    @property
    def judges(self) -> bool:
        """Whether it asks `Context.fallen`: the task's code is in the key of what it makes."""
        return False

    @property
    def scales(self) -> bool:
        """Whether it gives the network INT8 scales that engines take instead of finding their own."""
        return False

    @property
    def rounds(self) -> bool:
        """Whether the network rounds its activations: the last digit of a sum may then change an output by a step."""
        return False

    def within(self, limits: Limits) -> Step:
        """The step with the caller's limits in place of its own, for a step that searches within some."""
        return self

    @abstractmethod
    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Compress the trained network, which may be changed in place; return the network that comes out, and, as plain
        JSON, what `shape` needs.

        It runs once: the result is kept.
        """

    def shape(self, network: torch.nn.Module, decided: Decided) -> torch.nn.Module:
        """Bring a network with unset weights to the structure that `make` gave it, and return it; for steps that change
        structure.
        """
        return network

    def keeper(self, network: torch.nn.Module) -> Callable[[], None]:
        """A function that restores this step's effect after a later change of the parameters."""
        return lambda: None
