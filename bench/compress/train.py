"""Training from chance: by targets alone, or by a larger network's outputs or features too.

It changes weights alone, so no speed is gained: a small network becomes better.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.compress.finetune import MOMENTUM, fit, restored, updates_of
from bench.compress.review import features, fusions, reviewed
from bench.errors import BadCase
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context, Step

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Decided

# of weights, as Zagoruyko & Komodakis 2016, "Wide Residual Networks", train on CIFAR-10
DECAY = 5e-4


@dataclass(frozen=True)
class Train(Step):
    """Train the network anew, by SGD and the one-cycle policy (Smith & Topin 2018).

    distill      the weight of the teacher's outputs in the loss, 0 to 1, beside that of the targets; 0: no teacher.
                 Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    review       the weight of the distance between features, fused, and the teacher's; 0: none. See review.py.
    temperature  what the outputs of both are divided by before they are compared.
    epochs       of training.
    rate         the peak of the learning rate, as a multiple of the model's.
    seed         of the first weights, the order of items and augmentation.
    """

    distill: float = 0.0
    review: float = 0.0
    temperature: float = 4.0
    epochs: int = 40
    rate: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.distill <= 1 or self.review < 0 or self.temperature <= 0 or self.epochs < 1:
            raise BadCase(
                f"distill is 0 to 1, review not below 0, temperature above 0, epochs from 1; these are {self.distill}, "
                f"{self.review}, {self.temperature}, {self.epochs}"
            )

    @property
    def trains(self) -> bool:
        """Always."""
        return True

    @property
    def from_chance(self) -> bool:
        """Always."""
        return True

    @property
    def taught(self) -> bool:
        """Whether a teacher is in the loss."""
        return self.distill > 0 or self.review > 0

    @property
    def reviews(self) -> bool:
        """Whether features are compared."""
        return self.review > 0

    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Train the network from the weights it is built with; those that it comes with are not used."""
        import torch

        training, tutor = context.training, context.tutor
        assert training is not None
        assert training.loss is not None
        assert context.bare is not None
        assert context.targets is not None
        targets, by_targets, distance, warm = context.targets, training.loss, training.distance, self.temperature
        before = context.keepers(network)
        network.load_state_dict(context.bare(self.seed).state_dict())
        restored(before)

        with ExitStack() as stack:
            names = training.features if self.review else ()
            own = stack.enter_context(features(network, names))
            known = stack.enter_context(features(tutor, names)) if tutor is not None else {}
            fused = torch.nn.ModuleList()
            if self.review and tutor is not None:
                with torch.no_grad():
                    for each in (network, tutor):
                        each(*context.inputs([0]))
                torch.manual_seed(self.seed)
                fused = fusions([own[name] for name in names], [known[name] for name in names])

            def loss(outputs: Any, inputs: tuple[torch.Tensor, ...], places: list[int]) -> torch.Tensor:
                total = (1 - self.distill) * by_targets(outputs, targets(places))
                if tutor is None:
                    return total
                with torch.no_grad():
                    wanted = tutor(*inputs)
                if self.distill:
                    total = total + self.distill * warm**2 * distance(outputs / warm, wanted / warm)
                if self.review:
                    pairs = [own[name] for name in names], [known[name] for name in names]
                    total = total + self.review * reviewed(fused, *pairs)
                return total

            peak, parameters = self.rate * training.rate, [*network.parameters(), *fused.parameters()]
            optimizer = torch.optim.SGD(parameters, peak, MOMENTUM, weight_decay=DECAY, nesterov=True)
            updates = updates_of(context, self.epochs) + 1
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=updates)
            more = {"fusions": fused}
            fit(network, context, self.epochs, before, loss, optimizer, schedule, self.seed, more)
        return network, {}


recipes.add("scratch_fp32", Recipe("scratch_fp32", "fp32", steps=(Train(),)))
recipes.add("kd_fp32", Recipe("kd_fp32", "fp32", steps=(Train(distill=0.9),)))
recipes.add("review_fp32", Recipe("review_fp32", "fp32", steps=(Train(review=0.7),)))
