"""Statistics of samples: pure functions on arrays."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
LARGEST = sys.float_info.max
LIKE_DB, ALIKE = 0.0, 0.9  # as much noise as signal; unless outputs are labels, which then still agree


def student(count: int, confidence: float = CONFIDENCE) -> float:
    """How many standard errors of a mean of `count` >= 2 samples are half its two-sided interval, by Student."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + confidence) / 2))


def supported(percentile: int, count: int, confidence: float = CONFIDENCE) -> bool:
    """Whether `count` samples are enough to tell a percentile by.

    They are where the least and the greatest of as many independent ones would bracket it with this confidence,
    1 - q^n - (1 - q)^n >= confidence: p50 from 6 samples, p90 from 29, p95 from 59, p99 from 299. That is a rule of how
    many, no confidence in the figure: calls of one process are not independent of each other. How sure a percentile is,
    its launches tell. Source: David & Nagaraja 2003, "Order Statistics", section 7.1.
    """
    q = percentile / 100
    return count > 0 and 1 - q**count - (1 - q) ** count >= confidence


@dataclass(frozen=True)
class Latency:
    """What one call on one batch took, in seconds: percentiles of the samples, None where these do not support them.

    interval          the percentiles that have one: (low, high) over launches.
    samples           how many there were, each the mean of `calls_per_sample` calls.
    reason            why a percentile is None, None where none is.
    """

    p50_s: float | None = None
    p90_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: int | None = None
    calls_per_sample: int | None = None
    reason: str | None = None


def latency(launches: Sequence[Sequence[float]], together: int = 1, first: int | None = None) -> Latency:
    """What the calls of a case took.

    launches  for each launch its timed samples in seconds, each (samples,) and the mean of `together` calls.
    first     how many of them were of the first stage, as in `speedup_interval`; None: all of them.

    Percentiles of the samples of all launches are linearly interpolated, None where these are too few; and where
    samples are means of several calls, all but p50_s None: a mean hides the slow call. An interval is Student's on the
    logarithms of the launches' own percentiles, since launches are independent and calls are not; 95% of such intervals
    hold what launches come to on the whole.
    """
    import numpy as np

    pooled = [sample_s for samples_s in launches for sample_s in samples_s]
    given = [one for one in PERCENTILES if supported(one, len(pooled)) and (one == 50 or together == 1)]
    least = min((len(samples_s) for samples_s in launches), default=0)
    first = len(launches) if first is None else first
    intervals = {}
    for percentile in [one for one in given if first > 1 and least and (one == 50 or supported(one, least))]:
        logs = np.log([np.percentile(samples_s, percentile) for samples_s in launches])
        half, mean = student(first) * float(logs[:first].std(ddof=1)) / math.sqrt(len(logs)), float(logs.mean())
        intervals[f"p{percentile}_s"] = (math.exp(mean - half), math.exp(mean + half))
    few = f"{len(pooled)} samples are too few" if len(given) < len(PERCENTILES) else None
    means = f"samples are means of {together} calls each, which are too short to be timed one by one"
    return Latency(
        **{f"p{one}_s": float(np.percentile(pooled, one)) for one in given},
        interval=intervals,
        samples=len(pooled),
        calls_per_sample=together,
        reason=means if together > 1 else few,
    )


@dataclass(frozen=True)
class Interval:
    """A ratio with its confidence interval, dimensionless; low and high are None where one launch cannot tell."""

    low: float | None
    ratio: float
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, relative to the ratio."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2 / self.ratio


def launch_ratio(case_s: Sequence[float], baseline_s: Sequence[float]) -> float:
    """How many times faster the case was in one launch: the median over its rounds (rounds,) of baseline / case."""
    import numpy as np

    return float(np.exp(np.median(np.log(np.asarray(baseline_s) / np.asarray(case_s)))))


