"""How near outputs are to FP32 PyTorch's, the answers' digests, and whether there was any truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import WorkerError
from bench.spec.outcome import Figures, Likeness
from bench.statistics import sqnr_db
from bench.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np


def without_truth(figures: Figures, dataset: str) -> str | None:
    """The reason where all of a task's figures of quality are NaN: the split has no truth. Else None."""
    numbers = [value for value in figures.values() if isinstance(value, float)]
    no_truth = bool(numbers) and all(math.isnan(value) for value in numbers)
    return f"the test side of {dataset} has no truth to judge by" if no_truth else None


def digests(task: Task, answers: Sequence[Any]) -> str:
    """Four hexadecimal digits per answer, of what the task decides: a later run sees which answers changed."""
    import hashlib

    return "".join(hashlib.sha256(task.decided(answer).tobytes()).hexdigest()[:4] for answer in answers)


def likeness(outputs: np.ndarray, reference: np.ndarray, whole: np.ndarray) -> Likeness:
    """Compare outputs (k, values) with a reference's (m, values) over the first min(k, m) inputs.

    whole  (values,) bool: which values are classes.

    Raises WorkerError where an input has a different number of values in the two.
    """
    import numpy as np

    if outputs.shape[1:] != reference.shape[1:]:
        raise WorkerError(
            f"the network gives {outputs.shape[1]} values for an input here, and {reference.shape[1]} in FP32 PyTorch"
        )
    rows = min(len(outputs), len(reference))
    outputs, reference = outputs[:rows], reference[:rows]
    with np.errstate(invalid="ignore"):
        equal, sane = outputs == reference, np.isfinite(reference)
        finite = bool((np.isfinite(outputs) | equal).all())
    graded = sane & ~whole
    return Likeness(
        sqnr_db=sqnr_db(outputs[graded], reference[graded]) if graded.any() else float("nan"),
        whole=bool(whole.all()),
        agreement=float(equal[:, whole].mean() if whole.any() else equal.mean()),
        finite=finite,
    )
