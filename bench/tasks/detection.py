"""Detection: boxes with scores, judged by the protocol of WIDER FACE and by COCO's.

An answer is an array (k, >= 5) float: left, top, right, bottom in pixels of the input, score; more columns are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.spec.metric import SHARE, Metric
from bench.spec.outcome import Figures
from bench.tasks.pictures import picture_of

if TYPE_CHECKING:
    import numpy as np

THRESHOLDS = 1000  # of WIDER FACE's evaluation
OVERLAP = 0.5  # least IoU of a match, as in WIDER FACE's evaluation
SURE = 0.5  # least score of a box that is compared with FP32's, or drawn


@dataclass(frozen=True)
class Objects:
    """The objects in a picture.

    boxes    (m, 4) float: left, top, right, bottom in pixels.
    subsets  name -> (m,) bool: which boxes count in a subset of the data set; the others are neither hits nor misses.
    factor   size of the network's input over size of the picture; answers are in pixels of the input.
    """

    boxes: np.ndarray
    subsets: Mapping[str, np.ndarray] = field(default_factory=dict)
    factor: float = 1.0


class Detection:
    """Judges detections of a single class against Objects."""

    metrics = (Metric("ap_*", SHARE), Metric("map*", SHARE), Metric("agreement", SHARE))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[Objects]) -> Figures:
        """ap_<subset> by WIDER's protocol for each subset; map and map50 over all boxes by COCO's.

        All 0..1; NaN where there are no objects.
        """
        names = targets[0].subsets
        answers = [scaled(answer, 1 / target.factor) for answer, target in zip(answers, targets, strict=True)]
        wider = {f"ap_{name}": wider_ap(answers, targets, name) for name in names}
        return {**wider, **coco_ap(answers, targets)}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[Objects]) -> dict[str, np.ndarray]:
        """Nothing: average precision is not a mean over pictures."""
        return {}

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """agreement: of the reference's boxes with a score of at least 0.5, the share 0..1 matched at IoU 0.5."""
        import numpy as np

        matched = total = 0
        for answer, fp32 in zip(answers, reference, strict=True):
            sure = fp32[fp32[:, 4] >= SURE]
            total += len(sure)
            candidates = answer[answer[:, 4] >= SURE]
            if len(sure) and len(candidates):
                matched += int((overlaps(sure, candidates, 0.0).max(axis=1) >= OVERLAP).sum())
        return {"agreement": matched / total if total else float(np.nan)}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The boxes with a score of at least 0.5, (k, 4) int32 in whole pixels, sorted by left, top, right, bottom."""
        import numpy as np

        boxes = answer[answer[:, 4] >= SURE, :4].round().astype(np.int32)
        return boxes[np.lexsort(boxes.T[::-1])]

    def shown(self, item: np.ndarray, target: Objects, answer: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
        """The picture three times: with the true boxes, FP32's and the answer's, the last two with scores >= 0.5."""
        import numpy as np
        import torch
        from torchvision.utils import draw_bounding_boxes

        pixels = picture_of(item)
        if pixels is None:
            return {}
        picture = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

        def drawn(boxes: np.ndarray) -> np.ndarray:
            corners = torch.from_numpy(boxes[:, :4].astype(np.float32))
            return draw_bounding_boxes(picture, corners, colors="lime", width=3).permute(1, 2, 0).numpy()

        return {
            "truth": drawn(target.boxes * target.factor),
            "FP32": drawn(known[known[:, 4] >= SURE]),
            "this case": drawn(answer[answer[:, 4] >= SURE]),
        }


def scaled(answer: np.ndarray, factor: float) -> np.ndarray:
    """An answer with its boxes multiplied by `factor`, in float64."""
    import numpy as np

    return np.concatenate([answer[:, :4].astype(np.float64) * factor, answer[:, 4:]], axis=1)


def overlaps(boxes: np.ndarray, others: np.ndarray, pixel: float) -> np.ndarray:
    """Intersection over union (k, m) of boxes (k, >= 4) with others (m, >= 4).

    `pixel` is added to each width and height: 1 where the right and bottom pixels belong to a box.
    """
    import numpy as np

    boxes, others = boxes[:, None, :4].astype(np.float64), others[None, :, :4].astype(np.float64)
    extent = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2]) + pixel
    shared = np.clip(extent, 0.0, None).prod(axis=-1)
    areas = [(corners[..., 2:] - corners[..., :2] + pixel).prod(axis=-1) for corners in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


def wider_ap(answers: Sequence[np.ndarray], targets: Sequence[Objects], subset: str) -> float:
    """Average precision of a subset by WIDER FACE's own evaluation, 0..1; NaN where it has no faces.

    Scores are rescaled to 0..1 over the whole set; there are 1,000 thresholds. In the order of falling scores, a box is
    matched to the face that it overlaps most, at IoU 0.5 or more with whole pixels. Boxes on faces outside the subset
    do not count. Pictures without any face or any box add only their missed faces. Source: Yang et al. 2016,
    "WIDER FACE: A Face Detection Benchmark", evaluation code version 1.
    """
    import numpy as np

    scores = np.concatenate([answer[:, 4] for answer in answers]).astype(np.float64)
    count = sum(int(target.subsets[subset].sum()) for target in targets)
    if not count:
        return float("nan")
    if not len(scores):
        return 0.0
    low, spread = scores.min(), np.ptp(scores) or 1.0
    thresholds = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    proposed, recalled = np.zeros(THRESHOLDS), np.zeros(THRESHOLDS)
    for answer, target in zip(answers, targets, strict=True):
        if not len(answer) or not len(target.boxes):
            continue
        answer = answer[np.argsort(-answer[:, 4], kind="stable")].astype(np.float64)
        overlap = overlaps(answer, target.boxes, 1.0)
        nearest = overlap.argmax(axis=1)
        matched = overlap.max(axis=1) >= OVERLAP
        counted = target.subsets[subset][nearest]
        first = np.zeros(len(answer), bool)
        hits = np.flatnonzero(matched & counted)
        first[hits[np.unique(nearest[hits], return_index=True)[1]]] = True
        kept = np.searchsorted(-(answer[:, 4] - low) / spread, -thresholds, side="right")  # boxes at each threshold
        proposed += np.concatenate([[0], np.cumsum(~(matched & ~counted))])[kept]
        recalled += np.concatenate([[0], np.cumsum(first)])[kept]
    precision = np.divide(recalled, proposed, out=np.zeros(THRESHOLDS), where=proposed > 0)
    recall = np.concatenate([[0.0], recalled / count, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * envelope[steps + 1]).sum())


def coco_ap(answers: Sequence[np.ndarray], targets: Sequence[Objects]) -> Figures:
    """COCO's average precision of a single class by torchmetrics: `map` over IoU 0.5 to 0.95, `map50` at 0.5.

    NaN where there are no boxes; COCO's tools and torchmetrics give -1 there.
    """
    if not any(len(target.boxes) for target in targets):
        return {"map": float("nan"), "map50": float("nan")}
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision()
    metric.warn_on_many_detections = False
    for answer, target in zip(answers, targets, strict=True):
        labels = torch.zeros(len(answer), dtype=torch.long)
        boxes, scores = torch.from_numpy(answer[:, :4]).float(), torch.from_numpy(answer[:, 4]).float()
        faces = torch.from_numpy(target.boxes).float()
        metric.update(
            [{"boxes": boxes, "scores": scores, "labels": labels}],
            [{"boxes": faces, "labels": torch.zeros(len(faces), dtype=torch.long)}],
        )
    figures = metric.compute()
    return {"map": float(figures["map"]), "map50": float(figures["map_50"])}


TASK = Detection()
