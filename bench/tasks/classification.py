"""Classification: one class of several for each input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Classification:
    """Judges class scores (n, classes) against class numbers (n,)."""

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """top1, the share 0..1 of inputs whose highest score is the target's; NaN scores are never right."""
        return {name: float(scores.mean()) for name, scores in self.scores(outputs, targets).items()}

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """top1, 1.0 where the highest score is the target's, else 0.0."""
        import numpy as np

        sane = np.isfinite(outputs).all(axis=1)
        return {"top1": (sane & (outputs.argmax(axis=1) == targets)).astype(np.float64)}

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """The share 0..1 of inputs to which both give the same class."""
        import numpy as np

        return float(np.mean(outputs.argmax(axis=1) == reference.argmax(axis=1)))


TASK = Classification()
