"""Which cases cannot be measured on this machine with a session's settings, and why."""

from __future__ import annotations

from pathlib import Path

from bench.engines import engine_of, engines
from bench.errors import LackingData
from bench.machine.devices import devices
from bench.machine.isa import saturates
from bench.spec.case import Case
from bench.spec.model import Model, models, source
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe, recipes
from bench.timing.settings import Bench

QUANTIZED = ("int8", "int4", "fp8")  # the number formats whose recipes state activations


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
    if recipe.weights_alone and recipe.partial:
        return f"{recipe.name} has weights alone in {recipe.number_format}: it leaves no layers in FP32"
    if recipe.weights_alone and "float" not in engine.activations:
        return f"{name} holds no weights alone in {recipe.number_format} here"
    if recipe.activations not in engine.activations and not recipe.given:
        there = " or ".join(kind for kind in engine.activations if kind != "float") or "no"
        return f"{name} has {there} scales of activations in int8 here, not {recipe.activations}"
    if recipe.scaled and not engine.scaled:
        return f"{name} finds its own scales here, and {recipe.name} brings some"
    if recipe.scaled and saturates():
        return f"{recipe.name} has 8 bits, whose products saturate in 16 bits on this CPU: it has no VNNI"
    if recipe.bits not in engine.widths:
        return f"{name} holds whole numbers to {', '.join(map(str, engine.widths))} bits here, not to {recipe.bits}"
    return None
