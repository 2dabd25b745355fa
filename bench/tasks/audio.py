"""Audio: a signal from a signal, as in denoising and separation; an answer and a target are samples (n,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import DataError
from bench.spec.metric import DECIBEL, Metric
from bench.spec.outcome import Figures
from bench.tasks.task import thousandths

if TYPE_CHECKING:
    import numpy as np


class Audio:
    """Judges signals by how much of them is the target's."""

    metrics = (Metric("si_sdr_db", DECIBEL), Metric("si_sdr_to_fp32_db", DECIBEL))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> Figures:
        """si_sdr_db: the mean scale-invariant ratio of signal to distortion in dB; NaN where no item has a target."""
        (values,) = self.scores(answers, targets).values()
        return {"si_sdr_db": float(values.mean()) if len(values) else float("nan")}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """si_sdr_db of each item that has a target. Raises DataError where its length is another."""
        import numpy as np

        pairs = [pair for pair in zip(answers, targets, strict=True) if pair[1] is not None]
        return {"si_sdr_db": np.array([_si_sdr_db(*pair) for pair in pairs], np.float64)}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """si_sdr_to_fp32_db: the mean of the same ratio against FP32's signals."""
        import numpy as np

        values = [_si_sdr_db(*pair) for pair in zip(answers, reference, strict=True)]
        return {"si_sdr_to_fp32_db": float(np.mean(values))}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The samples in thousandths of the largest absolute value, int16."""
        return thousandths(answer)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


def _si_sdr_db(answer: np.ndarray, target: np.ndarray) -> float:
    """By torchmetrics, in float64, whose smallest number keeps the ratio of equal signals finite: some 300 dB."""
    import numpy as np
    import torch
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    a, b = (torch.from_numpy(np.ravel(signal).astype(np.float64)) for signal in (answer, target))
    if a.shape != b.shape:
        raise DataError(f"an answer has {len(a)} samples, and its target {len(b)}; give both the same length")
    return float(scale_invariant_signal_distortion_ratio(a, b))


TASK = Audio()
