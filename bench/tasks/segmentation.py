"""Segmentation: one class of several for each pixel. An answer and a target are label maps (height, width) integer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

VOID = 255


class Segmentation:
    """Judges label maps; pixels whose target is VOID do not count."""

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, Any]:
        """miou, the mean over classes of intersection over union of all pixels of the set; `iou`, that of each class; and
        pixel_accuracy; all 0..1. Classes that neither the targets nor the answers have are left out.
        """
        import numpy as np

        counts = confusion(answers, targets)
        both, either = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
        known = either > 0
        return {
            "miou": float((both[known] / either[known]).mean()),
            "pixel_accuracy": float(both.sum() / counts.sum()),
            "iou": {str(label): float(both[label] / either[label]) for label in np.flatnonzero(known)},
        }

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """pixel_accuracy of each picture."""
        import numpy as np

        return {
            "pixel_accuracy": np.array(
                [
                    float((answer == target)[target != VOID].mean())
                    for answer, target in zip(answers, targets, strict=True)
                ]
            )
        }

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
        """agreement: the share 0..1 of pixels to which both give the same class."""
        import numpy as np

        pairs = zip(answers, reference, strict=True)
        return {"agreement": float(np.mean([float((answer == known).mean()) for answer, known in pairs]))}


def confusion(answers: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels (classes, classes) by target and answer, without those whose target is VOID."""
    import numpy as np

    classes = 1 + max(
        max(int(target[target != VOID].max(initial=0)) for target in targets), max(int(a.max()) for a in answers)
    )
    counts = np.zeros((classes, classes), np.int64)
    for answer, target in zip(answers, targets, strict=True):
        seen = target != VOID
        pairs = target[seen].astype(np.int64) * classes + answer[seen]
        counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


TASK = Segmentation()
