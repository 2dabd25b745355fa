"""What a case is made from: a bill of keys per model, computed once.

network -> weights [-> a stage for each step of the recipe] -> reference outputs
                                                            -> an engine's artefact
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from bench.build.artefact import artefact_entry
from bench.build.keys import Entry, NetworkFacts, beside_of, network_entry, network_of
from bench.build.reference import reference_entry
from bench.build.stage import Tutor, stage_entry
from bench.build.weights import weights_entry
from bench.spec.limits import NO_LIMITS, Limits
from bench.spec.model import Source, models, recipe_for, source
from bench.spec.recipe import Recipe
from bench.spec.step import Step
from bench.store import Artifact, Store


class NotBuilt(LookupError):
    """A looked-up entry is not built yet."""


class Bill:
    """What the store keeps of a model with its weights and data.

    A missing entry is built. Where `build` is false NotBuilt is raised instead, so that a session plans without
    importing a framework.

    limits  the caller's, for recipes that search within some.
    """

    def __init__(self, store: Store, source: Source, build: bool = True, limits: Limits = NO_LIMITS) -> None:
        self.source, self._store, self._build, self._limits = source, store, build, limits

    def recipe(self, precision: str) -> Recipe:
        """The recipe of a precision, as it is for this model and within the caller's limits."""
        return recipe_for(self.source.model, precision, self._limits)

    @cached_property
    def network(self) -> NetworkFacts:
        """What identifies the network."""
        return network_of(self._kept(network_entry(self._store, self.source)))

    @cached_property
    def weights(self) -> Artifact:
        """The network's weights."""
        return self._kept(weights_entry(self._store, self.source, self.network))

    def stage(self, steps: Sequence[Step]) -> Artifact | None:
        """The network after these steps; None without steps."""
        made: Artifact | None = None
        for count in range(1, len(steps) + 1):
            tutor = self._tutor() if steps[count - 1].taught else None
            entry = stage_entry(self._store, self.source, self.network, self.weights, made, steps[:count], tutor)
            made = self._kept(entry)
        return made

    def _tutor(self) -> Tutor:
        """The model's teacher, with its weights."""
        training = self.source.model.training
        assert training is not None
        assert training.teacher is not None
        bill = Bill(self._store, source(models.get(training.teacher), self.source.folder), self._build)
        return Tutor(bill.source, bill.network, bill.weights)

    def reference(self, precision: str = "fp32") -> Artifact:
        """FP32 PyTorch's outputs and answers for the test split, after the steps of a precision."""
        return self.reference_after(self.recipe(precision).steps)

    def reference_after(self, steps: Sequence[Step]) -> Artifact:
        """FP32 PyTorch's outputs and answers for the test split, after these steps."""
        stage = self.stage(steps)
        original = None if stage is None else self.reference_after(())
        before = next((steps[:place] for place, step in enumerate(steps) if step.rounds), None)
        unrounded = None if before is None else self.reference_after(before)
        entry = reference_entry(self._store, self.source, self.network, self.weights, steps, stage, original, unrounded)
        return self._kept(entry)

    def artefact(self, engine: str, precision: str, device: str = "cpu") -> Artifact:
        """What an engine runs in a precision on a device."""
        recipe = self.recipe(precision)
        weights = self.stage(recipe.steps) or self.weights
        entry = artefact_entry(self._store, self.source, self.network, weights, engine, precision, recipe, device)
        return self._kept(entry)

    def _kept(self, entry: Entry) -> Artifact:
        beside = beside_of(self.source)
        if self._build:
            return self._store.get(entry.kind, entry.made_from, entry.write, beside)
        artifact = self._store.find(entry.kind, entry.made_from, beside)
        if artifact is None:
            raise NotBuilt(f"{entry.kind} of {self.source.model.name}")
        return artifact
