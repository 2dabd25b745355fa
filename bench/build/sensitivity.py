"""Which layers cost quality: each alone in INT8 against FP32, and the fewest that must stay in FP32.

All of it uses the training side: the test side judges the result.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.quality_drop import BATCH, TrainingDrop
from bench.compress.finetune import layers_of
from bench.engines.lowered import within
from bench.progress import progress
from bench.spec.dataset import Samples
from bench.spec.inputs import Inputs
from bench.spec.interface import TENSOR, Interface
from bench.spec.model import Source
from bench.spec.recipe import Recipe
from bench.tasks.inference import outputs_of

if TYPE_CHECKING:
    import numpy as np

    from bench.engines.engine import Engine
    from bench.spec.inputs import Given
    from bench.spec.interface import Predict

SUSPECT_DB = 90.0  # above it a layer costs nothing or was not lowered: the engine is asked which


@dataclass(frozen=True)
class Layer:
    """A layer's module name, and the SQNR in dB of the network's outputs with only that layer in INT8.

    The SQNR is None, and the reason given, where the engine does not lower the layer.
    """

    name: str
    sqnr_db: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Trial:
    """An engine and a network to try recipes with: `lowered` builds, loads and returns the session's predict.

    network    () -> the FP32 network with its weights, new at each call; or the file that it is.
    samples    the calibration inputs, one at least.
    interface  how the network gives its outputs.
    """

    engine: Engine
    network: Callable[[], Any]
    samples: Given
    threads: int
    interface: Interface = TENSOR

    @property
    def inputs(self) -> Inputs:
        """The samples by input name."""
        return Inputs.of(self.samples)

    def lowered(self, recipe: Recipe, folder: Path) -> Predict:
        """The predict of a session that runs the network in the recipe's number format."""
        self.engine.build(self.network(), recipe, self.inputs.given(), folder)
        return self.engine.load(folder, recipe, self.network, self._example.given(), self.threads)

    @property
    def _example(self) -> Inputs:
        return self.inputs[[place % len(self.inputs) for place in range(BATCH)]].copy()

    def stayed(self, recipe: Recipe, name: str, folder: Path) -> str | None:
        """The reason why nothing became INT8 in the folder's build, which was to lower the layer `name` alone.

        None where something became INT8, or where the engine's layers cannot be counted.
        """
        layers = self.engine.layers(folder, recipe, self.network, self._example.given(), self.threads)
        if layers is None or any(layer.format == recipe.number_format for layer in layers):
            return None
        reasons = (layer.reason for layer in layers if layer.reason and within(name, (layer.name,)))
        return next(reasons, "the engine computes it in floating point")


def ranked(trial: Trial, recipe: Recipe) -> list[Layer]:
    """The layers by the SQNR of the outputs for the samples, the costliest first.

    Layers that the engine does not lower come last, each with the reason.
    """
    import numpy as np

    from bench.engines.torch_modules import predictor
    from bench.statistics import sqnr_db

    def outputs(predict: Predict) -> np.ndarray:
        parts = outputs_of(predict, iter(trial.inputs), BATCH, trial.interface)
        return np.concatenate([np.ravel(output) for part in parts for output in part])

    reference = outputs(predictor(trial.network()))
    names = list(layers_of(trial.network()))
    layers = []
    for name in progress(names, "one layer after the other in INT8", len(names)):
        with tempfile.TemporaryDirectory() as folder:
            predict = trial.lowered(replace(recipe, only=(name,)), Path(folder))
            figure = sqnr_db(outputs(predict), reference)
            reason = trial.stayed(replace(recipe, only=(name,)), name, Path(folder)) if figure > SUSPECT_DB else None
        layers.append(Layer(name, figure if reason is None else None, reason))
    return sorted(layers, key=lambda layer: math.inf if layer.sqnr_db is None else layer.sqnr_db)


def settled(trial: Trial, recipe: Recipe, source: Source, data: Samples) -> Recipe:
    """The recipe with the fewest layers left in FP32, the costliest first, that keeps to `recipe.most_drop`.

    The number of layers is searched by bisection, which assumes that leaving more in FP32 never hurts. Raises
    BuildError where the training side has nothing to judge by.
    """
    from bench.engines.torch_modules import predictor

    assert recipe.most_drop is not None
    limit, drop = recipe.most_drop, TrainingDrop(source, data, predictor(trial.network()), trial.interface)
    order = [layer.name for layer in ranked(trial, recipe) if layer.sqnr_db is not None]

    def holds(left: int) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            return drop.of(trial.lowered(replace(recipe, left=tuple(order[:left])), Path(folder))) <= limit

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return replace(recipe, left=tuple(order[:low]), left_by=drop.judged_by)
