"""Pictures of any size through a network of one size: overlapping tiles, each computed whole, kept without its margin.

The result is exactly that of the whole picture where the margin is at least the network's reach. The outer tiles end
at the picture's own borders, so what a network does there (zeros, reflections) it does in its tiles too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Tile:
    """The size of a network's inputs, for pictures that are larger.

    size    height and width of an input, in pixels.
    margin  pixels at each inner side of a tile that are computed but not kept.
    scale   how many times as large as its input an output is.
    """

    size: int
    margin: int
    scale: int = 1

    def starts(self, extent: int) -> list[int]:
        """Where tiles begin along a side of `extent` >= `size` pixels: the first at 0, the last ends with the side."""
        step = self.size - 2 * self.margin
        return [*range(0, extent - self.size, step), extent - self.size]

    def cut(self, picture: np.ndarray) -> list[np.ndarray]:
        """The tiles (c, size, size) of a picture (c, h, w), row by row; a small picture is padded by its edge."""
        picture = self._large_enough(picture)
        return [picture[..., top : top + self.size, left : left + self.size] for top, left in self._places(picture)]

    def join(self, tiles: list[Any], picture: np.ndarray) -> np.ndarray:
        """The output (..., scale h, scale w) for a picture (c, h, w).

        It is joined from the outputs for its tiles, (..., scale size, scale size); raises DataError for other sizes.
        """
        import numpy as np

        side = self.scale * self.size
        if tiles[0].shape[-2:] != (side, side):
            raise DataError(
                f"an output for a tile of {self.size} pixels is of shape {tiles[0].shape}; at scale {self.scale} it "
                f"must end in ({side}, {side}): state the Tile's scale, or have the network give that"
            )
        large = self._large_enough(picture)
        height, width = large.shape[-2:]
        whole = np.empty((*tiles[0].shape[:-2], height * self.scale, width * self.scale), tiles[0].dtype)
        for tile, (top, left) in zip(tiles, self._places(large), strict=True):
            # a later tile overwrites what it computes better: all inside its own margin
            inner = [0 if start == 0 else self.margin for start in (top, left)]
            rows, columns = (
                slice((start + skip) * self.scale, (start + self.size) * self.scale)
                for start, skip in zip((top, left), inner, strict=True)
            )
            whole[..., rows, columns] = tile[..., inner[0] * self.scale :, inner[1] * self.scale :]
        return whole[..., : picture.shape[-2] * self.scale, : picture.shape[-1] * self.scale]

    def _places(self, picture: np.ndarray) -> Iterator[tuple[int, int]]:
        return itertools.product(self.starts(picture.shape[-2]), self.starts(picture.shape[-1]))

    def _large_enough(self, picture: np.ndarray) -> np.ndarray:
        import numpy as np

        padding = [(0, max(0, self.size - extent)) for extent in picture.shape[-2:]]
        return np.pad(picture, [(0, 0)] * (picture.ndim - 2) + padding, "edge") if np.any(padding) else picture
