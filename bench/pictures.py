"""Strips of pictures: what a case made of an item beside the original and what FP32 made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from bench.tasks import Task

PANELS, SEPARATOR = "panels", "|"
COUNT = 3
WIDTH, CAPTION = 320, 18


def write(
    folder: Path,
    name: str,
    task: Task,
    items: Sequence[Any],
    targets: Sequence[Any],
    answers: Sequence[Any],
    known: Sequence[Any],
) -> list[str]:
    """Write a strip for each of the first three items, NAME-1.png and so on, to the folder; give the files' names, none
    where the task has nothing to show.
    """
    names = []
    for number in range(min(COUNT, len(answers))):
        panels = task.shown(items[number], targets[number], answers[number], known[number])
        if panels:
            folder.mkdir(parents=True, exist_ok=True)
            names.append(f"{name}-{number + 1}.png")
            strip(panels).save(folder / names[-1], pnginfo=_captions(panels))
    return names


def _captions(panels: Mapping[str, np.ndarray]) -> Any:
    """What tells a reader of the file which panels stand side by side in it."""
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_text(PANELS, SEPARATOR.join(panels))
    return told


def panels_of(file: Path) -> dict[str, Any]:
    """The panels of a strip as Pillow images by caption; none where it was not written here. Raises DataError where it
    cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(file) as whole:
            captions = [caption for caption in str(whole.info.get(PANELS, "")).split(SEPARATOR) if caption]
            picture = whole.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}") from error
    width = picture.width // max(1, len(captions))
    box = [(place * width, CAPTION, (place + 1) * width, picture.height) for place in range(len(captions))]
    return {caption: picture.crop(part) for caption, part in zip(captions, box, strict=True)}


def strip(panels: Mapping[str, np.ndarray]) -> Any:
    """Panels (h, w, 3) uint8 side by side, each under its caption, as a Pillow image; large ones are made smaller."""
    from PIL import Image, ImageDraw

    shown = []
    for picture in panels.values():
        image = Image.fromarray(picture)
        image.thumbnail((WIDTH, WIDTH * 2))
        shown.append(image)
    whole = Image.new("RGB", (sum(image.width for image in shown), CAPTION + max(i.height for i in shown)), "white")
    draw, left = ImageDraw.Draw(whole), 0
    for caption, image in zip(panels, shown, strict=True):
        draw.text((left + 3, 3), caption, fill="black")
        whole.paste(image, (left, CAPTION))
        left += image.width
    return whole
