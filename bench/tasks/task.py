"""The protocol that every task fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bench.spec.metric import Metric, metric_named
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np


class Task(Protocol):
    """Judges the answers of a kind of network. Figures that are details are in dicts of their own.

    metrics  of quality, the headline first, and of fidelity: the unit of each, and which way is better.
    """

    metrics: Sequence[Metric]

    def quality(self, answers: Sequence[Any], targets: Sequence[Any]) -> Figures:
        """Judge n answers against their targets: metric name -> figure, the headline first.

        NaN, never a number, where there is no truth to judge by.
        """
        ...

    def scores(self, answers: Sequence[Any], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """Judge each answer that has a target: metric name -> (k,), for metrics whose quality is the mean of these."""
        ...

    def fidelity(self, answers: Sequence[Any], reference: Sequence[Any]) -> Figures:
        """Judge how near n answers are to FP32 PyTorch's: metric name -> figure, NaN where there is none."""
        ...

    def decided(self, answer: Any) -> np.ndarray:
        """The part of an answer that counts, as whole numbers: equal where two machines decided the same."""
        ...

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Caption -> picture (h, w, 3) uint8 of target, answer and FP32's answer `known`; none if not useful."""
        ...


def thousandths(answer: np.ndarray) -> np.ndarray:
    """The values in thousandths of the largest absolute value, int16: what counts of an answer of any numbers."""
    import numpy as np

    return (answer / (np.abs(answer).max() or 1.0) * 1000).round().astype(np.int16)


def metric_of(task: Task, name: str) -> Metric:
    """A task's metric by name; a plain number, higher the better, where the task states none, as older ones do."""
    return metric_named(name, getattr(task, "metrics", ()))
