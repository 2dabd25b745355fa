"""The settings that a session of the harness measures with, and which cases it cannot measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.build.bill import Bill
from bench.build.network_files import GivenFile
from bench.engines import engine_of, engines
from bench.errors import BenchError, LackingData
from bench.machine.devices import devices
from bench.machine.isa import saturates
from bench.spec.case import Case
from bench.spec.limits import NO_LIMITS, Limits
from bench.spec.model import Model, models, source
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe, recipes
from bench.store import Store
from bench.timing.sampling import Plan

QUANTIZED = ("int8", "fp8")  # the number formats whose recipes state activations


@dataclass(frozen=True)
class Bench:
    """A session's settings: the cache and data folders, how long to sample, when to give a worker up.

    cache            root of the artefact store.
    data             the user's data folder, None for embedded data.
    plan             how long and how often to sample.
    timeout_s        the longest that a worker may take for a question, in seconds. Building and judging may take longer
                     while they report progress this often; on CPU use alone, up to BUSY and JUDGING times as long.
    baseline_python  the interpreter of the baselines' workers, None for this process's.
    memory_bytes     a worker's limit of private memory, None for no limit.
    limits           what replaces the limits of precisions that search within some.
    device_index     which of the devices of a kind: the first is 0.
    explain          whether to record what each case executed.
    pictures         the folder for strips of pictures, None for none.
    files            the network files that are models of this session, by model.
    bills            the Bill of each model that was looked up in this session.
    failures         the error of each build that failed in this session, by interpreter, model, engine and precision.
    """

    cache: Path
    data: Path | None = None
    plan: Plan = field(default_factory=Plan)
    timeout_s: float = 120.0
    baseline_python: str | None = None
    memory_bytes: int | None = None
    limits: Limits = NO_LIMITS
    device_index: int = 0
    explain: bool = False
    pictures: Path | None = None
    files: dict[str, GivenFile] = field(default_factory=dict, compare=False, repr=False)
    bills: dict[str, Bill] = field(default_factory=dict, compare=False, repr=False)
    failures: dict[tuple[str, ...], BenchError] = field(default_factory=dict, compare=False, repr=False)

    @property
    def store(self) -> Store:
        """The artefact store of the session."""
        return Store(self.cache)

    def bill(self, case: Case) -> Bill:
        """What the store has of a case's model; it builds nothing. Raises LackingData and DataError."""
        given = source(models.get(case.model), self.data)
        if case.model not in self.bills or self.bills[case.model].source != given:
            self.bills[case.model] = Bill(self.store, given, build=False, limits=self.limits)
        return self.bills[case.model]


def unsupported(case: Case, bench: Bench) -> str | None:
    """The reason why the case cannot be measured on this machine with these settings; None where it can."""
    engine, recipe, model = engine_of(case), recipes.get(case.precision), models.get(case.model)
    if recipe.part is not None and recipe.part not in model.parts:
        return f"{model.name} names no part {recipe.part!r}; it has: {', '.join(model.parts) or 'none'}"
    try:
        given = source(model, bench.data)
    except LackingData as error:
        return str(error)
    return (
        _not_read(case.engine, model, recipe)
        or _not_on(case)
        or engine.missing()
        or _not_trained(model, recipe, bench.data)
        or lacking([*given.dataset.packages, *(package for step in recipe.steps for package in step.packages)])
        or engine.supports(recipe, case.device)
        or _not_stated(case.engine, recipe, case.device)
        or devices.get(case.device).missing(bench.device_index)
    )


def _not_read(name: str, model: Model, recipe: Recipe) -> str | None:
    """The reason why the engine cannot build from the model's network in the recipe; None where it can."""
    engine = engines.get(name)
    if model.format not in engine.reads:
        readers = ", ".join(other for other in engines.names() if model.format in engines.get(other).reads)
        return f"{name} does not read {model.format}, which {model.name} is; these do: {readers}"
    if model.is_file and (recipe.partial or recipe.steps or recipe.rewrite is not None):
        return f"{recipe.name} changes or names modules of a PyTorch network, and {model.name} is a file"
    if recipe.given and not model.quantized:
        return f"{recipe.name} is for files that are in INT8 already, and {model.name} is not"
    if model.quantized and not recipe.given:
        return f"{model.name} is a file that is in INT8 already: it is measured in the precision as_given alone"
    return None


def _not_trained(model: Model, recipe: Recipe, folder: Path | None) -> str | None:
    """The reason why the recipe's steps cannot train the model; None where they can, or do not train."""
    training = model.training
    if training is None:
        if not any(step.trains for step in recipe.steps):
            return None
        return f"{recipe.name} trains the network, and {model.name} does not say how: give the Model a 'training'"
    if training.loss is None and any(step.from_chance for step in recipe.steps):
        return f"{recipe.name} trains from chance, and {model.name}'s training has no 'loss'"
    if not training.features and any(step.reviews for step in recipe.steps):
        return f"{recipe.name} compares features, and {model.name}'s training names none"
    if any(step.taught for step in recipe.steps):
        if training.teacher is None:
            return f"{recipe.name} needs a teacher, and {model.name}'s training names none"
        try:
            source(models.get(training.teacher), folder)
        except LackingData as error:
            return f"{recipe.name} needs a teacher: {error}"
    return None


def _not_on(case: Case) -> str | None:
    """The reason why the case's engine does not run on its device; None where it does."""
    there = engines.get(case.engine).devices
    return None if case.device in there else f"{case.engine} runs on {', '.join(there)} here, not on {case.device}"


def _not_stated(name: str, recipe: Recipe, device: str) -> str | None:
    """The reason why the engine does not state the recipe's numbers on the device; None where it states them.

    What an engine does not state counts as unsupported: otherwise a new recipe could be lowered to another's numbers.
    """
    engine = engines.get(name)
    formats = engine.formats_on.get(device, engine.formats)
    if recipe.number_format not in formats:
        where = "here" if device == "cpu" else f"on {device}"
        return f"{name} computes in {', '.join(formats)} {where}, not in {recipe.number_format}"
    if recipe.autocast and device not in engine.autocasts:
        return f"{name} has no mixed precision on {device}"
    if recipe.number_format not in QUANTIZED:
        stated = recipe.activations is not None or recipe.bits != 8
        return f"activations and bits are of int8 alone, {recipe.name} is {recipe.number_format}" if stated else None
    if recipe.activations not in engine.activations and not recipe.given:
        there = " or ".join(engine.activations) or "no"
        return f"{name} has {there} scales of activations in int8 here, not {recipe.activations}"
    if recipe.scaled and not engine.scaled:
        return f"{name} finds its own scales here, and {recipe.name} brings some"
    if recipe.scaled and saturates():
        return f"{recipe.name} has 8 bits, whose products saturate in 16 bits on this CPU: it has no VNNI"
    if recipe.bits not in engine.widths:
        return f"{name} holds whole numbers to {', '.join(map(str, engine.widths))} bits here, not to {recipe.bits}"
    return None
