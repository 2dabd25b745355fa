"""Segmentation: one class of several for each pixel. An answer and a target are label maps (height, width) integer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import DataError
from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures
from bench.tasks.pictures import picture_of

if TYPE_CHECKING:
    import numpy as np

VOID = 255


class Segmentation:
    """Judges label maps; pixels whose target is VOID do not count."""

    metrics = tuple(Metric(name, SHARE) for name in ("miou", "pixel_accuracy", "iou.*", "agreement"))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Figures:
        """miou, the mean over classes of intersection over union of all pixels of the set; `iou`, that of each class;
        and pixel_accuracy; all 0..1. Classes that neither the targets nor the answers have are left out. NaN, and no
        classes, where all pixels are VOID.
        """
        import numpy as np

        counts = confusion(answers, targets)
        if not counts.any():
            return {"miou": float("nan"), "pixel_accuracy": float("nan"), "iou": {}}
        both, either = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
        known = either > 0
        return {
            "miou": float((both[known] / either[known]).mean()),
            "pixel_accuracy": float(both.sum() / counts.sum()),
            "iou": {str(label): float(both[label] / either[label]) for label in np.flatnonzero(known)},
        }

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """pixel_accuracy of each picture, but of those that are VOID all over."""
        import numpy as np

        return {
            "pixel_accuracy": np.array(
                [
                    float((answer == target)[target != VOID].mean())
                    for answer, target in zip(answers, targets, strict=True)
                    if (target != VOID).any()
                ]
            )
        }

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """agreement: the share 0..1 of pixels to which both give the same class."""
        import numpy as np

        pairs = zip(answers, reference, strict=True)
        return {"agreement": float(np.mean([float((answer == known).mean()) for answer, known in pairs]))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The label map."""
        import numpy as np

        return answer.astype(np.uint8)

    def shown(
        self, item: np.ndarray, target: np.ndarray, answer: np.ndarray, known: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The picture, its classes, those of FP32 and of the answer, each in a colour, and where the two differ,
        white.
        """
        import numpy as np

        picture = picture_of(item)
        return ({} if picture is None else {"original": picture}) | {
            "truth": coloured(target),
            "FP32": coloured(known),
            "this case": coloured(answer),
            "difference": np.repeat(((answer != known) * 255).astype(np.uint8)[..., None], 3, axis=2),
        }


def coloured(labels: np.ndarray) -> np.ndarray:
    """Labels (h, w) as colours (h, w, 3) uint8, those far from each other for classes that are next; VOID is black."""
    import colorsys

    import numpy as np

    palette = np.zeros((256, 3), np.uint8)
    for label in range(VOID):
        hue = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.75, 0.95 if label % 2 else 0.7)
        palette[label] = [round(255 * part) for part in hue]
    return palette[labels.astype(np.int64)]


def confusion(answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels (classes, classes) by target and answer, without those whose target is VOID. Raises DataError for a class
    below 0.
    """
    import numpy as np

    least = min(int(labels.min(initial=0)) for labels in (*answers, *targets))
    if least < 0:
        raise DataError(f"a label map has class {least}; classes count from 0, and pixels that do not count are {VOID}")
    known = [*(target[target != VOID] for target in targets), *answers]
    classes = 1 + max(int(labels.max(initial=0)) for labels in known)
    counts = np.zeros((classes, classes), np.int64)
    for answer, target in zip(answers, targets, strict=True):
        seen = target != VOID
        pairs = target[seen].astype(np.int64) * classes + answer[seen].astype(np.int64)
        counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


TASK = Segmentation()
