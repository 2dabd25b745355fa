"""`bench train MODEL --config FILE`: a model trained from chance; its weights go where the data folder is looked up.

The configuration is the JSON of document 3 (VldKnd/MILTestTask), with comments.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.build import data
from bench.build.fingerprint import fingerprint
from bench.build.keys import class_digest, data_facts, made_by
from bench.build.networks import architecture
from bench.build.stage import items_of
from bench.build.weights import load_data
from bench.compress.checkpoint import refuse_others
from bench.compress.finetune import plan_of
from bench.compress.train import Train
from bench.errors import BadCase, DataError
from bench.spec.dataset import datasets
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Model, Source, models
from bench.spec.outcome import number
from bench.spec.state import save_state
from bench.spec.step import Context
from bench.spec.typed import of_type
from bench.store import Facts, key
from bench.tasks import tasks
from bench.tasks.inference import answered, inputs_of
from bench.tasks.task import metric_of

if TYPE_CHECKING:
    import torch

    from bench.spec.metric import Metric

COMMENT = "_comment"  # the beginning of keys that are comments
SECTIONS = "cfg, cfg_<DATA SET>, cfg_dataloader_train, cfg_dataloader_test, cfg_train"
BATCH = 32  # items of a call that judges
Section = TypeVar("Section")


@dataclass(frozen=True)
class Kept:
    """Section `cfg`: the file that keeps the state of the training."""

    checkpoint_path: Path


@dataclass(frozen=True)
class Folder:
    """Section `cfg_<DATA SET>`, such as cfg_CIFAR: the data folder, and whether to download what it lacks."""

    root: Path
    download: bool = False


@dataclass(frozen=True)
class Loader:
    """Sections `cfg_dataloader_train` and `cfg_dataloader_test`; of the second nothing shapes the result."""

    batch_size: int = 64
    shuffle: bool = True
    num_workers: int = 0
    pin_memory: bool = False


@dataclass(frozen=True)
class Length:
    """Section `cfg_train`."""

    n_epoches: int


@dataclass(frozen=True)
class Config:
    """How a model is trained."""

    kept: Kept
    folder: Folder
    loader: Loader
    length: Length


@dataclass(frozen=True)
class Trained:
    """What came of a training: the file of weights, and their quality on the n items of the test split.

    metrics  the unit of each figure, and which way is better.
    """

    file: Path
    dataset: str
    n: int
    quality: dict[str, float]
    metrics: dict[str, Metric]


def read_config(file: Path) -> Config:
    """A configuration; comments and commas at the end of lists are allowed. Raises DataError with what is wrong."""
    import json5

    try:
        told = json5.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a JSON configuration: {error}") from error
    if not isinstance(told, dict) or not all(
        isinstance(section, dict) for name, section in told.items() if not name.startswith(COMMENT)
    ):
        raise DataError(f"{file} holds no sections; a configuration has {SECTIONS}")
    sections = {name: section for name, section in told.items() if not name.startswith(COMMENT)}
    of_data = [name for name in sections if re.fullmatch(r"cfg_(?!train$|dataloader_).+", name)]
    known = {"cfg", "cfg_train", "cfg_dataloader_train", "cfg_dataloader_test", *of_data[:1]}
    if unknown := sections.keys() - known:
        raise DataError(f"{file} has {', '.join(sorted(unknown))}; a configuration has {SECTIONS}")
    _section(file, "cfg_dataloader_test", sections, Loader)
    loader = _section(file, "cfg_dataloader_train", sections, Loader)
    config = Config(
        _section(file, "cfg", sections, Kept),
        _section(file, of_data[0] if of_data else "cfg_<DATA SET>", sections, Folder),
        loader,
        _section(file, "cfg_train", sections, Length),
    )
    if config.length.n_epoches < 1 or loader.batch_size < 1:
        raise DataError(f"{file}: n_epoches and batch_size are whole numbers from 1")
    if not loader.shuffle:
        raise DataError(f"{file}: the training items are always shuffled; leave shuffle true")
    return config


def _section(file: Path, name: str, sections: Mapping[str, Any], kind: type[Section]) -> Section:
    """One section as a typed value."""
    told = {key: value for key, value in sections.get(name, {}).items() if not key.startswith(COMMENT)}
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in told if key not in names]:
        raise DataError(f"{file}: {name} has {', '.join(unknown)}; known there: {', '.join(names)}")
    try:
        return of_type(kind, told)
    except ValueError as error:
        raise DataError(f"{file}: {name}: {error}") from error


def train(model: Model, config: Config, folder: Path | None = None) -> Trained:
    """Train a model from chance as `scratch_fp32` does, or go on where it was interrupted, and judge it.

    folder  the data folder in place of the configuration's.
    """
    import torch

    weights = model.trained
    if weights is None or model.training is None:
        raise BadCase(f"{model.name} does not say how it is trained from chance: its 'training' needs a 'loss'")
    folder = (folder or config.folder.root).expanduser().absolute()
    source = Source(model, weights, datasets.get(weights.dataset), folder)
    if config.folder.download:
        data.fetch_dataset(source.dataset.name, folder)
    elif source.dataset.files is not None:
        source.dataset.files(folder)
    samples = load_data(source, "train")
    step = Train(epochs=config.length.n_epoches)
    training = replace(model.training, batch=config.loader.batch_size)
    inputs, targets = items_of(source, samples)

    def bare(seed: int) -> torch.nn.Module:
        network = architecture(source, seed)
        assert isinstance(network, torch.nn.Module)  # a file has no 'training'
        return network

    kept, network = config.kept.checkpoint_path.expanduser(), bare(step.seed)
    facts: Facts = {
        "training": fingerprint(training),
        "step": [fingerprint(step), class_digest(step)],
        "code": made_by(models.origin(model.name), model).digests(),
        "data": data_facts(source.dataset, folder),
    }
    context = Context(
        training,
        network,
        len(samples.inputs),
        inputs,
        targets=targets,
        bare=bare,
        checkpoints=itertools.repeat(kept),
        plan=(key(facts),),
    )
    refuse_others(kept, network, plan_of(context, step.epochs, step.seed))
    network, _ = step.make(network, context)
    file = source.weights_file
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    save_state(network, half)
    half.replace(file)
    return _judged(source, network, file)


def _judged(source: Source, network: torch.nn.Module, file: Path) -> Trained:
    """The quality of a trained network on the test split."""
    from bench.engines.torch_modules import predictor

    samples, task = load_data(source, "test"), tasks.get(source.model.task)
    example = inputs_of(source.model, samples.inputs[0])[1][0]
    interface = interface_of(network, example.given())
    predict = predictor(adapted(network, interface, len(example.names)))
    answers = answered(predict, source.model, samples.inputs, BATCH, interface).answers
    figures = task.quality(answers, samples.targets)
    quality = {name: number(figures, name) for name in figures if not math.isnan(number(figures, name))}
    metrics = {name: metric_of(task, name) for name in quality}
    return Trained(file, source.dataset.name, len(samples.inputs), quality, metrics)
