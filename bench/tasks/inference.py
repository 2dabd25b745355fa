"""Run a data set through a network: cut items to the network's size, batch, join, make answers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.interface import Interface, Outputs
from bench.spec.model import Model

if TYPE_CHECKING:
    import numpy as np

    from bench.spec.interface import Predict

RAW_BYTES = 2**26  # of outputs that are kept for the likeness to FP32: 64 MiB
FEW, OFTEN = 256, 100  # most different values of classes, and how often each occurs on average at least
TENSOR = Interface()


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


def preprocessed(model: Model, item: Any) -> np.ndarray:
    """An item as the network takes it, without the batch axis: in C order, floating numbers as float32.

    It is made from a copy: a `preprocess` that writes must not change the data set. Raises DataError where it is not a
    single array.
    """
    import numpy as np

    try:
        made = model.preprocess(np.array(item)[None])
    except (TypeError, ValueError) as error:
        if not isinstance(item, (tuple, list, dict)):
            raise
        parts = item.values() if isinstance(item, dict) else item
        shapes = ", ".join(dict.fromkeys(str(np.shape(part)) for part in parts))
        raise DataError(
            f"an item of {model.name}'s data is a {type(item).__name__} of shapes {shapes}; bench gives a network one "
            "input of one shape: pack them into one array, and part that in the network"
        ) from error
    if isinstance(made, (tuple, list, dict)):
        raise DataError(
            f"the preprocess of {model.name} gives a {type(made).__name__} of {len(made)}; bench gives a network one "
            "input of one shape: have it give one array (n, ...)"
        )
    array = np.asarray(np.asarray(made)[0], order="C")
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def inputs_of(model: Model, item: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """An item, preprocessed (channels, ...), and the network's inputs for it: itself, or its tiles."""
    whole = preprocessed(model, item)
    return whole, [whole] if model.tile is None else model.tile.cut(whole)


def inputs_of_all(model: Model, items: Iterable[Any]) -> Iterator[np.ndarray]:
    """The network's inputs for all items, (channels, ...) each."""
    return itertools.chain.from_iterable(inputs_of(model, item)[1] for item in items)


def stacked(inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Stack inputs of equal shape to (n, ...), in C order and in memory of their own.

    Runtimes are known to read other arrays in the wrong order. Raises DataError where the shapes differ.
    """
    import numpy as np

    one_shape(array.shape for array in inputs)
    return np.array(np.stack(inputs), order="C", copy=None)


def one_shape(shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise DataError where the shapes of a network's inputs differ."""
    different = list(dict.fromkeys(shapes))
    if len(different) > 1:
        raise DataError(
            f"the network's inputs differ in shape, {different[0]} and {different[1]}; bench gives a network one "
            "input of one shape: pad them in the model's preprocess, or give the Model a tile"
        )


def answered(
    predict: Predict, model: Model, items: Sequence[Any], batch: int, interface: Interface = TENSOR
) -> Answered:
    """Answer all items with a session, in batches of exactly `batch`.

    Where there are several outputs, the model's `answer` gets them by the names in `interface`.
    """
    import numpy as np

    waiting: deque[tuple[Any, np.ndarray, int]] = deque()

    def inputs() -> Iterator[np.ndarray]:
        for item in items:
            whole, cut = inputs_of(model, item)
            waiting.append((item, whole, len(cut)))
            yield from cut

    answers: list[Any] = []
    raw: list[tuple[np.ndarray, ...]] = []
    outputs = outputs_of(predict, inputs(), batch)
    for first in outputs:
        item, whole, count = waiting.popleft()
        parts = [first, *itertools.islice(outputs, count - 1)]
        for part in parts:
            if len(raw) < max(1, RAW_BYTES // (sum(output.nbytes for output in raw[0]) if raw else RAW_BYTES)):
                raw.append(part)
        if model.tile is not None:
            first = tuple(model.tile.join(list(tiles), whole) for tiles in zip(*parts, strict=True))
        answers.append(_answer(model, first, item, interface))
    columns = [np.stack([np.ravel(part[place]) for part in raw]) for place in range(len(raw[0]))]
    counted = np.concatenate([np.full(column.shape[1], _counted(column)) for column in columns])
    return Answered(answers, np.concatenate(columns, axis=1), counted)


def outputs_of(predict: Predict, inputs: Iterator[np.ndarray], batch: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield a tuple of outputs for each input. The last batch is padded with its last input; the padding is dropped."""
    shape: tuple[int, ...] | None = None
    while group := list(itertools.islice(inputs, batch)):
        shape = shape or group[0].shape
        one_shape((shape, group[0].shape))
        outputs = predict(stacked([*group, *[group[-1]] * (batch - len(group))]))
        for place in range(len(group)):
            yield tuple(output[place] for output in (outputs if isinstance(outputs, tuple) else (outputs,)))


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
