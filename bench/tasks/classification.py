"""Classification: each input has a single class.

An answer is the scores (classes,), or, of a network that ends in argmax, the class itself, ().
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np

FIRST = (1, 5)  # of topK: how many of the highest scores count


class Classification:
    """Judges class scores against class numbers.

    NaN scores are never right. A target that is None or below 0 means that the input has no class: it is not judged.
    """

    metrics = (Metric("top*", SHARE), Metric("agreement", SHARE))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[int | None]) -> Figures:
        """top1 and top5: the share 0..1 of inputs whose target is among the 1 or 5 highest scores.

        NaN where no input has a target. top5 only where there are scores of more than five classes.
        """
        hits = self.scores(answers, targets)
        return {name: float(scores.mean()) if len(scores) else float("nan") for name, scores in hits.items()}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[int | None]) -> dict[str, np.ndarray]:
        """top1 and top5 of each input that has a target: 1.0 where it is among the 1 or 5 highest scores, else 0.0.

        Of equal scores the first counts as highest. Raises DataError where a target is no class of the network's.
        """
        import numpy as np

        outputs, wanted = np.asarray(answers), np.array([-1 if target is None else target for target in targets])
        if wanted.ndim != 1 or outputs.ndim not in (1, 2):
            raise DataError(
                f"classes are judged by scores (n, classes) or classes (n,), and by numbers (n,), not by "
                f"{outputs.shape} and {wanted.shape}"
            )
        judged = wanted >= 0
        if outputs.ndim == 1:
            return {"top1": (outputs == wanted)[judged].astype(np.float64)}
        if wanted.max() >= outputs.shape[1]:
            classes = f"the network scores {outputs.shape[1]} classes, from 0"
            raise DataError(f"a target is class {wanted.max()}, but {classes}")
        outputs, wanted = outputs[judged], wanted[judged]
        sane = np.isfinite(outputs).all(axis=1)
        ranks = np.argsort(-outputs, axis=1, kind="stable") == wanted[:, None]
        return {
            f"top{count}": (sane & ranks[:, :count].any(axis=1)).astype(np.float64)
            for count in FIRST
            if count < outputs.shape[1]
        }

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """agreement: the share 0..1 of inputs to which both give the same class; NaN scores agree with nothing."""
        import numpy as np

        pairs = zip(answers, reference, strict=True)
        same = [
            bool(self.decided(answer) == self.decided(fp32)) and not np.isnan(answer).any() for answer, fp32 in pairs
        ]
        return {"agreement": float(np.mean(same))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The class with the highest score, (1,) int32."""
        import numpy as np

        return np.atleast_1d(answer if np.ndim(answer) == 0 else np.argmax(answer)).astype(np.int32)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Classification()
