"""Features: what comes out of layers that no figure of quality belongs to; answers are arrays of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Features:
    """Judges by nothing but how near the features are to FP32 PyTorch's."""

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[object]) -> dict[str, float]:
        """Nothing."""
        return {}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[object]) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
        """max_error: the largest difference of two values, in parts of the largest value."""
        import numpy as np

        differences = [np.abs(one - known).max() for one, known in zip(answers, reference, strict=True)]
        return {"max_error": float(max(differences) / max(np.abs(known).max() for known in reference))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The values in thousandths of the largest."""
        import numpy as np

        return (answer / (np.abs(answer).max() or 1.0) * 1000).round().astype(np.int16)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Features()
