"""What is compressed: a network, its weights, and the data that calibrate and judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.errors import DataError, LackingData
from bench.spec.dataset import Dataset, datasets
from bench.spec.limits import NO_LIMITS, Limits
from bench.spec.padding import Padded
from bench.spec.recipe import Recipe, recipes
from bench.spec.registry import Registry
from bench.spec.state import read_state
from bench.spec.tiling import Tile
from bench.spec.training import Training

if TYPE_CHECKING:
    import torch

    from bench.spec.interface import Output
    from bench.spec.network import NetworkFile

    Network: TypeAlias = torch.nn.Module | NetworkFile


def as_inputs(inputs: Any) -> Any:
    """The preprocessing of a model that states none: floating numbers become float32, whole numbers stay, such as word
    indices. A lone array of bytes, as of pictures, becomes float32 too.
    """
    import numpy as np

    if isinstance(inputs, np.ndarray):
        lone = inputs.dtype.kind == "f" or inputs.dtype.itemsize == 1
        return np.ascontiguousarray(inputs, dtype=np.float32 if lone else None)
    if isinstance(inputs, tuple):
        inputs = {f"input{place}": value for place, value in enumerate(inputs)}
    return {name: as_inputs(value) if value.dtype.kind == "f" else value for name, value in inputs.items()}


def as_given(output: Output, item: Any) -> Any:
    """Pass an output on as the answer, out of a tuple of one; for a model whose task judges its outputs themselves."""
    return output[0] if isinstance(output, tuple) and len(output) == 1 else output


@dataclass(frozen=True)
class Weights:
    """One set of weights of a model and the data set that belongs to it.

    name     what the record calls them.
    dataset  name of the data set they are calibrated on (train) and judged by (test).
    file     path below the user's data folder, read by `read`; None: they come with the network or by `train`.
    read     file -> state dict, of a file in `file`'s format; never unpickles objects. Raises DataError.
    network  file -> network, where the file holds the architecture too; its weights come with it.
    train    (network, inputs (n, ...) as preprocessed, targets (n, ...)) -> None, trains in place. Several inputs come
             as `bench.spec.inputs.Inputs`.
    fetch    folder -> None: downloads `file` there.
    """

    name: str
    dataset: str
    file: str | None = None
    read: Callable[[Path], Mapping[str, torch.Tensor]] | None = None
    network: Callable[[Path], torch.nn.Module] | None = None
    train: Callable[[torch.nn.Module, Any, Any], None] | None = None
    fetch: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Model:
    """A model by name.

    task         name of the task that judges it.
    network      () -> torch.nn.Module, or a NetworkFile that runs as it is; called under seed 0. It holds the weights
                 where `weights` neither read nor train. None where the weights' files hold it.
    weights      the sets it can run with. The first that the user's folder serves is taken, those of `bench train`
                 before all; without a folder, the first that needs none.
    preprocess   inputs (n, ...) as the data set keeps them -> what the network takes: one array (n, ...), (n, channels,
                 height, width) for pictures, or a dict of several by the names in the network's forward, in its order.
                 Floating numbers become float32; whole numbers stay, such as word indices. An item that the data set
                 keeps as a dict comes as a dict of arrays (n, ...), a tuple of unequal arrays as a tuple.
    answer       (the network's output for one item; the item as the data set keeps it) -> what the task judges. Where
                 the network gives a tuple, list, dict or class of several outputs, the output is a tuple that also
                 knows their names: `output[0]`, `output["out"]`, `output.out`.
    tile         the size of the network's inputs, where items are larger: they are cut to it and rejoined.
    collate      the length of the network's inputs, where items differ in length: see `bucketed`.
    parts        parts of the network that a recipe may lower alone: name -> its module names.
    calibration  how many inputs of the training split calibrate INT8.
    training     how the network is trained further; None: recipes whose steps train are unsupported.
    format       what an engine must read to run the network: "torch", or a network file's "onnx" or "openvino-ir".
    quantized    whether the network file is in INT8 already: it is measured as it is, and not quantized again.
    """

    name: str
    task: str
    network: Callable[[], Network] | None
    weights: tuple[Weights, ...]
    preprocess: Callable[[Any], Any] = as_inputs
    answer: Callable[[Any, Any], Any] = as_given
    tile: Tile | None = None
    collate: Padded | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    calibration: int = 256
    format: str = "torch"
    quantized: bool = False
    training: Training | None = None

    @property
    def trained(self) -> Weights | None:
        """What `bench train` writes, for the data set of the first weights; None where it cannot train the model."""
        if self.network is None or self.training is None or self.training.loss is None or not self.weights:
            return None
        name = f"{self.name}-trained"
        return Weights(name, self.weights[0].dataset, f"weights/{name}.safetensors", read_state)

    @property
    def is_file(self) -> bool:
        """Whether the network is a file that runs as it is."""
        return self.format != "torch"


models: Registry[Model] = Registry("model")


def recipe_for(model: Model, precision: str, limits: Limits = NO_LIMITS) -> Recipe:
    """The named recipe, with the model's part names and the caller's limits filled in where it uses them."""
    recipe = recipes.get(precision).within(limits)
    return recipe if recipe.part is None else replace(recipe, only=model.parts[recipe.part])


def bucketed(model: Model, lengths: Iterable[int], fill: Mapping[str, float]) -> list[Model]:
    """The model once for each length, `NAME_LENGTH`: an item belongs to the first that holds it, padded to its length.

    fill  the inputs that have a length, each with the number that it is padded with; a lone input is "input".

    An output that has a length, as of each word, is of the padded one: the model's `answer` cuts it to the item's.
    """
    ordered = sorted(set(lengths))
    if not ordered or ordered[0] < 1:
        raise DataError(f"lengths of buckets are whole numbers from 1: {', '.join(map(str, ordered)) or 'none'}")
    return [
        replace(model, name=f"{model.name}_{length}", collate=Padded(length, dict(fill), above, ordered[-1]))
        for above, length in zip([0, *ordered], ordered, strict=False)
    ]


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
    """Choose the weights and data of a model.

    Where a folder is given and the model knows weights or data that lie in a folder, some of them must be there: a
    figure from embedded data must never pass for a figure from real data. Raises LackingData where the folder lacks
    what the model needs, or a model that needs a folder gets none; DataError where there is no such folder.
    """
    filed = [
        weights
        for weights in model.weights
        if weights.file is not None or datasets.get(weights.dataset).files is not None
    ]
    trained = model.trained
    if folder is not None and trained is not None and (folder / str(trained.file)).is_file():
        filed.insert(0, trained)
    if folder is None or not filed:
        for weights in model.weights:
            if weights not in filed:
                return Source(model, weights, datasets.get(weights.dataset), None if filed else folder)
        raise LackingData(
            f"{model.name} needs {filed[0].file or filed[0].dataset}; name a folder that holds it by --bench-data or "
            "BENCH_DATA"
        )
    if not folder.is_dir():
        raise DataError(
            f"no data folder at {folder}; name one that exists by --bench-data or BENCH_DATA, or unset both"
        )
    lacking = []
    for weights in filed:
        dataset = datasets.get(weights.dataset)
        try:
            if weights.file is not None and not (folder / weights.file).is_file():
                raise DataError(f"{folder} holds no {weights.file}")
            if dataset.files is not None:
                dataset.files(folder)
        except DataError as error:
            lacking.append(str(error))
        else:
            return Source(model, weights, dataset, folder)
    raise LackingData(
        f"{model.name} cannot use the data folder: {'; '.join(lacking)}; "
        f"'bench data fetch {filed[0].dataset}' brings it, without a folder embedded data are used"
    )
