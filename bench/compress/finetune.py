"""Training of a compressed network: its outputs are brought near those of a teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.compress.checkpoint import Checkpoint
from bench.progress import progress

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Context

SEED, MOMENTUM = 0, 0.9
LABEL = 0.25  # of the time of an epoch that a label on it may take


def layers_of(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers that multiply by weights, convolutions and linear layers, by name in the order of the network."""
    import torch

    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    return {name: part for name, part in network.named_modules() if isinstance(part, kinds)}


def parts_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of `layers_of` without their names."""
    return list(layers_of(network).values())


def restored(keepers: Sequence[Callable[[], None]]) -> None:
    """Restore the effects of all steps, without gradients."""
    import torch

    with torch.no_grad():
        for keep in keepers:
            keep()


def finetune(
    network: torch.nn.Module, context: Context, epochs: int, keepers: Sequence[Callable[[], None]], rate: float = 1.0
) -> None:
    """Train in place for some epochs, the same way every time: towards the teacher's outputs, by the model's distance.

    Labels teach little here: published weights are right on nearly all of their training items.

    keepers  restore the effects of all steps, after each update.
    rate     the share of the model's learning rate.
    """
    import torch

    training = context.training
    assert training is not None
    distance = training.distance

    def loss(outputs: Any, inputs: tuple[torch.Tensor, ...], places: list[int]) -> torch.Tensor:
        with torch.no_grad():
            wanted = context.teacher(*inputs)
        return distance(outputs, wanted)

    optimizer = torch.optim.SGD(network.parameters(), lr=rate * training.rate, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates_of(context, epochs))
    fit(network, context, epochs, keepers, loss, optimizer, schedule)


def updates_of(context: Context, epochs: int) -> int:
    """How many updates some epochs have; items beyond the last whole batch of an epoch are left out."""
    return epochs * (_visits(context) // batch_of(context))


def batch_of(context: Context) -> int:
    """The items of an update."""
    assert context.training is not None
    return min(context.training.batch, _visits(context))


def _visits(context: Context) -> int:
    """How many items an epoch goes over, each as often as the training repeats it."""
    assert context.training is not None
    return context.items * context.training.repeats


def plan_of(context: Context, epochs: int, seed: int) -> tuple[str, ...]:
    """What tells a training from others that begin with the same network."""
    return (str(epochs), str(batch_of(context)), str(seed), *context.plan)


def fit(
    network: torch.nn.Module,
    context: Context,
    epochs: int,
    keepers: Sequence[Callable[[], None]],
    loss: Callable[[Any, tuple[torch.Tensor, ...], list[int]], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    seed: int = SEED,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Train in place for some epochs, the same way every time; go on after the last epoch of an interrupted training.

    loss  (the network's outputs, inputs, the items' places) -> a scalar.
    seed  of the order of items, of augmentation and of dropout.
    more  what has a state beside the network, optimizer and schedule, for checkpoints.
    """
    import torch

    training = context.training
    assert training is not None
    batch = batch_of(context)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network.requires_grad_(True).train()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {"optimizer": optimizer, "schedule": schedule, **more}
    plan = plan_of(context, epochs, seed)
    checkpoint = Checkpoint(next(context.checkpoints), network, parts, {"order": generator}, plan)
    updates, label, quality = updates_of(context, 1), f"of {epochs}", _Quality(context.fallen)
    for epoch in range(checkpoint.restored(), epochs):
        order = torch.randperm(_visits(context), generator=generator) % context.items
        places = order[: updates * batch].split(batch)
        total, began = 0.0, time.monotonic()
        for some in progress(places, f"training, epoch {epoch + 1} {label}", updates):
            inputs = context.inputs(some.tolist())
            if training.augment is not None:
                inputs = training.augment(inputs, generator)
            optimizer.zero_grad()
            reached = loss(network(*inputs), inputs, some.tolist())
            reached.backward()
            if training.clip is not None:
                torch.nn.utils.clip_grad_norm_(trained, training.clip)
            optimizer.step()
            schedule.step()
            restored(keepers)
            total += float(reached.detach())
        took_s = time.monotonic() - began
        checkpoint.keep(epoch + 1)
        label = f"of {epochs}, loss was {total / updates:.3g}{quality.of(network, took_s)}"
    network.requires_grad_(False).eval()


class _Quality:
    """How far quality is below the original's, for labels; asked no more once it cannot be told, or takes long."""

    def __init__(self, fallen: Callable[[torch.nn.Module], float] | None) -> None:
        self._fallen = fallen

    def of(self, network: torch.nn.Module, epoch_s: float) -> str:
        """The words on a network after an epoch of so many seconds; empty where nothing is known."""
        if self._fallen is None:
            return ""
        began = time.monotonic()
        try:
            words = f", quality {-self._fallen(network):+.2%}"
        except Exception:  # no targets, a user's task: a label must not end a training
            self._fallen = None
            return ""
        if time.monotonic() - began > 2 * LABEL * epoch_s:  # the first judges the original too
            self._fallen = None
        return words
