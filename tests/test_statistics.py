"""Claims about statistics of samples, against exact fractions and numpy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from bench.statistics import Interval, change, latency, paired_drop, speedup_interval, supported, verdict


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


def test_latency_gives_the_quantiles_of_numpy_where_there_are_enough_samples():
    samples = np.random.default_rng(1).lognormal(size=100)
    figures = latency([list(samples[:40]), list(samples[40:])])
    assert figures.p99_s is None
    assert figures.p50_s == np.median(samples)
    assert [figures.p90_s, figures.p95_s] == list(np.quantile(samples, [0.90, 0.95]))
    assert (figures.samples, figures.reason) == (100, "100 samples are too few")
    assert latency([list(samples) * 3]).reason is None


def test_no_samples_tell_nothing():
    figures = latency([])
    assert [getattr(figures, f"p{percentile}_s") for percentile in (50, 90, 95, 99)] == [None] * 4


def test_means_of_several_calls_have_a_median_and_no_other_percentile():
    figures = latency([[1e-6] * 400] * 4, together=20)
    assert figures.p50_s == 1e-6
    assert [getattr(figures, f"p{percentile}_s") for percentile in (90, 95, 99)] == [None] * 3
    assert figures.reason == "samples are means of 20 calls each, which are too short to be timed one by one"
    assert set(figures.interval) == {"p50_s"}


def test_a_percentiles_interval_is_students_over_the_launches():
    rng = np.random.default_rng(0)
    launches = [rng.lognormal(rng.normal(-7, 0.1), 0.02, 60) for _ in range(5)]
    for name, percentile in (("p50_s", 50), ("p90_s", 90), ("p95_s", 95)):
        logs = np.log([np.percentile(samples, percentile) for samples in launches])
        expected = np.exp(scipy.stats.t.interval(0.95, 4, loc=logs.mean(), scale=scipy.stats.sem(logs)))
        assert latency(launches).interval[name] == pytest.approx(list(expected))
    staged = latency(launches, first=3).interval["p50_s"]
    logs = np.log([np.median(samples) for samples in launches])
    scale = logs[:3].std(ddof=1) / math.sqrt(5)
    assert staged == pytest.approx(list(np.exp(scipy.stats.t.interval(0.95, 2, loc=logs.mean(), scale=scale))))


def test_a_percentile_has_an_interval_where_each_launch_tells_it_and_there_are_two():
    assert latency([[1.0] * 400]).interval == {}
    assert set(latency([[1.0] * 58] * 4).interval) == {"p50_s", "p90_s"}
    assert set(latency([[1.0] * 2] * 3).interval) == {"p50_s"}


def test_a_percentiles_interval_holds_what_launches_come_to_though_their_calls_depend_on_each_other():
    rng = np.random.default_rng(4)
    held, pooled = [], []
    for _ in range(1000):
        launches = [rng.normal(0, 0.03) + np.log(rng.lognormal(0, 0.01, 60)) for _ in range(5)]
        low, high = latency([np.exp(samples) for samples in launches]).interval["p50_s"]
        held.append(low <= 1 <= high)
        ordered = np.sort(np.concatenate(launches))  # as if all calls were independent
        pooled.append(ordered[133] <= 0 <= ordered[166])
    assert abs(np.mean(held) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)
    assert np.mean(pooled) < 0.5


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


def test_the_speedups_interval_has_the_first_stages_deviation_and_the_mean_of_all():
    logs = np.array([0.01, -0.02, 0.03, 0.5, 0.6])
    found = speedup_interval([([1.0], [math.exp(log)]) for log in logs], first=3)
    half = scipy.stats.t.ppf(0.975, 2) * logs[:3].std(ddof=1) / math.sqrt(5)
    assert (found.low, found.ratio, found.high) == pytest.approx(
        (math.exp(logs.mean() - half), math.exp(logs.mean()), math.exp(logs.mean() + half))
    )


def test_a_change_is_welchs_test_of_the_logarithms():
    rng = np.random.default_rng(5)
    before, after = rng.lognormal(0, 0.01, 5), rng.lognormal(0.03, 0.02, 7)
    found = change(before, after, 0.01)
    welch = scipy.stats.ttest_ind(np.log(after), np.log(before), equal_var=False)
    ends = welch.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    beyond = scipy.stats.ttest_ind(
        np.log(after) - math.log1p(0.01), np.log(before), equal_var=False, alternative="greater"
    )
    assert found.p == pytest.approx(beyond.pvalue)
    down = change(after, before, 0.01)
    beyond = scipy.stats.ttest_ind(
        np.log(before) + math.log1p(0.01), np.log(after), equal_var=False, alternative="less"
    )
    assert down.p == pytest.approx(beyond.pvalue)


def test_a_change_between_runs_that_ended_early_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(6)

    def run():
        logs = rng.normal(0, 0.006, 8)
        wanted = math.ceil((scipy.stats.t.ppf(0.975, 3) * logs[:4].std(ddof=1) / 0.005) ** 2)
        return np.exp(logs[: min(8, max(4, wanted))])

    staged, plain = [], []
    for _ in range(2000):
        before, after = run(), run()
        for found, first in ((staged, (4, 4)), (plain, (None, None))):
            interval = change(before, after, first=first).interval
            found.append(interval.low <= 1 <= interval.high)
    assert abs(np.mean(staged) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
    assert np.mean(plain) < 0.94


def test_a_change_without_any_spread_is_told_by_its_size():
    assert change([1.0, 1.0], [1.02, 1.02], 0.01).p == 0.0
    assert change([1.0, 1.0], [1.005, 1.005], 0.01).p == 1.0


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
