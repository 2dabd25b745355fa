"""Classification: one class of several for each input.

An answer is the scores (classes,) of the classes, or () the class itself, of a network that ends in argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FIRST = (1, 5)


class Classification:
    """Judges class scores against class numbers; NaN scores are never right."""

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, float]:
        """top1 and top5, the share 0..1 of inputs whose target is among so many highest scores; top5 where there are
        scores of more than five classes.
        """
        return {name: float(scores.mean()) for name, scores in self.scores(answers, targets).items()}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[int]) -> dict[str, np.ndarray]:
        """top1 and top5: 1.0 where the target is among so many highest scores, else 0.0; of equal scores, the first."""
        import numpy as np

        outputs, wanted = np.asarray(answers), np.asarray(targets)
        if outputs.ndim == 1:
            return {"top1": (outputs == wanted).astype(np.float64)}
        sane = np.isfinite(outputs).all(axis=1)
        ranks = np.argsort(-outputs, axis=1, kind="stable") == wanted[:, None]
        return {
            f"top{count}": (sane & ranks[:, :count].any(axis=1)).astype(np.float64)
            for count in FIRST
            if count < outputs.shape[1]
        }

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
        """agreement: the share 0..1 of inputs to which both give the same class."""
        import numpy as np

        pairs = zip(map(self.decided, answers), map(self.decided, reference), strict=True)
        return {"agreement": float(np.mean([answer == known for answer, known in pairs]))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The class of the highest score."""
        import numpy as np

        return np.atleast_1d(answer if np.ndim(answer) == 0 else np.argmax(answer)).astype(np.int32)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Classification()
