"""Claims about statistics of samples, against exact fractions and numpy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from bench.statistics import Interval, latency, paired_drop, speedup_interval, supported, verdict


@pytest.mark.parametrize(("percentile", "least"), [(50, 6), (90, 29), (95, 59), (99, 299)])
def test_a_percentile_needs_the_samples_that_exact_fractions_say(percentile, least):
    q = Fraction(percentile, 100)
    exact = next(n for n in range(1, 1000) if 1 - q**n - (1 - q) ** n >= Fraction(95, 100))
    assert exact == least
    assert [supported(percentile, count) for count in (0, least - 1, least, 10 * least)] == [False, False, True, True]


def test_the_extremes_bracket_the_percentile_as_often_as_claimed():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(20_000, 29))
    inside = (samples.min(axis=1) <= -np.log(0.1)) & (samples.max(axis=1) >= -np.log(0.1))
    assert inside.mean() == pytest.approx(1 - 0.9**29 - 0.1**29, abs=4 * (0.95 * 0.05 / 20_000) ** 0.5)


def test_latency_gives_the_quantiles_of_numpy_where_supported():
    samples = np.random.default_rng(1).lognormal(size=100)
    figures = latency(list(samples))
    assert figures["p99_s"] is None
    assert figures["p50_s"] == np.median(samples)
    assert [figures["p90_s"], figures["p95_s"]] == list(np.quantile(samples, [0.90, 0.95]))


def test_no_samples_support_nothing():
    assert set(latency([]).values()) == {None}


def test_the_speedups_interval_is_students_on_the_logarithms_of_the_launches():
    rng = np.random.default_rng(0)
    launches = [(rng.lognormal(-7, 0.02, 20), rng.lognormal(-6, 0.02, 20)) for _ in range(5)]
    logs = [np.median(np.log(baseline_s / case_s)) for case_s, baseline_s in launches]
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(logs), scale=scipy.stats.sem(logs))
    found = speedup_interval(launches)
    assert (found.low, found.ratio, found.high) == pytest.approx(tuple(np.exp([low, np.mean(logs), high])))
    assert found.half_width == pytest.approx((found.high - found.low) / 2 / found.ratio)


def test_the_speedups_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)

    def launch():
        process = rng.normal(0, 0.003)
        return np.ones(20), np.exp(np.log(2) + process + rng.normal(0, 0.005, 20))

    found = [speedup_interval([launch() for _ in range(5)]) for _ in range(2000)]
    covered = np.mean([interval.low <= 2 <= interval.high for interval in found])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_one_launch_has_no_interval_and_so_no_verdict():
    found = speedup_interval([([1.0, 1.0], [2.0, 2.0])])
    assert (found.low, found.ratio, found.high, found.half_width) == (None, pytest.approx(2.0), None, None)
    assert verdict(found, 0.005) == "ambiguous"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.97, 1.99, "faster"),
        (0.97, 0.98, "slower"),
        (0.995, 1.006, "same"),
        (1.001, 1.004, "same"),
        (0.99, 1.02, "ambiguous"),
        (0.9, 1.1, "ambiguous"),
        (1.001, 1.03, "faster"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, said):
    assert verdict(Interval(low, (low * high) ** 0.5, high), 0.005) == said


def test_a_drop_of_right_answers_has_agresti_and_mins_interval():
    # 40 lost and 16 won of 1,600: the formula of the paper worked out by hand in exact fractions of 1,602
    was = np.r_[np.ones(40), np.zeros(16), np.ones(1544)]
    now = np.r_[np.zeros(40), np.ones(16), np.ones(1544)]
    found = paired_drop(was, now)
    half = 1.959963984540054 * math.sqrt(57 - 24**2 / 1602) / 1602
    assert found.value == 24 / 1600
    assert (found.low, found.high) == pytest.approx((24 / 1602 - half, 24 / 1602 + half))


def test_a_drop_of_nothing_is_still_uncertain():
    found = paired_drop(np.ones(1000), np.ones(1000))
    assert found.low < 0 == found.value < found.high < 0.01


def test_a_drop_of_other_scores_has_students_interval_of_the_differences():
    rng = np.random.default_rng(2)
    was = rng.normal(30, 3, 50)
    now = was - rng.normal(0.2, 0.1, 50)
    expected = scipy.stats.ttest_rel(was, now).confidence_interval(0.95)
    found = paired_drop(was, now)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_drops_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(2000):
        draw = rng.random(1000)
        was, now = (draw > 0.02).astype(float), ((draw < 0.005) | (draw > 0.03)).astype(float)  # truth: 0.005
        found = paired_drop(was, now)
        covered.append(found.low <= 0.005 <= found.high)
    assert 0.93 < np.mean(covered) < 0.99
