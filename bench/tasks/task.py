"""How answers are judged, whatever the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bench.spec.metric import Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np


class Task(Protocol):
    """How the answers of one kind of network are judged; figures that are details are in dicts of their own.

    metrics  of quality, the headline first, and of fidelity: what each is measured in, and which way is better.
    """

    metrics: Sequence[Metric]

    def quality(self, answers: Sequence[Any], targets: Sequence[Any]) -> Figures:
        """Judge n answers against their targets: metric name -> figure, the headline first; NaN, never a number, where
        there is no truth to judge by.
        """
        ...

    def scores(self, answers: Sequence[Any], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """Judge each answer that has a target: metric name -> (k,), for those metrics whose mean is the quality."""
        ...

    def fidelity(self, answers: Sequence[Any], reference: Sequence[Any]) -> Figures:
        """Judge n answers by how near they are to those of FP32 PyTorch: metric name -> figure, null as NaN."""
        ...

    def decided(self, answer: Any) -> np.ndarray:
        """What of an answer counts, as whole numbers: equal where two machines decided the same."""
        ...

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Pictures (h, w, 3) uint8 by caption, of one item's target, its answer and FP32's; none where none tells."""
        ...
