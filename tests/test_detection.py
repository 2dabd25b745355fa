"""Claims about average precision: WIDER FACE's protocol against its loops, COCO's against pycocotools."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench.tasks import tasks
from bench.tasks.detection import Objects, coco_ap, overlaps, wider_ap


def by_loops(answers, targets, subset):
    """WIDER FACE's evaluation as it goes: one threshold, picture and box after the other."""
    every = [box[4] for answer in answers for box in answer]
    low, high = min(every), max(every)
    count = sum(int(target.subsets[subset].sum()) for target in targets)
    proposed, recalled = [0] * 1000, [0] * 1000
    for answer, target in zip(answers, targets, strict=True):
        if len(answer) == 0 or len(target.boxes) == 0:
            continue
        ranked = sorted(answer.tolist(), key=lambda box: -box[4])
        seen, proposals, recalls = {}, [], []
        for box in ranked:
            best, place = -1.0, None
            for at, face in enumerate(target.boxes):
                width = min(box[2], face[2]) - max(box[0], face[0]) + 1
                height = min(box[3], face[3]) - max(box[1], face[1]) + 1
                shared = max(width, 0) * max(height, 0)
                areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (box, face)]
                overlap = shared / (sum(areas) - shared)
                if overlap > best:
                    best, place = overlap, at
            proposals.append(1)
            if best >= 0.5:
                if not target.subsets[subset][place]:
                    seen[place], proposals[-1] = -1, -1
                elif place not in seen:
                    seen[place] = 1
            recalls.append(sum(value == 1 for value in seen.values()))
        for step in range(1000):
            above = [at for at, box in enumerate(ranked) if (box[4] - low) / (high - low) >= 1 - (step + 1) / 1000]
            if above:
                proposed[step] += sum(value == 1 for value in proposals[: above[-1] + 1])
                recalled[step] += recalls[above[-1]]
    precision = [0.0, *(hit / box if box else 0.0 for hit, box in zip(recalled, proposed, strict=True)), 0.0]
    recall = [0.0, *(hit / count for hit in recalled), 1.0]
    for at in range(len(precision) - 1, 0, -1):
        precision[at - 1] = max(precision[at - 1], precision[at])
    return sum((recall[at] - recall[at - 1]) * precision[at] for at in range(1, len(recall)))


def scattered(chance, faces, spurious=4):
    """Detections of faces, some moved, some missed, some twice, with others that are none."""
    found = []
    for box in faces:
        for _ in range(int(chance.integers(0, 3))):
            size = (box[2:] - box[:2]).tolist() * 2
            found.append([*(box + chance.normal(0, 0.12, 4) * size), chance.beta(4, 2)])
    for _ in range(int(chance.integers(0, spurious))):
        left, top = chance.uniform(0, 500, 2)
        found.append([left, top, left + chance.uniform(10, 90), top + chance.uniform(10, 90), chance.beta(2, 4)])
    return np.array(found, np.float64).reshape(-1, 5)


def scenes(chance, count):
    """Pictures with faces, of which chance lets some count."""
    targets = []
    for _ in range(count):
        corners = chance.uniform(0, 500, (int(chance.integers(0, 9)), 2))
        boxes = np.concatenate([corners, corners + chance.uniform(8, 90, corners.shape)], axis=1)
        targets.append(Objects(boxes, {"easy": chance.random(len(boxes)) < 0.5, "hard": np.ones(len(boxes), bool)}))
    return targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("subset", ["easy", "hard"])
def test_widers_protocol_is_what_its_loops_give(seed, subset):
    chance = np.random.default_rng(seed)
    targets = scenes(chance, 25)
    answers = [scattered(chance, target.boxes) for target in targets]
    assert wider_ap(answers, targets, subset) == pytest.approx(by_loops(answers, targets, subset), abs=1e-9)


def test_detections_that_are_the_faces_have_all_the_precision():
    targets = [target for target in scenes(np.random.default_rng(0), 10) if len(target.boxes)]
    answers = [np.column_stack([target.boxes, np.linspace(0.5, 1, len(target.boxes))]) for target in targets]
    assert tasks.get("detection").quality(answers, targets) == {
        "ap_easy": pytest.approx(1),
        "ap_hard": pytest.approx(1),
        "map": pytest.approx(1),
        "map50": pytest.approx(1),
    }


