"""How a session is called and timed, and how a case is sampled in turn with its baseline.

A launch is a pair of fresh processes, one for each side. It has rounds; in a round each side makes its calls for a
slice of time while the other is suspended, and the order alternates from round to round. What disturbs the machine for
longer than a round disturbs both sides alike; what differs from process to process is seen between launches.

How many launches there are is found in two stages, by Stein's rule. Stopping as soon as an interval looks narrow
enough picks the runs whose launches agree by chance: at 0.8% from launch to launch 92.2% of such intervals covered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import get_clock_info, perf_counter
from typing import Protocol

from bench.spec.outcome import Steady
from bench.statistics import launch_deviation, student

KEPT = 32
SHORT_S = 20e-6
STEADY = 0.02
PATIENCE = 3


@dataclass(frozen=True)
class Plan:
    """When a case has been sampled enough.

    The first stage has so many launches and passes as time alone decides. Its standard deviation then says how many
    launches the interval needs; as many of these as the budget allows are the second stage, sampled for as long. The
    interval keeps the first stage's deviation, which is independent of the mean of all launches: it covers as often as
    it says, whatever the deviation is and wherever the budget ends it. Source: Stein 1945, "A two-sample test for a
    linear hypothesis whose power is independent of the variance".

    interval        the half-width at which its speed-up is known well enough, relative: 0.005 is 0.5%.
    budget_s        the time for starting and sampling after which nothing further is begun.
    least_launches  pairs of processes to begin with; three of them, where starting these takes half of the budget.
    first_launches  pairs of the first stage at the most, where starting them takes no more than the share `starting`.
    most_launches   pairs of both stages at the most.
    starting        the share of the budget up to which starting may take to begin further launches.
    least_passes    how often all pairs are sampled in turn at least, for pass_s each: a disturbance of seconds then
                    falls on a part of each pair's rounds, whose median does not feel it, and not on the whole of one.
    least_samples   how many calls of the case there are at least, for up to three budgets: a median has an interval of
                    its own from six on, and engines that are slow to start have little of the budget left.
    slice_s         how long one side calls before it is the other's turn.
    """

    interval: float = 0.005
    budget_s: float = 20.0
    least_launches: int = 4
    first_launches: int = 6
    most_launches: int = 8
    starting: float = 0.25
    least_passes: int = 2
    pass_s: float = 0.4
    least_samples: int = 6
    slice_s: float = 0.04

    @classmethod
    def within(cls, budget_s: float, interval: float = interval) -> Plan:
        """The plan for a budget: what is begun once, processes, is used for longer where there is more time."""
        return cls(interval, budget_s, pass_s=max(cls.pass_s, budget_s / 25))

    def begun(self, spent_s: float, starting_s: float, start_s: float, launches: int) -> int:
        """How many launches the first stage has, where so many are there after so much time, of which starting took
        starting_s; one more takes start_s.
        """
        if 2 * spent_s >= self.budget_s:
            return launches
        left_s = self.starting * self.budget_s - starting_s
        further = int(left_s / start_s) if start_s > 0 else self.most_launches
        most = min(self.first_launches, self.most_launches)
        return max(launches, self.least_launches, min(most, launches + further))

    def staged(self, passes: int, samples: int, spent_s: float, last: bool) -> bool:
        """Whether the first stage is over: never by what it found, so that its deviation is nobody's choice.

        last  whether no second stage can follow it; it may take the whole budget then, else half of it.
        """
        few = samples < self.least_samples and spent_s < PATIENCE * self.budget_s
        share = 0.0 if self.most_launches == 1 else 1.0 if last else 0.5
        return passes >= self.least_passes and not few and spent_s >= share * self.budget_s

    def wanted(self, deviation: float, first: int) -> int:
        """How many launches make the interval narrow enough, by the deviation of the logarithms of the first ones."""
        return max(first, math.ceil((student(first) * deviation / math.asinh(self.interval)) ** 2))

    def affordable(self, spent_s: float, starting_s: float, start_s: float, sampling_s: float) -> int:
        """How many launches may still be begun, each of which is started and sampled for so long."""
        starts = (self.starting * self.budget_s - starting_s) / start_s if start_s > 0 else math.inf
        each_s = start_s + sampling_s
        return max(
            0, int(min(starts, (self.budget_s - spent_s) / each_s if each_s > 0 else math.inf, self.most_launches))
        )


QUICK = Plan(least_launches=1, most_launches=1)


@dataclass(frozen=True)
class Slice:
    """What one side did in its turn: the median call, some of the calls evenly taken, how many there were; seconds.

    energy_j  what the packages used during exactly these calls, in joules; None where the system does not tell.
    """

    median_s: float
    samples_s: list[float]
    calls: int
    energy_j: float | None = None


@dataclass
class Launch:
    """One pair of processes: for each round the median call of either side in seconds, and samples of the case's."""

    case_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)
    samples_s: list[float] = field(default_factory=list)


class Launches(Protocol):
    """Launches as `two_stages` drives them: pairs of processes, or a simulation of them.

    launches    all that were begun, in order.
    starting_s  how long starting has taken so far.
    """

    launches: list[Launch]
    starting_s: float

    def begin(self, count: int) -> None:
        """Begin so many more launches; none where it is not above 0."""
        ...

    def start_s(self) -> float:
        """What beginning one more would take, in seconds."""
        ...

    def room(self) -> int:
        """How many launches the machine's memory has room for at the same time, at least one."""
        ...

    def sample(self, since: int) -> None:
        """Sample all from this one on, in turn, for one pass; what of it is starting counts as that."""
        ...


