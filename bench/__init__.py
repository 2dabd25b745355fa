"""Honest benchmarks of compressed neural networks, as a pytest plugin."""

from bench import compress  # noqa: F401 - its steps bring precisions
from bench.engines import engines, engines_on
from bench.engines.engine import Engine
from bench.errors import BenchError
from bench.machine.devices import Device, devices
from bench.spec.case import Case, Grid
from bench.spec.dataset import Dataset, Samples, datasets
from bench.spec.model import Model, Weights, bucketed, models
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Step
from bench.spec.training import Training

__version__ = "0.1.0"

__all__ = [
    "BenchError",
    "Case",
    "Dataset",
    "Device",
    "Engine",
    "Grid",
    "Model",
    "Recipe",
    "Samples",
    "Step",
    "Training",
    "Weights",
    "bucketed",
    "datasets",
    "devices",
    "engines",
    "engines_on",
    "models",
    "recipes",
]