def test_boxes_found_nowhere_have_no_precision():
    targets = [Objects(np.array([[0.0, 0, 9, 9]]), {"hard": np.array([True])})]
    assert wider_ap([np.zeros((0, 5))], targets, "hard") == 0


def test_without_truth_there_is_no_precision():
    answers = [np.array([[0.0, 0, 9, 9, 0.9]]), np.zeros((0, 5))]
    quality = tasks.get("detection").quality(answers, [Objects(np.zeros((0, 4)), {"hard": np.zeros(0, bool)})] * 2)
    assert list(quality) == ["ap_hard", "map", "map50"]
    assert all(np.isnan(value) for value in quality.values()), "COCO's tools tell -1"


def test_answers_are_brought_back_to_the_pixels_of_the_truth():
    faces = np.array([[100.0, 100, 300, 300]])
    target = Objects(faces, {"hard": np.array([True])}, factor=0.25)
    quality = tasks.get("detection").quality([np.array([[25.0, 25, 75, 75, 0.9]])], [target])
    assert quality["ap_hard"] == pytest.approx(1)


def test_cocos_average_precision_is_that_of_its_own_tools():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    chance = np.random.default_rng(3)
    targets = scenes(chance, 20)
    answers = [scattered(chance, target.boxes) for target in targets]

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    truth = COCO()
    boxes = [(at, box) for at, target in enumerate(targets) for box in target.boxes]
    truth.dataset = {
        "info": {},
        "images": [{"id": at} for at in range(len(targets))],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": number + 1, "image_id": at, "category_id": 1, "bbox": xywh(box), "iscrowd": 0,
             "area": float(np.prod(np.float32(box[2:] - box[:2])))}
            for number, (at, box) in enumerate(boxes)
        ],
    }  # fmt: skip
    truth.createIndex()
    found = truth.loadRes(
        [
            {"image_id": at, "category_id": 1, "bbox": xywh(box), "score": float(box[4])}
            for at, answer in enumerate(answers)
            for box in answer
        ]
    )
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 2]
    assert coco_ap(answers, targets)["map"] == pytest.approx(float(precision.mean()), abs=1e-4)
    assert coco_ap(answers, targets)["map50"] == pytest.approx(float(precision[0].mean()), abs=1e-4)


def test_overlap_is_that_of_torchvision():
    import torch
    from torchvision.ops import box_iou

    chance = np.random.default_rng(0)
    one, other = (
        np.concatenate([corner, corner + chance.uniform(1, 60, corner.shape)], 1)
        for corner in chance.uniform(0, 90, (2, 12, 2))
    )
    theirs = box_iou(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(overlaps(one, other, 0.0), theirs.numpy(), atol=1e-9)


@pytest.fixture(scope="module")
def every_face():
    """The ground truth of all pictures of WIDER FACE's validation set, in a folder that BENCH_DATA names."""
    from fixtures.data.widerface import truth

    folder = Path(os.environ.get("BENCH_DATA", "/nonexistent"))
    if not (folder / "widerface").is_dir():
        pytest.skip("needs the ground truth of WIDER FACE in BENCH_DATA")
    return truth(folder)


def test_the_ground_truth_of_wider_face_has_the_published_counts(every_face):
    assert len(every_face) == 3226
    counts = {
        name: sum(int(one.subsets[name].sum()) for one in every_face.values()) for name in ("easy", "medium", "hard")
    }
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31958}


@pytest.mark.parametrize("subset", ["easy", "medium", "hard"])
def test_widers_protocol_is_what_its_loops_give_on_its_own_faces(every_face, subset):
    chance = np.random.default_rng(0)
    targets = list(every_face.values())[::25]
    answers = [scattered(chance, target.boxes) for target in targets]
    assert wider_ap(answers, targets, subset) == pytest.approx(by_loops(answers, targets, subset), abs=1e-9)
