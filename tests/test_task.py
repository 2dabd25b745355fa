"""Claims about the figures of quality, against a second source."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from bench.errors import DataError
from bench.statistics import sqnr_db
from bench.tasks import tasks
from bench.tasks.fidelity import without_truth


def test_top1_and_top5_are_the_accuracies_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(500, 10)), rng.integers(0, 10, 500)
    quality = tasks.get("classification").quality(scores, targets)
    assert quality == {
        "top1": accuracy_score(targets, scores.argmax(axis=1)),
        "top5": top_k_accuracy_score(targets, scores, k=5),
    }


def test_agreement_is_the_share_of_equal_answers():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 300, 4))
    same = sum(
        max(range(4), key=list(a).__getitem__) == max(range(4), key=list(b).__getitem__)
        for a, b in zip(one, other, strict=True)
    )
    assert tasks.get("classification").fidelity(one, other) == {"agreement": same / 300}


def test_sqnr_is_the_ratio_of_powers_in_decibel():
    reference = np.array([[3.0, -4.0]], np.float32)
    assert sqnr_db(reference + np.float32([[0.5, 0.0]]), reference) == pytest.approx(10 * math.log10(25 / 0.25))


def test_sqnr_of_equal_outputs_is_infinite():
    ones = np.ones((2, 2), np.float32)
    assert sqnr_db(ones, ones) == math.inf


def test_classes_of_inputs_that_have_none_are_not_judged():
    scores, targets = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, -1, None]
    task = tasks.get("classification")
    assert task.quality(scores, targets) == {"top1": 1.0}
    assert task.scores(scores, targets)["top1"].tolist() == [1.0]
    assert math.isnan(task.quality(scores, [-1, -1, -1])["top1"])


def test_a_class_that_the_network_does_not_score_is_refused():
    with pytest.raises(DataError, match="a target is class 2, but the network scores 2 classes, from 0"):
        tasks.get("classification").quality([[0.9, 0.1], [0.2, 0.8]], [0, 2])
    with pytest.raises(DataError, match=r"not by \(2, 2\) and \(2, 2\)"):
        tasks.get("classification").quality([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 1]])


def test_scores_that_are_no_numbers_agree_with_nothing():
    nan = float("nan")
    assert tasks.get("classification").fidelity([[nan, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]) == {
        "agreement": 0.5
    }


def test_label_maps_without_truth_have_no_quality():
    task, answer, void = tasks.get("segmentation"), np.ones((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
    quality = task.quality([answer], [void])
    assert math.isnan(quality["miou"])
    assert math.isnan(quality["pixel_accuracy"])
    assert quality["iou"] == {}
    assert task.scores([answer, answer], [void, answer])["pixel_accuracy"].tolist() == [1.0]
    with pytest.raises(DataError, match="class -1; classes count from 0, and pixels that do not count are 255"):
        task.quality([answer], [np.full((2, 3), -1)])


def test_pictures_without_truth_have_no_quality():
    task, picture = tasks.get("restoration_rgb"), np.zeros((3, 12, 12))
    assert all(math.isnan(value) for value in task.quality([picture], [None]).values())
    found = task.quality([picture, picture], [None, picture + 0.1])
    assert found["psnr_rgb_shave0_db"] == pytest.approx(20)
    assert found.keys() == {"psnr_rgb_shave0_db", "ssim_rgb_shave0"}, "figures alone: how many were judged is none"


def test_a_split_without_truth_is_told_with_the_reason():
    assert without_truth({"map": float("nan")}, "faces") == "the test side of faces has no truth to judge by"
    assert without_truth({"map": 0.5, "ap_easy": float("nan")}, "faces") is None
    assert without_truth({}, "features") is None


def test_classes_of_a_network_that_ends_in_argmax_are_judged_as_they_are():
    task = tasks.get("classification")
    assert task.quality([1, 0, 2], [1, 1, -1]) == {"top1": 0.5}
    assert task.fidelity(np.array([1, 0, 2]), np.array([1, 1, 2])) == {"agreement": pytest.approx(2 / 3)}
