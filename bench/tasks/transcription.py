"""Transcription: a text from speech or a picture; an answer and a target are texts, or arrays of word numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np


class Transcription:
    """Judges texts by the words that are wrong."""

    metrics = (Metric("wer", SHARE, better="lower"), Metric("wer_to_fp32", SHARE, better="lower"))

    def quality(self, answers: Sequence[Any], targets: Sequence[Any]) -> Figures:
        """wer: words that are other, missing or too many, over the words of all targets, by jiwer.

        NaN where no target has a word.
        """
        pairs = [pair for pair in zip(answers, targets, strict=True) if pair[1] is not None]
        return {"wer": _wer([answer for answer, _ in pairs], [target for _, target in pairs])}

    def scores(self, answers: Sequence[Any], targets: Sequence[Any]) -> dict[str, np.ndarray]:
        """Nothing: texts have different numbers of words."""
        return {}

    def fidelity(self, answers: Sequence[Any], reference: Sequence[Any]) -> Figures:
        """wer_to_fp32: the same against FP32's texts."""
        return {"wer_to_fp32": _wer(answers, reference)}

    def decided(self, answer: Any) -> np.ndarray:
        """The text's bytes in UTF-8, uint8."""
        import numpy as np

        return np.frombuffer(_text(answer).encode(), np.uint8)

    def shown(self, item: Any, target: Any, answer: Any, known: Any) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


def _text(answer: Any) -> str:
    """A text as it is; word numbers with spaces between, those below 0 left out."""
    import numpy as np

    array = np.asarray(answer)
    if array.dtype.kind == "U":
        return " ".join(map(str, array.ravel()))
    return " ".join(str(int(number)) for number in array.ravel() if number >= 0)


def _wer(answers: Sequence[Any], targets: Sequence[Any]) -> float:
    from jiwer import wer

    texts = [(_text(target), _text(answer)) for answer, target in zip(answers, targets, strict=True)]
    known = [pair for pair in texts if pair[0].strip()]  # jiwer refuses a reference without words
    return float(wer([target for target, _ in known], [answer for _, answer in known])) if known else float("nan")


TASK = Transcription()
