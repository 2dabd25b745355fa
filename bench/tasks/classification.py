"""Classification: one class of several for each input.

An answer is the scores (classes,) of the classes, or () the class itself, of a network that ends in argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np

FIRST = (1, 5)


class Classification:
    """Judges class scores against class numbers; NaN scores are never right. An input whose class is None or below 0
    has none, as data sets tell it, and is not judged.
    """

    metrics = (Metric("top*", SHARE), Metric("agreement", SHARE))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[int | None]) -> Figures:
        """top1 and top5, the share 0..1 of inputs whose target is among so many highest scores, NaN where no input has
        one; top5 where there are scores of more than five classes.
        """
        found = self.scores(answers, targets)
        return {name: float(scores.mean()) if len(scores) else float("nan") for name, scores in found.items()}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[int | None]) -> dict[str, np.ndarray]:
        """top1 and top5 of the inputs that have a target: 1.0 where it is among so many highest scores, else 0.0; of
        equal scores, the first. Raises DataError where a target is no class of the network's.
        """
        import numpy as np

        outputs, wanted = np.asarray(answers), np.array([-1 if one is None else one for one in targets])
        if wanted.ndim != 1 or outputs.ndim not in (1, 2):
            raise DataError(
                f"classes are judged by scores (n, classes) or classes (n,), and by numbers (n,), not by "
                f"{outputs.shape} and {wanted.shape}"
            )
        judged = wanted >= 0
        if outputs.ndim == 1:
            return {"top1": (outputs == wanted)[judged].astype(np.float64)}
        if wanted.max() >= outputs.shape[1]:
            told = f"the network scores {outputs.shape[1]} classes, from 0"
            raise DataError(f"a target is class {wanted.max()}, but {told}")
        outputs, wanted = outputs[judged], wanted[judged]
        sane = np.isfinite(outputs).all(axis=1)
        ranks = np.argsort(-outputs, axis=1, kind="stable") == wanted[:, None]
        return {
            f"top{count}": (sane & ranks[:, :count].any(axis=1)).astype(np.float64)
            for count in FIRST
            if count < outputs.shape[1]
        }

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """agreement: the share 0..1 of inputs to which both give the same class; NaN scores give none."""
        import numpy as np

        pairs = zip(answers, reference, strict=True)
        same = [bool(self.decided(one) == self.decided(known)) and not np.isnan(one).any() for one, known in pairs]
        return {"agreement": float(np.mean(same))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The class of the highest score."""
        import numpy as np

        return np.atleast_1d(answer if np.ndim(answer) == 0 else np.argmax(answer)).astype(np.int32)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Classification()
