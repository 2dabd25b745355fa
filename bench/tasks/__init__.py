"""The tasks: what a network's outputs are worth. One file a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bench.registry import Registry

if TYPE_CHECKING:
    import numpy as np


class Task(Protocol):
    """How outputs of one kind of network are judged."""

    def quality(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Judge outputs (n, ...) against the targets (n, ...): metric name -> figure, null as NaN."""
        ...

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Judge each of the n samples alone: metric name -> (n,), for those metrics whose mean is the quality."""
        ...

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """The share 0..1 of the n inputs for which both give the same answer."""
        ...


tasks: Registry[Task] = Registry("task")
tasks.add("classification", "bench.tasks.classification:TASK")


def sqnr_db(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Give the signal-to-quantization-noise ratio in dB of outputs against a reference of the same shape.

    10 log10(sum reference^2 / sum (outputs - reference)^2), over all elements in float64; infinity where they are
    equal. Source: Widrow & Kollar 2008, "Quantization Noise", ch. 1.
    """
    import numpy as np

    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(outputs.astype(np.float64) - reference.astype(np.float64)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(signal / noise))
