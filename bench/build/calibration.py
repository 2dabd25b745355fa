"""Calibration sets: tiles cut from photographs, with bright, dark, flat and detailed tiles among them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError
from bench.progress import progress

if TYPE_CHECKING:
    import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
QUARTER = 0.25  # share of all tiles that counts as bright, dark, flat or detailed


@dataclass(frozen=True)
class Found:
    """A tile of a picture: its place, its mean brightness in 0..255, its detail (deviation of its Laplacian)."""

    file: Path
    top: int
    left: int
    brightness: float
    detail: float


def cut_tiles(pictures: Path, place: Path, size: int, count: int, seed: int) -> dict[str, int]:
    """Cut `count` tiles (size, size) from the pictures below `pictures` and write them to `place` as PNG.

    A quarter each is drawn from the brightest, darkest, flattest and most detailed quarters; `seed` fixes the draw.
    Returns how many of each kind were cut. Raises DataError where there are too few, or where `place` is not empty.
    """
    import numpy as np
    from PIL import Image

    if size < 1 or count < 1:
        raise DataError(f"'size' and 'count' must be >= 1: {size}, {count}")
    if not pictures.is_dir():
        raise DataError(f"no folder at {pictures}; name one that holds photographs")
    if place.is_dir() and any(place.iterdir()):
        raise DataError(f"{place} is not empty; name an empty or a new folder")
    files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in PICTURES)
    tiles = [tile for file in progress(files, "looking at pictures", len(files)) for tile in _tiles(file, size)]
    if len(tiles) < count:
        raise DataError(
            f"{count} tiles of {size}x{size} were asked for; {pictures} has {len(tiles)} in {len(files)} pictures"
        )
    by_brightness = sorted(tiles, key=lambda tile: tile.brightness)
    by_detail = sorted(tiles, key=lambda tile: tile.detail)
    share = max(1, round(len(tiles) * QUARTER))
    groups = {
        "bright": by_brightness[-share:],
        "dark": by_brightness[:share],
        "flat": by_detail[:share],
        "detailed": by_detail[-share:],
        "other": tiles,
    }
    rng = np.random.default_rng(seed)
    waiting = {kind: [group[at] for at in rng.permutation(len(group))] for kind, group in groups.items()}
    drawn: dict[Found, str] = {}
    for kind in itertools.cycle(("bright", "dark", "flat", "detailed")):
        if len(drawn) == count:
            break
        tile = _next(waiting[kind], drawn) or _next(waiting["other"], drawn)
        assert tile is not None
        drawn[tile] = kind if tile in groups[kind] else "other"
    place.mkdir(parents=True, exist_ok=True)
    for number, (tile, kind) in enumerate(drawn.items()):
        picture = picture_of(tile.file)[tile.top : tile.top + size, tile.left : tile.left + size]
        Image.fromarray(picture).save(place / f"{number:04d}_{kind}_{tile.file.stem}_{tile.top}_{tile.left}.png")
    kinds = list(drawn.values())
    return {kind: kinds.count(kind) for kind in groups if kind in kinds}


def _next(waiting: list[Found], drawn: dict[Found, str]) -> Found | None:
    while waiting:
        if (tile := waiting.pop()) not in drawn:
            return tile
    return None


def _tiles(file: Path, size: int) -> list[Found]:
    import numpy as np
    from scipy.ndimage import laplace

    picture = picture_of(file)
    grey = picture.mean(axis=2)
    edges = laplace(grey)
    tiles = []
    for top in range(0, len(grey) - size + 1, size):
        for left in range(0, grey.shape[1] - size + 1, size):
            window = np.s_[top : top + size, left : left + size]
            tiles.append(Found(file, top, left, float(grey[window].mean()), float(edges[window].std())))
    return tiles


def picture_of(file: Path) -> np.ndarray:
    """A picture (height, width, 3) uint8, RGB. Raises DataError where the file is none."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is no picture that can be read: {error}") from error
