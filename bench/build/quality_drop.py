"""How far a network's quality on the training side falls below FP32's: the test side judges what comes of it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from bench.errors import BuildError
from bench.spec.outcome import number
from bench.tasks import tasks
from bench.tasks.inference import answered
from bench.tasks.task import metric_of

if TYPE_CHECKING:
    from bench.spec.dataset import Samples
    from bench.spec.interface import Interface, Predict
    from bench.spec.model import Source

ITEMS = 512  # most training items that a drop of quality is judged on
BATCH = 8  # inputs of a call


class TrainingDrop:
    """The fall of the first quality figure from FP32's, on up to 512 items of the training side.

    Where that side has no targets, it is the fall of the task's agreement with FP32 from 1; the lower of both
    directions counts. Raises BuildError where the training side has nothing to judge by.

    fp32       FP32's predict; interface  how it and others give their outputs.
    judged_by  the name of the figure.
    """

    def __init__(self, source: Source, data: Samples, fp32: Predict, interface: Interface) -> None:
        self._task, self._model, self._interface = tasks.get(source.model.task), source.model, interface
        count = min(ITEMS, len(data.inputs))
        self._items, self._targets = list(itertools.islice(data.inputs, count)), data.targets[:count]
        self._known = self._answers(fp32)
        self._quality = self._task.quality(self._known, self._targets)
        finite = (name for name in self._quality if math.isfinite(number(self._quality, name)))
        self._metric = next(finite, None)
        if self._metric is None and not self._agreement(self._known) == 1:
            raise BuildError(
                f"{source.dataset.name} has no targets on its training side to judge {source.model.name} by, and "
                "FP32's answers there show no agreement that could be judged instead"
            )

    @property
    def judged_by(self) -> str:
        return self._metric or "agreement with FP32"

    def of(self, predict: Predict) -> float:
        """The drop of a network, as a share; below 0 where it is better than FP32."""
        answers = self._answers(predict)
        if self._metric is None:
            return 1 - self._agreement(answers)
        figures = self._task.quality(answers, self._targets)
        fallen = number(self._quality, self._metric) - number(figures, self._metric)
        return fallen * metric_of(self._task, self._metric).sign

    def _answers(self, predict: Predict) -> list[Any]:
        return answered(predict, self._model, self._items, BATCH, self._interface).answers

    def _agreement(self, answers: list[Any]) -> float:
        pairs = ((answers, self._known), (self._known, answers))  # detection's counts boxes lost, not added
        shares = [number(self._task.fidelity(*pair), "agreement") for pair in pairs]
        return min((share for share in shares if not math.isnan(share)), default=math.nan)
