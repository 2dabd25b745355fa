"""What is compressed: a network, its weights and the data it is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dataset import Dataset, datasets
from bench.errors import DataError
from bench.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import torch


def as_float32(inputs: np.ndarray) -> np.ndarray:
    """Pass inputs on as float32; the preprocessing of a model that states none."""
    import numpy as np

    return np.ascontiguousarray(inputs, dtype=np.float32)


@dataclass(frozen=True)
class Weights:
    """One set of weights of a model and the data set that belongs to it.

    name     what the record calls them.
    dataset  name of the data set they are calibrated on (train) and judged by (test).
    file     path below the user's data folder, read by `read`; None: they come with the network or by `train`.
    read     file -> state dict, of a file in `file`'s format; never unpickles objects. Raises DataError.
    train    (network, inputs (n, ...) float32 as preprocessed, targets (n, ...)) -> None, trains in place.
    fetch    folder -> None: brings `file` there.
    """

    name: str
    dataset: str
    file: str | None = None
    read: Callable[[Path], dict[str, Any]] | None = None
    train: Callable[[torch.nn.Module, np.ndarray, np.ndarray], None] | None = None
    fetch: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Model:
    """A model by name.

    task         name of the task that judges it.
    network      () -> torch.nn.Module, called under seed 0; holds the weights where `weights` neither read nor train.
    weights      the sets it can run with, the first that the user's folder serves is taken; without a folder the
                 first that needs no file.
    preprocess   inputs (n, ...) as the data set keeps them -> float32 (n, channels, height, width).
    calibration  samples of the training split that INT8 is calibrated with.
    """

    name: str
    task: str
    network: Callable[[], torch.nn.Module]
    weights: tuple[Weights, ...]
    preprocess: Callable[[np.ndarray], np.ndarray] = as_float32
    calibration: int = 256


models: Registry[Model] = Registry("model")


@dataclass(frozen=True)
class Source:
    """A model with the weights and the data that this machine has for it."""

    model: Model
    weights: Weights
    dataset: Dataset
    folder: Path | None

    @property
    def weights_file(self) -> Path | None:
        """The weights file in the user's folder, None where the weights need none."""
        return None if self.folder is None or self.weights.file is None else self.folder / self.weights.file


def source(model: Model, folder: Path | None) -> Source:
    """Choose the weights and data of a model. Raises DataError where a given folder lacks what the model needs.

    Where a folder is given and the model knows weights that lie in one, they must be there: a figure from embedded
    data must never pass for one from real data.
    """
    filed = [weights for weights in model.weights if weights.file is not None]
    if folder is None or not filed:
        for weights in model.weights:
            if weights.file is None:
                return Source(model, weights, datasets.get(weights.dataset), None if filed else folder)
        raise DataError(
            f"{model.name} needs {filed[0].file}; name a folder that holds it by --bench-data or BENCH_DATA"
        )
    if not folder.is_dir():
        raise DataError(
            f"no data folder at {folder}; name one that exists by --bench-data or BENCH_DATA, or unset both"
        )
    lacking = []
    for weights in filed:
        dataset = datasets.get(weights.dataset)
        try:
            if not (folder / str(weights.file)).is_file():
                raise DataError(f"{folder} holds no {weights.file}")
            if dataset.files is not None:
                dataset.files(folder)
        except DataError as error:
            lacking.append(str(error))
        else:
            return Source(model, weights, dataset, folder)
    raise DataError(
        f"{model.name} cannot use the data folder: {'; '.join(lacking)}; "
        f"'bench data fetch {filed[0].dataset}' brings it, without a folder embedded data are used"
    )
