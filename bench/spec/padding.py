"""Items of several lengths: padded to the length of the first bucket that holds them.

Engines compile a network for one shape, so each bucket is a model of its own, with a time and a quality of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import DataError
from bench.spec.inputs import Inputs


@dataclass(frozen=True)
class Padded:
    """What a model's `collate` makes of items: all of one length, along the first axis of an item.

    length   what items are padded to.
    fill     the inputs that have a length, each with the number that it is padded with; a lone input is "input".
    above    items of so many or fewer belong to another model's bucket.
    longest  the length of the last of these buckets; a longer item is an error.
    """

    length: int
    fill: Mapping[str, float]
    above: int = 0
    longest: int | None = None

    def takes(self, inputs: Inputs) -> bool:
        """Whether an item (1, length, ...) belongs to this bucket. Raises DataError where it is in none."""
        length, longest = self._length(inputs), self.longest or self.length
        if length > longest:
            raise DataError(
                f"an item has a length of {length}, and the longest bucket {longest}: give a longer bucket, or cut "
                "items in the model's preprocess"
            )
        return self.above < length <= self.length

    def padded(self, inputs: Inputs) -> Inputs:
        """The item (1, length, ...), padded at its end."""
        import numpy as np

        missing = self.length - self._length(inputs)
        arrays = dict(inputs.arrays)
        for name, number in self.fill.items():
            ends = [(0, missing if axis == 1 else 0) for axis in range(arrays[name].ndim)]
            arrays[name] = np.pad(arrays[name], ends, constant_values=number)
        return Inputs(arrays, inputs.batch_axes, inputs.lone)

    def _length(self, inputs: Inputs) -> int:
        if not self.fill or not self.fill.keys() <= inputs.arrays.keys():
            raise DataError(
                f"a model's collate pads {', '.join(self.fill) or 'nothing'}, and its inputs are "
                f"{', '.join(inputs.names)}: name those that have a length"
            )
        lengths = {name: inputs.arrays[name].shape[1:2] for name in self.fill}
        if len(set(lengths.values())) > 1 or () in lengths.values():
            listed = ", ".join(f"{name} {shape[0] if shape else 'none'}" for name, shape in lengths.items())
            raise DataError(f"the inputs of an item differ in length: {listed}; a model's collate pads them alike")
        return int(next(iter(lengths.values()))[0])
