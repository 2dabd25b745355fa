"""Claims about tasks of sequences: tokens, embeddings, transcriptions and audio, each against a second source."""

import numpy as np
import pandas
import pytest

from bench.errors import DataError
from bench.tasks import tasks
from bench.tasks.task import metric_of

CHANCE = np.random.default_rng(0)


# tokens


def tokens(count=5, places=7, classes=4):
    answers = [CHANCE.normal(size=(places, classes)) for _ in range(count)]
    targets = [np.where(CHANCE.random(places) < 0.3, -100, CHANCE.integers(0, classes, places)) for _ in range(count)]
    return answers, targets


def test_tokens_are_judged_at_the_places_that_have_a_class():
    answers, targets = tokens()
    quality = tasks.get("tokens").quality(answers, targets)
    right, losses = [], []
    for scores, classes in zip(answers, targets, strict=True):
        for row, known in zip(scores, classes, strict=True):
            if known >= 0:
                right.append(row.argmax() == known)
                losses.append(np.log(np.exp(row).sum()) - row[known])
    assert quality["token_accuracy"] == pytest.approx(np.mean(right))
    assert quality["perplexity"] == pytest.approx(np.exp(np.mean(losses)))


def test_tokens_without_classes_have_no_quality():
    answers, _ = tokens()
    for targets in ([None] * 5, [np.full(7, -100)] * 5):
        assert all(np.isnan(value) for value in tasks.get("tokens").quality(answers, targets).values())


def test_scores_that_are_not_numbers_are_never_right():
    broken = [np.full((3, 4), np.nan)]
    assert tasks.get("tokens").quality(broken, [np.zeros(3, int)])["token_accuracy"] == 0
    assert tasks.get("tokens").fidelity(broken, broken)["agreement"] == 0


def test_tokens_agree_where_both_give_the_same_class():
    answers, _ = tokens(1, 4, 3)
    other = [answers[0].copy()]
    other[0][1] = -other[0][1]
    assert tasks.get("tokens").fidelity(other, answers)["agreement"] == 0.75


@pytest.mark.parametrize("target", [np.zeros(3, int), np.full(7, 4)])
def test_targets_that_do_not_fit_the_scores_are_refused(target):
    answers, _ = tokens(1)
    with pytest.raises(DataError, match=r"not by \(7, 4\) and"):
        tasks.get("tokens").quality(answers, [target])


# embeddings


def test_embeddings_are_judged_by_the_order_of_their_pairs():
    answers = [CHANCE.normal(size=8) for _ in range(20)]
    targets = [None if place % 2 else (place + 1, float(CHANCE.random())) for place in range(20)]
    cosines = [
        answers[place] @ answers[place + 1] / np.linalg.norm(answers[place]) / np.linalg.norm(answers[place + 1])
        for place in range(0, 20, 2)
    ]
    known = pandas.Series(cosines).corr(pandas.Series([targets[place][1] for place in range(0, 20, 2)]), "spearman")
    assert tasks.get("embeddings").quality(answers, targets)["spearman"] == pytest.approx(known)
    assert np.isnan(tasks.get("embeddings").quality(answers, [None] * 20)["spearman"])


def test_embeddings_are_near_fp32s_by_their_angle():
    left, right = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    assert tasks.get("embeddings").fidelity([left, 3 * right], [right, right])["cosine"] == pytest.approx(
        (np.sqrt(0.5) + 1) / 2
    )


@pytest.mark.parametrize("other", [0, 5, -1])
def test_a_target_that_names_no_other_item_is_refused(other):
    with pytest.raises(DataError, match="the target of item 0 names item"):
        tasks.get("embeddings").quality([np.ones(2)] * 3, [(other, 1.0), None, (0, 0.5)])


# audio


def test_audio_is_judged_by_its_scale_invariant_ratio():
    target, answer = CHANCE.normal(size=200), CHANCE.normal(size=200)
    answer = 3 * target + 0.5 * answer
    part = (answer @ target) / (target @ target) * target
    known = 10 * np.log10((part @ part) / ((answer - part) @ (answer - part)))
    task = tasks.get("audio")
    assert task.quality([answer, answer], [target, None])["si_sdr_db"] == pytest.approx(known)
    assert task.scores([answer], [target])["si_sdr_db"] == pytest.approx([known])
    assert task.fidelity([answer], [target])["si_sdr_to_fp32_db"] == pytest.approx(known)
    assert np.isnan(task.quality([answer], [None])["si_sdr_db"])
    with pytest.raises(DataError, match="an answer has 200 samples, and its target 100"):
        task.quality([answer], [target[:100]])


# transcriptions


def edits(left, right):
    """Levenshtein's distance, as in his paper's recursion."""
    if not left or not right:
        return len(left) + len(right)
    if left[-1] == right[-1]:
        return edits(left[:-1], right[:-1])
    return 1 + min(edits(left[:-1], right), edits(left, right[:-1]), edits(left[:-1], right[:-1]))


def test_transcriptions_are_judged_by_their_wrong_words():
    answers, targets = ["a b c d", "e", "f g"], ["a x c", "e e", None]
    wrong = edits(["a", "b", "c", "d"], ["a", "x", "c"]) + edits(["e"], ["e", "e"])
    task = tasks.get("transcription")
    assert task.quality(answers, targets)["wer"] == pytest.approx(wrong / 5)
    numbers = [np.array([1, 2, 3, 4, -1]), np.array([5])]
    assert task.quality(numbers, [np.array([1, 9, 3]), np.array([5, 5])])["wer"] == pytest.approx(wrong / 5)
    assert task.fidelity(answers, answers)["wer_to_fp32"] == 0
    assert np.isnan(task.quality(answers, [None, "", None])["wer"])


# directions


@pytest.mark.parametrize(
    ("task", "metric", "sign"),
    [
        ("tokens", "token_accuracy", 1),
        ("tokens", "perplexity", -1),
        ("embeddings", "spearman", 1),
        ("audio", "si_sdr_db", 1),
        ("transcription", "wer", -1),
    ],
)
def test_each_metric_knows_which_way_is_better(task, metric, sign):
    assert metric_of(tasks.get(task), metric).sign == sign
