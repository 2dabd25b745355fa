"""Run a data set through a network: cut items to the network's size, batch, join, make answers."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.inputs import LONE, Inputs
from bench.spec.interface import TENSOR, Interface, Outputs
from bench.spec.model import Model

if TYPE_CHECKING:
    import numpy as np

    from bench.spec.interface import Predict

RAW_BYTES = 2**26  # of outputs that are kept for the likeness to FP32: 64 MiB
FEW, OFTEN = 256, 100  # most different values of classes, and how often each occurs on average at least


@dataclass(frozen=True)
class Answered:
    """A network's answers and outputs for a data set.

    answers  what the task judges, one per item.
    raw      (k, values): the outputs for the first k inputs, as many as RAW_BYTES hold; several outputs of a network
             are concatenated.
    whole    (values,) bool: which values are whole numbers, or a few values that recur, as classes do. These are
             compared by how many are equal: a ratio of signal to noise means nothing there.
    """

    answers: list[Any]
    raw: np.ndarray
    whole: np.ndarray


def preprocessed(model: Model, item: Any) -> Inputs:
    """The network's inputs for one item: in C order, floating numbers as float32.

    They are made from a copy: a `preprocess` that writes must not change the data set. Raises DataError where they are
    not one array, or several by name.
    """
    import numpy as np

    try:
        made = model.preprocess(_single(item))
    except (TypeError, ValueError, AttributeError) as error:
        if not isinstance(item, (tuple, list, dict)):
            raise
        raise DataError(
            f"an item of {model.name}'s data is {_kind(item)}, and the model's preprocess does not take that: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(made, Inputs):
        return made
    if isinstance(made, Mapping):
        return Inputs({str(name): _array(value) for name, value in made.items()})
    if isinstance(made, (tuple, list)) and len({np.shape(part) for part in made}) > 1:
        raise DataError(
            f"the preprocess of {model.name} gives {_kind(made)}; have it give one array (n, ...), or several in a "
            "dict by the names in the network's forward"
        )
    return Inputs.of(_array(made))


def _single(item: Any) -> Any:
    """A copy of an item with a leading axis of 1, each array by itself where it has several."""
    import numpy as np

    if isinstance(item, Inputs):
        return item.copy()
    if isinstance(item, Mapping):
        return {name: np.array(value)[None] for name, value in item.items()}
    try:
        return np.array(item)[None]
    except ValueError:  # arrays of different shapes
        return tuple(np.array(part)[None] for part in item)


def _array(value: Any) -> np.ndarray:
    import numpy as np

    array = np.asarray(value, order="C")
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _kind(parts: Any) -> str:
    import numpy as np

    values = parts.values() if isinstance(parts, Mapping) else parts
    shapes = ", ".join(dict.fromkeys(str(np.shape(part)) for part in values))
    return f"a {type(parts).__name__} of shapes {shapes}"


def inputs_of(model: Model, item: Any) -> tuple[Inputs, list[Inputs]]:
    """An item, preprocessed and padded, and the network's inputs for it: itself, or its tiles. Each is of one item."""
    whole = preprocessed(model, item)
    if model.collate is not None:
        whole = model.collate.padded(whole)
    if model.tile is None:
        return whole, [whole]
    if not whole.lone:
        raise DataError(f"{model.name} has a tile and {len(whole.names)} inputs by name; tiles are cut of one input")
    return whole, [Inputs.of(tile[None]) for tile in model.tile.cut(whole.arrays[LONE][0])]


def inputs_of_all(model: Model, items: Iterable[Any]) -> Iterator[Inputs]:
    """The network's inputs for all items, one item each."""
    return itertools.chain.from_iterable(inputs_of(model, item)[1] for item in items)


