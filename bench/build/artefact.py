"""What an engine runs: the network in a recipe's number format, in the engine's own file format."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.build import sensitivity
from bench.build.keys import Entry, NetworkFacts, artefact_key, entry_of
from bench.build.networks import SEED
from bench.build.weights import load_data, trained_network
from bench.engines import engines
from bench.engines.engine import Engine
from bench.errors import BenchError, BuildError
from bench.spec.inputs import Inputs
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Source
from bench.spec.outcome import Calibration
from bench.spec.recipe import Recipe
from bench.store import BESIDE, Artifact, Store
from bench.tasks.inference import inputs_of_all

if TYPE_CHECKING:
    import torch

LEFT, CALIBRATION = f"{BESIDE}/left.json", f"{BESIDE}/calibration.json"
SAID = 240  # most characters of a library's error that a message quotes


def artefact_entry(
    store: Store,
    source: Source,
    network: NetworkFacts,
    weights: Artifact,
    engine: str,
    precision: str,
    recipe: Recipe,
    device: str = "cpu",
) -> Entry:
    """The store entry of an engine's artefact.

    weights  those of the network, or the stage that the recipe's steps led to.
    recipe   that of the precision, as it is for this model.

    Where the recipe has a `most_drop`, `left.json` beside it names the layers that stayed in FP32.
    """
    builder = engines.get(engine).on(device)
    made_from = artefact_key(source, network, weights, engine, builder, precision, recipe)
    make = partial(_build, builder, recipe, source, weights)
    return entry_of("artifact", made_from, store, source, make)


def _build(builder: Engine, recipe: Recipe, source: Source, network_weights: Artifact, folder: Path) -> None:
    try:
        tried = trial(builder, recipe, source, network_weights)
        if recipe.most_drop is not None:
            recipe = sensitivity.settled(tried, recipe, source, load_data(source, "train"))
        builder.build(tried.network(), recipe, tried.inputs.given(), folder)
        (folder / BESIDE).mkdir(exist_ok=True)
        if recipe.most_drop is not None:
            (folder / LEFT).write_text(json.dumps({"left": recipe.left, "by": recipe.left_by}))
        if recipe.calibrated:
            counts = Calibration(source.model.calibration, len(tried.samples))
            (folder / CALIBRATION).write_text(json.dumps(asdict(counts)))
    except (BenchError, OSError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())  # libraries write paragraphs, some with an empty first line
        text = text if len(text) <= SAID else f"{text[:SAID]} ..."
        raise BuildError(f"{recipe.name} could not be built: {type(error).__name__}: {text}") from error


def trial(builder: Engine, recipe: Recipe, source: Source, network_weights: Artifact) -> sensitivity.Trial:
    """What a recipe is built with: the engine, the trained network after its steps and rewrite, calibration inputs."""
    import torch

    samples = calibration_inputs(source)
    if source.model.is_file:
        return sensitivity.Trial(
            builder, lambda: trained_network(source, network_weights), samples, os.cpu_count() or 1
        )

    def network() -> torch.nn.Module:
        made = trained_network(source, network_weights, recipe.steps)
        torch.manual_seed(SEED)
        assert isinstance(made, torch.nn.Module)
        return made if recipe.rewrite is None else cast("torch.nn.Module", recipe.rewrite(made))

    interface = interface_of(network(), samples[:1])
    count = len(samples.names)
    return sensitivity.Trial(
        builder, lambda: adapted(network(), interface, count), samples, os.cpu_count() or 1, interface
    )


def digest_of(built: Artifact, builder: Engine) -> str:
    """The digest that names an artefact in a record.

    It is the artefact's own where that holds the whole network. Where it holds weights alone, the digest of the
    network's structure is hashed in: an edited network may keep its weights.
    """
    if builder.whole:
        return built.digest
    network = built.made_from["network"]
    assert isinstance(network, Mapping)
    return hashlib.sha256(f"{built.digest}\n{network['structure']}".encode()).hexdigest()


def as_built(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that the artefact in a folder was built by, with the layers that the search left in FP32."""
    if not (folder / LEFT).is_file():
        return recipe
    layers = json.loads((folder / LEFT).read_text())
    layers = {"left": layers, "by": None} if isinstance(layers, list) else layers  # older files hold the list alone
    return replace(recipe, left=tuple(layers["left"]), left_by=layers["by"])


def calibration_of(folder: Path) -> Calibration | None:
    """How many inputs the artefact in a folder was calibrated with; None where it was not calibrated."""
    counts = folder / CALIBRATION
    return Calibration(**json.loads(counts.read_text())) if counts.is_file() else None


def calibration_inputs(source: Source) -> Inputs:
    """The preprocessed inputs that INT8 is calibrated with: drawn from the training split under `SEED`."""
    import numpy as np

    items, count = load_data(source, "train").inputs, source.model.calibration
    rng = np.random.default_rng(SEED)
    drawn = (items[place] for place in np.sort(rng.permutation(len(items))[:count]))
    inputs = list(inputs_of_all(source.model, drawn))
    return Inputs.joined([inputs[place] for place in np.sort(rng.permutation(len(inputs))[:count])])
