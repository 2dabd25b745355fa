"""Embeddings: a vector for each sentence or picture, judged by the similarity of pairs, as in STS.

An answer is a vector (size,); a target None, or (place of another item, how alike people find the two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.metric import Metric
from bench.spec.outcome import Figures
from bench.tasks.task import thousandths

if TYPE_CHECKING:
    import numpy as np


class Embeddings:
    """Judges whether pairs of vectors are as similar as people find the pairs."""

    metrics = (Metric("spearman"), Metric("cosine"))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> Figures:
        """spearman: the rank correlation -1..1, by scipy, of the pairs' cosines with what people say.

        NaN where fewer than two items have a target. Raises DataError where a target names no other item.
        """
        import numpy as np
        from scipy.stats import spearmanr

        pairs = [(place, target) for place, target in enumerate(targets) if target is not None]
        for place, (other, _) in pairs:
            if not 0 <= other < len(answers) or other == place:
                raise DataError(f"the target of item {place} names item {other}; there are {len(answers)} from 0")
        if len(pairs) < 2:
            return {"spearman": float("nan")}
        cosines = [_cosine(answers[place], answers[other]) for place, (other, _) in pairs]
        if not np.isfinite(cosines).all():
            return {"spearman": float("nan")}
        return {"spearman": float(spearmanr(cosines, [alike for _, (_, alike) in pairs]).statistic)}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """Nothing: a rank correlation is no mean."""
        return {}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """cosine: the mean cosine -1..1 between both vectors of each item."""
        import numpy as np

        return {"cosine": float(np.mean([_cosine(*pair) for pair in zip(answers, reference, strict=True)]))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The values in thousandths of the largest absolute value, int16."""
        return thousandths(answer)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    import numpy as np

    a, b = np.ravel(left).astype(np.float64), np.ravel(right).astype(np.float64)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else float("nan")


TASK = Embeddings()