def launch_deviation(launches: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The standard deviation of the logarithms of two or more launches' ratios; launches as in `speedup_interval`."""
    import numpy as np

    return float(np.log([launch_ratio(case_s, baseline_s) for case_s, baseline_s in launches]).std(ddof=1))


def speedup_interval(
    launches: Sequence[tuple[Sequence[float], Sequence[float]]],
    first: int | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Give the speed-up of a case over its baseline, above 1 where the case is faster, with its interval.

    launches  for each launch the rounds' medians (case_s, baseline_s), each (rounds,) seconds, taken in turn.
    first     how many of them were of the first stage, whose deviation decided on the others; None: all of them.

    The ratio is the geometric mean of the launches' ratios; the interval is Student's on their logarithms, with the
    first stage's deviation, since launches, not rounds, are independent: rounds share what is peculiar to their
    process. A bootstrap of both levels counts the rounds' noise twice, and covered 98 to 100% in simulations where this
    covered 93 to 96%. One launch has no interval: its rounds do not tell how the next process would differ.
    Source: Kalibera & Jones 2013, "Rigorous benchmarking in reasonable time"; Stein 1945, "A two-sample test for a
    linear hypothesis whose power is independent of the variance"; Davison & Hinkley 1997, section 3.8.
    """
    import numpy as np

    first = len(launches) if first is None else first
    mean = float(np.log([launch_ratio(case_s, baseline_s) for case_s, baseline_s in launches]).mean())
    if first < 2:
        return Interval(None, math.exp(mean), None)
    half = student(first, confidence) * launch_deviation(launches[:first]) / math.sqrt(len(launches))
    return Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))


def verdict(interval: Interval, margin: float) -> str:
    """Say "same" where the whole interval is within 1 +- 2 margin, "faster" or "slower" where it is beyond 1, else
    "ambiguous", as it is without an interval.
    """
    if interval.low is None or interval.high is None:
        return "ambiguous"
    if interval.low >= 1 - 2 * margin and interval.high <= 1 + 2 * margin:
        return "same"
    if interval.low > 1:
        return "faster"
    return "slower" if interval.high < 1 else "ambiguous"


@dataclass(frozen=True)
class Drop:
    """How much worse a figure of quality is, with its 95% interval; negative where it is better."""

    low: float
    value: float
    high: float


def paired_drop(reference: npt.ArrayLike, case: npt.ArrayLike, sign: int = 1) -> Drop:
    """Give the drop of a mean score from the reference to the case, both (n,) scores of the same n samples.

    sign  -1 where a lower score is better: the drop is then how much the mean rose.

    Right-or-wrong scores: the adjusted Wald interval of a difference of paired proportions, which keeps its level where
    few answers differ. Source: Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24. Other scores: Student's interval of the paired differences.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    was, now = np.asarray(reference, dtype=np.float64), np.asarray(case, dtype=np.float64)
    was, now = (was, now) if sign > 0 else (now, was)
    difference = was - now
    count, value = len(difference), float(difference.mean())
    if np.isin(was, (0, 1)).all() and np.isin(now, (0, 1)).all():
        lost, won, padded = float((difference > 0).sum()) + 0.5, float((difference < 0).sum()) + 0.5, count + 2
        centre = (lost - won) / padded
        spread = math.sqrt(lost + won - (lost - won) ** 2 / padded) / padded
        half = float(ndtri((1 + CONFIDENCE) / 2)) * spread
        return Drop(centre - half, value, centre + half)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * float(difference.std(ddof=1)) / math.sqrt(count)
    return Drop(value - half, value, value + half)


@dataclass(frozen=True)
class Change:
    """How many times as large a ratio has become, and the p-value of its not having changed by more than a margin;
    None where one launch cannot tell.
    """

    interval: Interval
    p: float | None


def change(
    before: Sequence[float],
    after: Sequence[float],
    margin: float = 0.0,
    first: tuple[int | None, int | None] = (None, None),
) -> Change:
    """Compare two sets of independent launches by their ratios (n,) and (m,), all above 0: after / before.

    first  how many of each were of the first stage, whose deviation decided on the others and is the set's: that of all
           is too small where the others were not wanted; None: all.

    Welch's interval on the logarithms, and his one-sided test, in the direction that was seen, of a change by no more
    than the margin. Testing for no change at all would call out what the launches of one run share and the next run's
    do not: in simulations with 0.4% from run to run and a margin of 1%, 28% of pairs of equal runs of eight cases,
    against 1%, with four launches that differ by 0.5%; 54%, against 5%, with six that differ by 0.4%. Equal sets are
    one measurement, which has not changed. Source: Welch 1947, "The generalization of Student's problem when several
    different population variances are involved"; Murphy & Myors 1999, "Testing the hypothesis that treatments have
    negligible effects".
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    was, now = np.log(before), np.log(after)
    rise = float(now.mean() - was.mean())
    if len(was) == len(now) and (was == now).all():
        return Change(Interval(1.0, 1.0, 1.0), 1.0)
    counts = [len(some) if count is None else count for some, count in zip((was, now), first, strict=True)]
    if min(counts) < 2:
        return Change(Interval(None, math.exp(rise), None), None)
    parts = [float(some[:count].var(ddof=1)) / len(some) for some, count in zip((was, now), counts, strict=True)]
    error = math.sqrt(sum(parts))
    beyond = abs(rise) - math.log1p(margin)
    if error == 0:
        return Change(Interval(*[math.exp(rise)] * 3), 0.0 if beyond > 0 else 1.0)
    freedom = error**4 / sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = float(stdtr(freedom, -beyond / error))
    return Change(Interval(math.exp(rise - half), math.exp(rise), math.exp(rise + half)), p)


def holm(p_values: Sequence[float | None]) -> list[float]:
    """The p-values of tests held together, so that all of them err with no more than the chance of one. What is no
    p-value (None, NaN, beyond 0..1) is of no test: it counts for none, and comes back as 1.0.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = {place: p for place, p in enumerate(p_values) if p is not None and 0 <= p <= 1}
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(known, key=known.__getitem__)):
        least = max(least, min(1.0, (len(known) - rank) * known[place]))
        adjusted[place] = least
    return adjusted


@dataclass(frozen=True)
class Level:
    """Where the logarithm of a positive figure lies in one run: the level, its standard error by what scattered within
    the run, with so many degrees of freedom; both None where nothing is known to have scattered.
    """

    log: float
    error: float | None
    freedom: float | None


def level_of(samples: Sequence[float]) -> Level:
    """The level of the median of samples (n,), all above 0, with a standard error that asks for no distribution: the
    distance of two order statistics beside the median, by the normal deviate of what they hold by the binomial.

    Source: McKean & Schrader 1984, "A comparison of methods for studentizing the sample median"; Price & Bonett 2001,
    "Estimating the variance of the sample median".
    """
    import numpy as np
    from scipy.special import bdtr, ndtri

    logs = np.sort(np.log(np.asarray(samples, dtype=np.float64)))
    count = len(logs)
    if count < 2:
        return Level(float(logs[0]), None, None)
    place = max(1, round((count + 1) / 2 - math.sqrt(count)))
    deviate = -float(ndtri(bdtr(place - 1, count, 0.5)))
    return Level(float(np.median(logs)), float(logs[count - place] - logs[place - 1]) / (2 * deviate), count - 1)


def change_of_levels(before: Level, after: Level, margin: float, apart: float, unknown: float) -> Change:
    """Compare one level with another, each of one run: after / before, and the p-value of no change beyond the margin.

    apart    the standard deviation of the logarithm from run to run, which no run shows by itself, and which is known.
    unknown  what to take for it where a run does not show how much it scattered either.

    Student's interval, its degrees of freedom by Satterthwaite 1946, "An approximate distribution of estimates of
    variance components", the part that is known having infinitely many.
    """
    from scipy.special import stdtr, stdtrit

    shown = [(one.error, one.freedom) for one in (before, after) if one.error is not None and one.freedom is not None]
    known = 2 * apart**2 if len(shown) == 2 else 2 * unknown**2
    variance = known + sum(error**2 for error, _ in shown)
    estimated = sum(error**4 / freedom for error, freedom in shown)
    freedom = min(variance**2 / estimated, 1e9) if estimated > 0 else 1e9
    spread, difference = math.sqrt(variance), after.log - before.log
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread
    p = float(stdtr(freedom, -(abs(difference) - math.log1p(margin)) / spread))
    return Change(Interval(math.exp(difference - half), math.exp(difference), math.exp(difference + half)), p)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a cell of a frame holds a figure: a number that a float can hold, no NaN, no truth value."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and bool(-LARGEST <= value <= LARGEST)


def sqnr_db(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Give the signal-to-quantization-noise ratio in dB of outputs against a reference of the same shape.

    10 log10(sum reference^2 / sum (outputs - reference)^2), over all elements in float64; infinity where they are
    equal. Source: Widrow & Kollar 2008, "Quantization Noise", ch. 1.
    """
    import numpy as np

    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(outputs.astype(np.float64) - reference.astype(np.float64)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(signal / noise))


def unlike(sqnr_db: Any, agreement: Any) -> bool:
    """Whether outputs have nothing of FP32's: as much noise as signal, and not the same answers either."""
    return is_number(sqnr_db) and sqnr_db <= LIKE_DB and not (is_number(agreement) and agreement >= ALIKE)