def answered(
    predict: Predict, model: Model, items: Sequence[Any], batch: int, interface: Interface = TENSOR
) -> Answered:
    """Answer all items with a session, in batches of exactly `batch`.

    Where there are several outputs, the model's `answer` gets them by the names in `interface`.
    """
    import numpy as np

    waiting: deque[tuple[Any, Inputs, int]] = deque()

    def inputs() -> Iterator[Inputs]:
        for item in items:
            whole, cut = inputs_of(model, item)
            waiting.append((item, whole, len(cut)))
            yield from cut

    answers: list[Any] = []
    raw: list[tuple[np.ndarray, ...]] = []
    outputs = outputs_of(predict, inputs(), batch, interface)
    for first in outputs:
        item, whole, count = waiting.popleft()
        parts = [first, *itertools.islice(outputs, count - 1)]
        for part in parts:
            if len(raw) < max(1, RAW_BYTES // (sum(output.nbytes for output in raw[0]) if raw else RAW_BYTES)):
                raw.append(part)
        if model.tile is not None:
            picture = whole.arrays[LONE][0]
            first = tuple(model.tile.join(list(tiles), picture) for tiles in zip(*parts, strict=True))
        answers.append(_answer(model, first, item, interface))
    columns = [np.stack([np.ravel(part[place]) for part in raw]) for place in range(len(raw[0]))]
    counted = np.concatenate([np.full(column.shape[1], _counted(column)) for column in columns])
    return Answered(answers, np.concatenate(columns, axis=1), counted)


def outputs_of(
    predict: Predict, inputs: Iterator[Inputs], batch: int, interface: Interface = TENSOR
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield a tuple of outputs for each input. The last batch is padded with its last input; the padding is dropped."""
    first: Inputs | None = None
    while group := list(itertools.islice(inputs, batch)):
        first = first or group[0]
        Inputs.joined([first, group[0]])  # all batches are of the first one's shape
        outputs = interface.items(predict(Inputs.joined([*group, *[group[-1]] * (batch - len(group))]).batch()))
        for place in range(len(group)):
            yield tuple(output[place] for output in outputs)


def _answer(model: Model, outputs: tuple[np.ndarray, ...], item: Any, interface: Interface) -> np.ndarray:
    """The model's `answer` to the outputs for an item. Raises DataError where it is not a single array."""
    import numpy as np

    single = interface.gives == "tensor" and len(outputs) == 1
    names = interface.names if len(interface.names) == len(outputs) else tuple(range(len(outputs)))
    answer = model.answer(outputs[0] if single else Outputs(outputs, names), item)
    try:
        return np.asarray(answer)
    except ValueError as error:
        shapes = ", ".join(str(np.shape(part)) for part in answer)
        raise DataError(
            f"{model.name} has {len(outputs)} outputs, and what it answers is of shapes {shapes}; give the Model an "
            "'answer' that takes one of them, or joins them to one array"
        ) from error


def _counted(values: np.ndarray) -> bool:
    """Whether these are classes.

    They are of an integer type, or have at most 256 different values that are whole, or that occur 100 times each on
    average.
    """
    import numpy as np

    if values.dtype.kind in "iub":
        return True
    few = np.unique(values.ravel()[: FEW * OFTEN])  # a part is enough to see that there are many different values
    if len(few) > FEW or not np.isfinite(few).all() or not np.isin(values, few).all():
        return False
    return bool((few == np.round(few)).all()) or values.size >= OFTEN * len(few)


def save_inputs(folder: Path, inputs: Inputs) -> None:
    """Keep inputs in a folder: their arrays, numbered, and their names beside them."""
    import numpy as np

    arrays = {str(place): array for place, array in enumerate(inputs.arrays.values())}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    axes = [inputs.batch_axes.get(name, 0) for name in inputs.names]
    facts = {"names": inputs.names, "batch_axes": axes, "lone": inputs.lone}
    (folder / "inputs.json").write_text(json.dumps(facts))


def load_inputs(folder: Path) -> Inputs:
    """The inputs that `save_inputs` kept."""
    import numpy as np

    facts = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "inputs.npz", allow_pickle=False) as kept:
        arrays = {name: kept[str(place)] for place, name in enumerate(facts["names"])}
    return Inputs(arrays, dict(zip(facts["names"], facts["batch_axes"], strict=True)), facts["lone"])


def save_answers(file: Path, answers: Sequence[np.ndarray]) -> None:
    """Keep answers of the same type and number of axes, of any shapes, in an npz: all values, and all shapes."""
    import numpy as np

    shapes = np.array([answer.shape for answer in answers], np.int64).reshape(len(answers), -1)
    np.savez(file, values=np.concatenate([np.ravel(answer) for answer in answers]), shapes=shapes)


def load_answers(file: Path) -> list[np.ndarray]:
    """The answers that `save_answers` kept."""
    import numpy as np

    with np.load(file, allow_pickle=False) as kept:
        values, shapes = kept["values"], kept["shapes"]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
