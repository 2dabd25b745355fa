"""Claims about statistics of samples, against exact fractions and numpy."""

from fractions import Fraction

import numpy as np
import pytest

from bench.statistics import latency, supported


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
