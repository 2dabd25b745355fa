"""Strips of pictures: a case's answer to an item beside the original and FP32's answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bench.tasks.task import Task

PANELS, SEPARATOR = "panels", "|"  # key of the PNG text that names the panels, and what joins their names
COUNT = 3  # strips per case
WIDTH, CAPTION = 320, 18  # pixels: of a panel at most, and the height of its caption


def write(
    folder: Path,
    name: str,
    task: Task,
    items: Sequence[Any],
    targets: Sequence[Any],
    answers: Sequence[Any],
    known: Sequence[Any],
) -> list[str]:
    """Write a strip for each of the first three items to the folder, NAME-1-DIGEST.png and so on; give the file names.

    There are none where the task has nothing to show. The digest is of the captions and pixels: strips of two runs that
    differ get different names, and lie beside each other.
    """
    names = []
    for number in range(min(COUNT, len(answers))):
        panels = task.shown(items[number], targets[number], answers[number], known[number])
        if panels:
            folder.mkdir(parents=True, exist_ok=True)
            image = strip(panels)
            digest = hashlib.sha256(SEPARATOR.join(panels).encode() + image.tobytes()).hexdigest()
            names.append(f"{name}-{number + 1}-{digest[:8]}.png")
            image.save(folder / names[-1], pnginfo=_captions(panels))
    return names


def picture_of(item: Any) -> np.ndarray | None:
    """An item as a picture (h, w, 3) uint8; None where it is not a picture.

    Its channels, 3 colours or 1 grey, may be the first or the last axis. Values that are not uint8 are rescaled to
    0..255.
    """
    import numpy as np

    values = np.asarray(item)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and values.shape[2] not in (1, 3) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in (1, 3) or values.dtype.kind not in "biuf" or not values.size:
        return None
    if values.dtype != np.uint8:
        values = np.nan_to_num(values.astype(np.float64))
        low, spread = values.min(), np.ptp(values) or 1.0
        values = ((values - low) / spread * 255).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _captions(panels: Mapping[str, np.ndarray]) -> Any:
    """The PNG text that names the panels of a strip, read by `panels_of`."""
    from PIL.PngImagePlugin import PngInfo

    captions = PngInfo()
    captions.add_text(PANELS, SEPARATOR.join(panels))
    return captions


def panels_of(file: Path) -> dict[str, Image.Image]:
    """The panels of a strip as Pillow images by caption; none where `write` did not write the file.

    Raises DataError where it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            captions = [caption for caption in str(image.info.get(PANELS, "")).split(SEPARATOR) if caption]
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}") from error
    width = picture.width // max(1, len(captions))
    boxes = [(place * width, CAPTION, (place + 1) * width, picture.height) for place in range(len(captions))]
    return {caption: picture.crop(box) for caption, box in zip(captions, boxes, strict=True)}


def strip(panels: Mapping[str, np.ndarray]) -> Any:
    """Panels (h, w, 3) uint8 side by side, as a Pillow image: columns of equal width, each panel under its caption.

    Panels larger than 320 x 640 pixels are made smaller.
    """
    from PIL import Image, ImageDraw

    shown = []
    for picture in panels.values():
        image = Image.fromarray(picture)
        image.thumbnail((WIDTH, WIDTH * 2))
        shown.append(image)
    width = max(image.width for image in shown)
    whole = Image.new("RGB", (width * len(shown), CAPTION + max(image.height for image in shown)), "white")
    draw = ImageDraw.Draw(whole)
    for place, (caption, image) in enumerate(zip(panels, shown, strict=True)):
        draw.text((place * width + 3, 3), caption, fill="black")
        whole.paste(image, (place * width, CAPTION))
    return whole