def two_stages(plan: Plan, pairs: Launches, baseline: bool, clock: Callable[[], float]) -> int:
    """Begin launches and sample them until the plan is fulfilled; give how many were of the first stage.

    baseline  whether there is one, and so an interval to be narrowed.
    """
    began = clock()
    pairs.begin(1)
    room = pairs.room()
    pairs.begin(min(plan.least_launches, 3, room) - 1)
    first = plan.begun(clock() - began, pairs.starting_s, pairs.start_s(), len(pairs.launches))
    pairs.begin(min(first, room) - len(pairs.launches))
    first, most = len(pairs.launches), min(plan.most_launches, room)
    passes, sampling_s = 0, 0.0
    while True:
        asked = clock() - pairs.starting_s
        pairs.sample(0)
        sampling_s += clock() - pairs.starting_s - asked
        passes += 1
        samples = sum(len(launch.samples_s) for launch in pairs.launches)
        last = not baseline or first >= most or not plan.affordable(0.0, pairs.starting_s, pairs.start_s(), 0.0)
        if plan.staged(passes, samples, clock() - began, last):
            break
    if last or first < 2:
        return first
    wanted = plan.wanted(launch_deviation([(one.case_s, one.baseline_s) for one in pairs.launches]), first)
    can = plan.affordable(clock() - began, pairs.starting_s, pairs.start_s(), sampling_s / first)
    further = min(wanted, most, first + can) - first
    if further > 0:
        pairs.begin(further)
        for _ in range(passes):
            pairs.sample(first)
    return first


class Side(Protocol):
    """A session that can be sampled in turn with another."""

    def take(self, seconds: float) -> Slice:
        """Call for so long; nothing of it runs before or after."""
        ...


def paired(
    launch: Launch, case: Side, baseline: Side | None, seconds: float, slice_s: float, clock: Callable[[], float]
) -> None:
    """Sample both sides in turn for so many seconds, in an even number of rounds, and add them to the launch.

    Without a baseline the case is sampled alone. `clock` gives seconds.
    """
    began = clock()
    while clock() - began < seconds or len(launch.case_s) % 2:
        sides = [("case", case)] if baseline is None else [("case", case), ("baseline", baseline)]
        for name, side in sides if len(launch.case_s) % 2 == 0 else reversed(sides):
            taken = side.take(slice_s)
            if name == "baseline":
                launch.baseline_s.append(taken.median_s)
            else:
                round_s = taken.median_s
                launch.samples_s += taken.samples_s
        launch.case_s.append(round_s)


# What follows runs in the worker's process.


@dataclass
class Timer:
    """Times a session's calls, slice after slice.

    typical_s  what a call takes: one that is longer than the slice needs no warming, and one that is so short that
               the clock matters is made several times a sample.
    clock      gives seconds.
    meter      gives the joules used since some start, None where the system does not tell.

    Of its samples every n-th is kept, with n from `typical_s`, counted on from slice to slice: each that is kept stands
    for as many calls, in slow slices as in fast ones, and none has the place after the warm-up more often than another.
    """

    typical_s: float
    clock: Callable[[], float] = perf_counter
    meter: Callable[[], float | None] = lambda: None
    _passed: int = 0

    @property
    def together(self) -> int:
        """How many calls are a sample."""
        resolution_s = get_clock_info("perf_counter").resolution
        return max(1, math.ceil(SHORT_S / max(self.typical_s, resolution_s)))

    def slice(self, call: Callable[[], object], seconds: float) -> Slice:
        """Warm the caches up for an eighth of the time, then time calls for `seconds`, at least one."""
        import statistics

        clock, together = self.clock, self.together
        began = clock()
        while self.typical_s < seconds and clock() - began < seconds / 8:
            call()
        samples: list[float] = []
        used_j = self.meter()
        began = end = clock()
        while end - began < seconds or not samples:
            start = clock()
            for _ in range(together):
                call()
            end = clock()
            samples.append((end - start) / together)
        now_j = self.meter()
        every = max(1, math.ceil(seconds / max(self.typical_s * together, SHORT_S) / KEPT))
        kept = samples[(every // 2 - self._passed) % every :: every]
        self._passed = (self._passed + len(samples)) % every
        energy_j = None if used_j is None or now_j is None else now_j - used_j
        return Slice(statistics.median(samples), kept, len(samples) * together, energy_j)


def warmed(
    call: Callable[[], object], longest_s: float = 3.0, clock: Callable[[], float] = perf_counter
) -> tuple[Steady, float]:
    """Call until it is steady: in blocks of 50 ms or 3 calls each, until of two in a row the faster median is within 2%
    of the fastest before. What disturbs one block, which can only slow it down, does not hold this up.

    Gives after how much it was, and the last block's median in seconds; gives up after longest_s, or after one block of
    calls that are longer than a tenth of it.
    """
    import statistics

    medians: list[float] = []
    began, calls = clock(), 0
    while True:
        block: list[float] = []
        block_began = clock()
        while len(block) < 3 or clock() - block_began < 0.05:
            start = clock()
            call()
            block.append(clock() - start)
        calls += len(block)
        medians.append(statistics.median(block))
        best, last = min(medians[:-2], default=0.0), min(medians[-2:])
        steady = best / (1 + STEADY) <= last <= best * (1 + STEADY)
        if steady or clock() - began >= longest_s or medians[-1] > longest_s / 10:
            return Steady(steady, calls, clock() - began), medians[-1]


def call_overhead_s(clock: Callable[[], float] = perf_counter) -> float:
    """What timing adds to a call, in seconds: the median of a session that does nothing."""
    return Timer(1.0, clock).slice(lambda: None, 0.01).median_s
