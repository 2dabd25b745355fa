"""A data set through a network: items cut to the network's size, batched, put together again, made into answers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.model import Model

if TYPE_CHECKING:
    import numpy as np

    from bench.engines import Predict
    from bench.model import Output

RAW_BYTES = 2**26


@dataclass(frozen=True)
class Answered:
    """What a network made of a data set.

    answers  what the task judges, one an item.
    raw      (k, values) float32: the outputs for the first k inputs, as many as RAW_BYTES hold, those of a network with
             several put behind each other.
    """

    answers: list[Any]
    raw: np.ndarray


def inputs_of(model: Model, item: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """An item, preprocessed (channels, ...), and the network's inputs that it is cut to: itself, or its tiles."""
    import numpy as np

    whole = model.preprocess(np.asarray(item)[None])[0]
    return whole, [whole] if model.tile is None else model.tile.cut(whole)


def inputs_of_all(model: Model, items: Iterable[Any]) -> Iterator[np.ndarray]:
    """The network's inputs for all items, (channels, ...) float32 each."""
    return itertools.chain.from_iterable(inputs_of(model, item)[1] for item in items)


def answered(predict: Predict, model: Model, items: Sequence[Any], batch: int) -> Answered:
    """Answer all items with a session, in batches of exactly `batch`."""
    import numpy as np

    waiting: deque[tuple[Any, np.ndarray, int]] = deque()

    def inputs() -> Iterator[np.ndarray]:
        for item in items:
            whole, cut = inputs_of(model, item)
            waiting.append((item, whole, len(cut)))
            yield from cut

    answers: list[Any] = []
    raw: list[np.ndarray] = []
    outputs = _outputs(predict, inputs(), batch)
    for first in outputs:
        item, whole, count = waiting.popleft()
        found = [first, *itertools.islice(outputs, count - 1)]
        for output in found:
            if len(raw) < max(1, RAW_BYTES // (raw[0].nbytes if raw else RAW_BYTES)):
                raw.append(_flat(output))
        answers.append(np.asarray(model.answer(first if model.tile is None else model.tile.join(found, whole), item)))
    return Answered(answers, np.stack(raw))


def _outputs(predict: Predict, inputs: Iterator[np.ndarray], batch: int) -> Iterator[Output]:
    """The output for each input; the last batch is filled up and cut again."""
    import numpy as np

    while chosen := list(itertools.islice(inputs, batch)):
        found = predict(np.stack([*chosen, *[chosen[-1]] * (batch - len(chosen))]))
        for place in range(len(chosen)):
            yield tuple(one[place] for one in found) if isinstance(found, tuple) else found[place]


def _flat(output: Output) -> np.ndarray:
    import numpy as np

    return np.concatenate([np.ravel(one) for one in output]) if isinstance(output, tuple) else np.ravel(output)


def save_answers(file: Path, answers: Sequence[np.ndarray]) -> None:
    """Keep answers of one type and number of axes, whatever their shapes, in one npz: their values, and each one's
    shape.
    """
    import numpy as np

    shapes = np.array([answer.shape for answer in answers], np.int64).reshape(len(answers), -1)
    np.savez(file, values=np.concatenate([np.ravel(answer) for answer in answers]), shapes=shapes)


def load_answers(file: Path) -> list[np.ndarray]:
    """The answers that were kept."""
    import numpy as np

    with np.load(file, allow_pickle=False) as kept:
        values, shapes = kept["values"], kept["shapes"]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
