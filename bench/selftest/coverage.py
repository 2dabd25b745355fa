"""How often the speed-up's interval holds the truth: the harness's own stopping rule on simulated launches.

Each launch's log ratio is the truth plus normal noise of a given standard deviation; each round's is its launch's plus
more noise. The functions that measure a case decide when launches begin and end, and give the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.statistics import speedup_interval
from bench.timing.sampling import Launch, two_stages

if TYPE_CHECKING:
    import numpy as np

    from bench.timing.sampling import Plan
    from bench.timing.settings import Bench

TRUTH = 2.0
DEVIATIONS = (0.002, 0.003, 0.004, 0.006, 0.008, 0.012)
OF_ROUNDS = 0.005
ROUNDS = 4  # of a pass; a launch has twice as many at least
START_S = 0.4


class Simulated:
    """Simulated launches on a simulated clock."""

    def __init__(self, plan: Plan, deviation: float, rng: np.random.Generator) -> None:
        self._plan, self._deviation, self._rng = plan, deviation, rng
        self._means: list[float] = []
        self.launches: list[Launch] = []
        self.starting_s = self.now_s = 0.0

    def begin(self, count: int) -> None:
        """Begin launches with random log ratios."""
        for _ in range(max(0, count)):
            self.launches.append(Launch())
            self._means.append(self._rng.normal(math.log(TRUTH), self._deviation))
            self.starting_s += START_S
            self.now_s += START_S

    def start_s(self) -> float:
        """Seconds that beginning a launch takes."""
        return START_S

    def room(self) -> int:
        """How many launches there is memory for: as many as the plan allows."""
        return self._plan.most_launches

    def sample(self, since: int) -> None:
        """Add rounds with noise around their launch."""
        for launch, mean in list(zip(self.launches, self._means, strict=True))[since:]:
            launch.case_s += [1.0] * ROUNDS
            launch.baseline_s += [math.exp(log) for log in self._rng.normal(mean, OF_ROUNDS, ROUNDS)]
            launch.samples_s += [1.0] * ROUNDS
            self.now_s += self._plan.pass_s


def covered(plan: Plan, deviation: float, repeats: int, rng: np.random.Generator) -> list[tuple[bool, int, int, float]]:
    """For each simulated run: whether the interval holds the truth, the launches of the first stage, all launches, the
    interval's half-width.
    """
    runs = []
    for _ in range(repeats):
        pairs = Simulated(plan, deviation, rng)
        first = two_stages(plan, pairs, True, lambda pairs=pairs: pairs.now_s)  # type: ignore[misc]
        interval = speedup_interval([(launch.case_s, launch.baseline_s) for launch in pairs.launches], first)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.half_width is not None
        runs.append((interval.low <= TRUTH <= interval.high, first, len(pairs.launches), interval.half_width))
    return runs


def coverage(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say how often the interval holds the truth, for each deviation between launches; 1,000 runs a repeat. It calls no
    model.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    for deviation in DEVIATIONS:
        runs = covered(bench.plan, deviation, 1000 * repeats, rng)
        hits = [hit for hit, *_ in runs]
        early = [hit for hit, first, count, _ in runs if count == first]
        say(
            f"sd {deviation:.1%} from launch to launch: {np.mean(hits):.2%} of {len(runs)} intervals hold the truth; "
            f"{len(early) / len(runs):.0%} end with the first stage, {early.count(False) / len(runs):.2%} and miss; "
            f"{np.mean([count for _, _, count, _ in runs]):.1f} launches, "
            f"median half-width {np.median([width for *_, width in runs]):.2%}"
        )
