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
CONFIDENCE = 0.95  # of every interval
LARGEST = sys.float_info.max  # the largest finite float64
LIKE_DB = 3.0  # half as much noise as signal
ALIKE = 0.9  # share of equal answers: labels may be below LIKE_DB and still agree


def student(count: int, confidence: float = CONFIDENCE) -> float:
    """Student's t: half the two-sided interval of a mean of `count` >= 2 samples, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + confidence) / 2))


def supported(percentile: int, count: int, confidence: float = CONFIDENCE) -> bool:
    """Whether `count` samples are enough for a percentile.

    They are where the smallest and the largest of as many independent samples bracket it with this confidence,
    1 - q^n - (1 - q)^n >= confidence: p50 from 6 samples, p90 from 29, p95 from 59, p99 from 299. The rule gives a
    count, no confidence in the figure: calls of one process are not independent of each other. The launches show how
    sure a percentile is. Source: David & Nagaraja 2003, "Order Statistics", section 7.1.
    """
    q = percentile / 100
    return count > 0 and 1 - q**count - (1 - q) ** count >= confidence


@dataclass(frozen=True)
class Latency:
    """Seconds of one call on one batch: percentiles of the samples, None where the samples do not support them.

    interval          percentile's name -> (low, high) over launches, where there is an interval.
    samples           their number; each is the mean of `calls_per_sample` calls.
    reason            why percentiles are None; None where all are given.
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
    """The latency of a case over its launches.

    launches  the timed samples of each launch, (samples,) seconds, each the mean of `together` calls.
    first     number of launches of the first stage, as in `speedup_interval`; None: all.

    Percentiles of the samples of all launches are linearly interpolated, None where these are too few. Where samples
    are means of several calls, only p50_s is given: a mean hides the slow call. An interval is Student's on the
    logarithms of the launches' own percentiles, since launches are independent and calls are not; 95% of such intervals
    hold the mean over all launches there could be.
    """
    import numpy as np

    pooled = [sample_s for samples_s in launches for sample_s in samples_s]
    given = [percent for percent in PERCENTILES if supported(percent, len(pooled)) and (percent == 50 or together == 1)]
    fewest = min((len(samples_s) for samples_s in launches), default=0)
    first = len(launches) if first is None else first
    intervals = {}
    for percentile in [
        percent for percent in given if first > 1 and fewest and (percent == 50 or supported(percent, fewest))
    ]:
        logs = np.log([np.percentile(samples_s, percentile) for samples_s in launches])
        half, mean = student(first) * float(logs[:first].std(ddof=1)) / math.sqrt(len(logs)), float(logs.mean())
        intervals[f"p{percentile}_s"] = (math.exp(mean - half), math.exp(mean + half))
    few = f"{len(pooled)} samples are too few" if len(given) < len(PERCENTILES) else None
    means = f"samples are means of {together} calls each, which are too short to be timed one by one"
    return Latency(
        **{f"p{percent}_s": float(np.percentile(pooled, percent)) for percent in given},
        interval=intervals,
        samples=len(pooled),
        calls_per_sample=together,
        reason=means if together > 1 else few,
    )


