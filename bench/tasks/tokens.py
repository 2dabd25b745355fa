"""Tokens: each place of a sequence has a class, as in tagging, or a word, as in masked words.

An answer is the scores (places, classes); a target the classes (places,), below 0 where a place is not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np


class Tokens:
    """Judges the scores of each place against its class."""

    metrics = (
        Metric("token_accuracy", SHARE),
        Metric("perplexity", better="lower"),
        Metric("agreement", SHARE),
    )

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> Figures:
        """Over all judged places: token_accuracy, the share 0..1 whose class has the highest score, and perplexity, by
        torchmetrics. NaN where no place is judged. Raises DataError where a target does not fit its answer.
        """
        import numpy as np
        import torch
        from torchmetrics.functional.text import perplexity

        judged = [
            (np.asarray(answer), np.asarray(target))
            for answer, target in zip(answers, targets, strict=True)
            if target is not None
        ]
        for answer, target in judged:
            if answer.ndim != 2 or target.shape != answer.shape[:1] or target.max(initial=0) >= answer.shape[1]:
                raise DataError(
                    f"tokens are judged by scores (places, classes) and classes (places,) below that, not by "
                    f"{answer.shape} and {target.shape} up to {target.max(initial=0)}"
                )
        places = [(answer[target >= 0], target[target >= 0]) for answer, target in judged]
        if not sum(len(target) for _, target in places):
            return {"token_accuracy": float("nan"), "perplexity": float("nan")}
        scores = np.concatenate([answer for answer, _ in places])
        classes = np.concatenate([target for _, target in places]).astype(np.int64)
        right = np.isfinite(scores).all(axis=1) & (scores.argmax(axis=1) == classes)
        preds, wanted = torch.from_numpy(scores.astype(np.float64))[None], torch.from_numpy(classes)[None]
        return {"token_accuracy": float(right.mean()), "perplexity": float(perplexity(preds, wanted))}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """Nothing: places of one sequence are not independent of each other."""
        return {}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """agreement: the share 0..1 of all places to which both give the same class; NaN agrees with nothing."""
        import numpy as np

        same = [
            (self.decided(answer) == self.decided(fp32)) & np.isfinite(answer).all(axis=-1)
            for answer, fp32 in zip(answers, reference, strict=True)
        ]
        return {"agreement": float(np.concatenate(same).mean())}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The class with the highest score at each place, (places,) int32."""
        import numpy as np

        return np.argmax(answer, axis=-1).astype(np.int32)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


TASK = Tokens()
