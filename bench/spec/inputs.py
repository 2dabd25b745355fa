"""What a network takes: arrays by input name, for several items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError, Unsupported

if TYPE_CHECKING:
    import numpy as np
    import torch

    Batch = np.ndarray | Mapping[str, np.ndarray]  # of one call: by input name; a lone array where there is one input

LONE = "input"  # the name of a network's only input where the model gives it none


class Inputs:
    """The inputs of n items: for each input of the network, by name and in its order, an array (n, ...) of any type.

    batch_axes  the axis along which the network takes several items in one call, by input name: 0 where not stated.
                None for an input that is the same for all items of a call. Where that holds for all inputs, the network
                takes a single item in a call.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch_axes: Mapping[str, int | None] | None = None, lone: bool = False
    ) -> None:
        self.arrays = dict(arrays)
        self.batch_axes = dict(batch_axes or {})
        self.lone = lone

    @classmethod
    def of(cls, given: np.ndarray | Inputs) -> Inputs:
        """Inputs as they are, or those of a network with one input, from a lone array (n, ...)."""
        return given if isinstance(given, Inputs) else cls({LONE: given}, lone=True)

    @classmethod
    def split(cls, batch: Batch) -> Iterator[Inputs]:
        """Each item of a call whose items lie along the first axis of each input."""
        return iter(cls(batch) if isinstance(batch, Mapping) else cls.of(batch))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in the network's order."""
        return tuple(self.arrays)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, items: slice | Sequence[int] | np.ndarray) -> Inputs:
        """Some of the items."""
        return self._like({name: array[items] for name, array in self.arrays.items()})

    def __iter__(self) -> Iterator[Inputs]:
        """Each item alone."""
        return (self[place : place + 1] for place in range(len(self)))

    def one_a_call(self) -> Inputs:
        """The same items for a network that takes a single item in a call."""
        import numpy as np

        axes = {name: self.batch_axes.get(name, 0) for name in self.arrays}
        arrays = {
            name: array if (axis := axes[name]) is None else np.expand_dims(array, axis + 1)
            for name, array in self.arrays.items()
        }
        return Inputs(arrays, dict.fromkeys(arrays), lone=False)

    def copy(self) -> Inputs:
        """The same values in memory of their own, in C order: runtimes are known to read other arrays wrongly."""
        import numpy as np

        return self._like({name: np.array(array, order="C") for name, array in self.arrays.items()})

    def given(self) -> Given:
        """What engines get: the lone array where the network has one input without a name, else these inputs."""
        return self.arrays[LONE] if self.lone else self

    def batch(self) -> Batch:
        """What the network takes in one call for all of these items. Raises Unsupported where it takes one item."""
        import numpy as np

        if self.lone:
            return self.arrays[LONE]
        axes = {name: self.batch_axes.get(name, 0) for name in self.arrays}
        if len(self) > 1 and all(axis is None for axis in axes.values()):
            raise Unsupported("this network takes one item in a call: none of its inputs has a free batch axis")
        made: dict[str, np.ndarray] = {}
        for name, array in self.arrays.items():
            axis = axes[name]
            if axis is None and len(self) > 1 and not (array == array[:1]).all():
                raise DataError(f"items differ in {name}, which the network takes once for all items of a call")
            made[name] = np.asarray(array[0] if axis is None else np.moveaxis(array, 0, axis), order="C")
        return made

    @classmethod
    def joined(cls, items: Sequence[Inputs]) -> Inputs:
        """The inputs of several, in C order and in memory of their own. Raises DataError where their shapes differ."""
        import numpy as np

        for name in items[0].arrays:
            one_shape((inputs.arrays[name].shape[1:] for inputs in items), name if not items[0].lone else None)
        return items[0]._like(
            {name: np.concatenate([inputs.arrays[name] for inputs in items]) for name in items[0].arrays}
        )

    def _like(self, arrays: Mapping[str, np.ndarray]) -> Inputs:
        return Inputs(arrays, self.batch_axes, self.lone)


def one_shape(shapes: Any, name: str | None = None) -> None:
    """Raise DataError where the shapes of a network's inputs differ."""
    different = list(dict.fromkeys(shapes))
    if len(different) > 1:
        which = "the network's inputs differ" if name is None else f"items differ in {name}, and so"
        raise DataError(
            f"{which} in shape, {different[0]} and {different[1]}; bench gives a network inputs of one shape: sort "
            "them into models by length (bench.bucketed), pad them in the model's preprocess, or give the Model a tile"
        )


def batch_of(given: Batch | Inputs) -> Batch:
    """What the network takes in one call."""
    return given.batch() if isinstance(given, Inputs) else given


def arrays_of(given: Batch | Inputs) -> tuple[np.ndarray, ...]:
    """The arrays of one call, in the network's order."""
    batch = batch_of(given)
    return tuple(batch.values()) if isinstance(batch, Mapping) else (batch,)


def tensors_of(given: Batch | Inputs) -> tuple[torch.Tensor, ...]:
    """The arrays of one call as PyTorch's tensors, which share their memory."""
    import torch

    return tuple(torch.from_numpy(array) for array in arrays_of(given))


if TYPE_CHECKING:
    Given = np.ndarray | Inputs  # what engines get: a lone array (n, ...) where there is one input