@dataclass(frozen=True)
class Interval:
    """A dimensionless ratio with its confidence interval; low and high are None for a single launch."""

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
    first     number of launches of the first stage, whose deviation decided how many follow; None: all.

    The ratio is the geometric mean of the launches' ratios; the interval is Student's on their logarithms, with the
    first stage's deviation, since launches, not rounds, are independent: rounds share the peculiarities of their
    process. A bootstrap of both levels counts the rounds' noise twice: in simulations it covered 98 to 100%, this 93 to
    96%. A single launch has no interval: its rounds do not show how the next process would differ.
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
    """Judge an interval of a speed-up.

    "same" where all of it is within 1 +- 2 margin, "faster" where all of it is above 1, "slower" where all is below;
    else, and without an interval, "ambiguous".
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
    """The factor by which a ratio changed, and `p` of the hypothesis that it changed by no more than a margin.

    The interval's ends and `p` are None where a single launch cannot show them.
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

    first  number of launches of the first stage in each set; None: all. Their deviation decided how many follow, and
           is the set's: the deviation of all is too small where the others were not wanted.

    Welch's interval on the logarithms, and his one-sided test, in the observed direction, of a change by no more than
    the margin. A test for no change at all would report what launches share within a run but not with the next run. In
    simulations of pairs of equal runs of eight cases, with 0.4% from run to run and a margin of 1%, it reported 28% of
    the pairs, against 1%, with four launches that differ by 0.5%; 54%, against 5%, with six that differ by 0.4%. Equal
    sets are the same measurement: no change. Source: Welch 1947, "The generalization of Student's problem when several
    different population variances are involved"; Murphy & Myors 1999, "Testing the hypothesis that treatments have
    negligible effects".
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    was, now = np.log(before), np.log(after)
    rise = float(now.mean() - was.mean())
    if len(was) == len(now) and (was == now).all():
        return Change(Interval(1.0, 1.0, 1.0), 1.0)
    counts = [len(logs) if count is None else count for logs, count in zip((was, now), first, strict=True)]
    if min(counts) < 2:
        return Change(Interval(None, math.exp(rise), None), None)
    parts = [float(logs[:count].var(ddof=1)) / len(logs) for logs, count in zip((was, now), counts, strict=True)]
    error = math.sqrt(sum(parts))
    beyond = abs(rise) - math.log1p(margin)
    if error == 0:
        return Change(Interval(*[math.exp(rise)] * 3), 0.0 if beyond > 0 else 1.0)
    freedom = error**4 / sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = float(stdtr(freedom, -beyond / error))
    return Change(Interval(math.exp(rise - half), math.exp(rise), math.exp(rise + half)), p)


def holm(p_values: Sequence[float | None]) -> list[float]:
    """The p-values, adjusted so that all tests together err with no more than the chance of a single test.

    What is not a p-value (None, NaN, beyond 0..1) counts as no test and comes back as 1.0. Source: Holm 1979,
    "A simple sequentially rejective multiple test procedure".
    """
    valid = {place: p for place, p in enumerate(p_values) if p is not None and 0 <= p <= 1}
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(valid, key=valid.__getitem__)):
        largest = max(largest, min(1.0, (len(valid) - rank) * valid[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Level:
    """The logarithm of a positive figure in one run.

    error    its standard error, by the scatter within the run; None where no scatter is known.
    freedom  the error's degrees of freedom; None likewise.
    """

    log: float
    error: float | None
    freedom: float | None


def level_of(samples: Sequence[float]) -> Level:
    """The level of the median of samples (n,), all above 0, with a distribution-free standard error.

    The error is the distance of two order statistics around the median, over twice the normal deviate of their
    binomial coverage. Source: McKean & Schrader 1984, "A comparison of methods for studentizing the sample median";
    Price & Bonett 2001, "Estimating the variance of the sample median".
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
    """Compare the levels of two runs: after / before, and the p-value of no change beyond the margin.

    apart    the known standard deviation of the logarithm from run to run, which a single run does not show.
    unknown  used instead of `apart` where a run does not show its own scatter either.

    Student's interval, its degrees of freedom by Satterthwaite 1946, "An approximate distribution of estimates of
    variance components"; the known part has infinitely many.
    """
    from scipy.special import stdtr, stdtrit

    shown = [
        (level.error, level.freedom)
        for level in (before, after)
        if level.error is not None and level.freedom is not None
    ]
    between_runs = 2 * apart**2 if len(shown) == 2 else 2 * unknown**2
    variance = between_runs + sum(error**2 for error, _ in shown)
    estimated = sum(error**4 / freedom for error, freedom in shown)
    freedom = min(variance**2 / estimated, 1e9) if estimated > 0 else 1e9
    spread, difference = math.sqrt(variance), after.log - before.log
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread
    p = float(stdtr(freedom, -(abs(difference) - math.log1p(margin)) / spread))
    return Change(Interval(math.exp(difference - half), math.exp(difference), math.exp(difference + half)), p)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a figure: a number that a float64 can hold, not NaN, not a truth value."""
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
    """Whether outputs are unlike FP32's: at least half as much noise as signal, and too few equal answers."""
    return is_number(sqnr_db) and sqnr_db <= LIKE_DB and not (is_number(agreement) and agreement >= ALIKE)
