"""How often the speed-up's interval holds the truth where the launches' spread is known: the harness's own rule, driven
by simulated launches.

What is simulated is what processes do: each launch's log ratio differs from the truth by chance, normally, with a
standard deviation that is given, and each round from its launch. When to begin launches and when to end, and the
interval, come from the same functions that measure a case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.statistics import speedup_interval
from bench.timing.sampling import Launch, two_stages

if TYPE_CHECKING:
    import numpy as np

    from bench.timing.bench import Bench
    from bench.timing.sampling import Plan

TRUTH = 2.0
DEVIATIONS = (0.002, 0.003, 0.004, 0.006, 0.008, 0.012)
OF_ROUNDS = 0.005
ROUNDS = 4  # of a pass; a launch has twice as many at least
START_S = 0.4


class Simulated:
    """Launches of which nothing runs, on a clock of their own."""

    def __init__(self, plan: Plan, deviation: float, rng: np.random.Generator) -> None:
        self._plan, self._deviation, self._rng = plan, deviation, rng
        self._means: list[float] = []
        self.launches: list[Launch] = []
        self.starting_s = self.now_s = 0.0

    def begin(self, count: int) -> None:
        """Begin launches whose log ratios differ by chance."""
        for _ in range(max(0, count)):
            self.launches.append(Launch())
            self._means.append(self._rng.normal(math.log(TRUTH), self._deviation))
            self.starting_s += START_S
            self.now_s += START_S

    def start_s(self) -> float:
        """What beginning one more takes."""
        return START_S

    def room(self) -> int:
        """As many as are wanted."""
        return self._plan.most_launches

    def sample(self, since: int) -> None:
        """Add rounds that differ from their launch by chance."""
        for launch, mean in list(zip(self.launches, self._means, strict=True))[since:]:
            launch.case_s += [1.0] * ROUNDS
            launch.baseline_s += [math.exp(log) for log in self._rng.normal(mean, OF_ROUNDS, ROUNDS)]
            launch.samples_s += [1.0] * ROUNDS
            self.now_s += self._plan.pass_s


def covered(plan: Plan, deviation: float, repeats: int, rng: np.random.Generator) -> list[tuple[bool, int, int, float]]:
    """For so many runs of the plan: whether the interval holds the truth, launches of the first stage and in all, and
    the interval's half-width.
    """
    runs = []
    for _ in range(repeats):
        pairs = Simulated(plan, deviation, rng)
        first = two_stages(plan, pairs, True, lambda pairs=pairs: pairs.now_s)  # type: ignore[misc]
        found = speedup_interval([(one.case_s, one.baseline_s) for one in pairs.launches], first)
        assert found.low is not None
        assert found.high is not None
        assert found.half_width is not None
        runs.append((found.low <= TRUTH <= found.high, first, len(pairs.launches), found.half_width))
    return runs


def coverage(model: str, bench: Bench, repeats: int, told: Callable[[str], None]) -> None:
    """Tell how often the interval holds the truth at each deviation from launch to launch, 1,000 times the repeats; no
    model is called.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    for deviation in DEVIATIONS:
        runs = covered(bench.plan, deviation, 1000 * repeats, rng)
        hits = [hit for hit, *_ in runs]
        early = [hit for hit, first, count, _ in runs if count == first]
        told(
            f"sd {deviation:.1%} from launch to launch: {np.mean(hits):.2%} of {len(runs)} intervals hold the truth; "
            f"{len(early) / len(runs):.0%} end with the first stage, {early.count(False) / len(runs):.2%} and miss; "
            f"{np.mean([count for _, _, count, _ in runs]):.1f} launches, "
            f"median half-width {np.median([width for *_, width in runs]):.2%}"
        )
