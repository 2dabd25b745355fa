"""Calibration sets: tiles cut from photographs, so that bright and dark, flat and detailed ones all are among them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError
from bench.progress import progress

if TYPE_CHECKING:
    import numpy as np

KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
QUARTER = 0.25


@dataclass(frozen=True)
class Found:
    """A tile of a picture: where it is, its mean brightness in 0..255, and its detail: the deviation of its
    Laplacian."""

    file: Path
    top: int
    left: int
    brightness: float
    detail: float


def cut_tiles(pictures: Path, place: Path, size: int, count: int, seed: int) -> dict[str, int]:
    """Cut `count` tiles (size, size) from the pictures below a folder and write them to another as PNG, a quarter each
    of the brightest, darkest, flattest and most detailed quarters, by chance of the seed; the same every time. Gives
    how many of each kind were cut. Raises DataError where there are too few, or where the other folder is not empty.
    """
    import numpy as np
    from PIL import Image

    if size < 1 or count < 1:
        raise DataError(f"'size' and 'count' must be >= 1: {size}, {count}")
    if not pictures.is_dir():
        raise DataError(f"no folder at {pictures}; name one that holds photographs")
    if place.is_dir() and any(place.iterdir()):
        raise DataError(f"{place} is not empty; name a folder that is, or none")
    files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in KINDS)
    found = [tile for file in progress(files, "looking at pictures", len(files)) for tile in _tiles(file, size)]
    if len(found) < count:
        raise DataError(
            f"{count} tiles of {size}x{size} were asked for; {pictures} has {len(found)} in {len(files)} pictures"
        )
    by_brightness = sorted(found, key=lambda tile: tile.brightness)
    by_detail = sorted(found, key=lambda tile: tile.detail)
    share = max(1, round(len(found) * QUARTER))
    groups = {
        "bright": by_brightness[-share:],
        "dark": by_brightness[:share],
        "flat": by_detail[:share],
        "detailed": by_detail[-share:],
        "other": found,
    }
    chance = np.random.default_rng(seed)
    waiting = {kind: [tiles[at] for at in chance.permutation(len(tiles))] for kind, tiles in groups.items()}
    chosen: dict[Found, str] = {}
    for kind in itertools.cycle(("bright", "dark", "flat", "detailed")):
        if len(chosen) == count:
            break
        tile = _next(waiting[kind], chosen) or _next(waiting["other"], chosen)
        assert tile is not None
        chosen[tile] = kind if tile in groups[kind] else "other"
    place.mkdir(parents=True, exist_ok=True)
    for number, (tile, kind) in enumerate(chosen.items()):
        picture = _opened(tile.file)[tile.top : tile.top + size, tile.left : tile.left + size]
        Image.fromarray(picture).save(place / f"{number:04d}_{kind}_{tile.file.stem}_{tile.top}_{tile.left}.png")
    kinds = list(chosen.values())
    return {kind: kinds.count(kind) for kind in groups if kind in kinds}


def _next(waiting: list[Found], chosen: dict[Found, str]) -> Found | None:
    while waiting:
        if (tile := waiting.pop()) not in chosen:
            return tile
    return None


def _tiles(file: Path, size: int) -> list[Found]:
    import numpy as np
    from scipy.ndimage import laplace

    picture = _opened(file)
    grey = picture.mean(axis=2)
    edges = laplace(grey)
    found = []
    for top in range(0, len(grey) - size + 1, size):
        for left in range(0, grey.shape[1] - size + 1, size):
            here = np.s_[top : top + size, left : left + size]
            found.append(Found(file, top, left, float(grey[here].mean()), float(edges[here].std())))
    return found


def _opened(file: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is no picture that can be read: {error}") from error
