"""Claims about the figures of quality, against a second source."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from bench.tasks import sqnr_db, tasks


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
