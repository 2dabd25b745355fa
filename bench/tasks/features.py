"""Features: outputs of layers that have no figure of quality; answers are arrays of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures
from bench.tasks.task import thousandths

if TYPE_CHECKING:
    import numpy as np


class Features:
    """Judges only how near the features are to FP32 PyTorch's."""

    metrics = (Metric("max_error", SHARE, better="lower"),)

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[object]) -> Figures:
        """Nothing."""
        return {}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[object]) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """max_error: the largest absolute difference over the reference's largest absolute value, of all answers."""
        import numpy as np

        pairs = [
            (np.asarray(answer, np.float64), np.asarray(fp32, np.float64))
            for answer, fp32 in zip(answers, reference, strict=True)
        ]
        largest = max(np.abs(fp32).max() for _, fp32 in pairs)
        error = max(np.abs(answer - fp32).max() for answer, fp32 in pairs)
        return {"max_error": float(error / largest) if largest else float(np.nan if error else 0.0)}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The values in thousandths of the largest absolute value, int16."""
        return thousandths(answer)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Features()
