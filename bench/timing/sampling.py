"""Times a session's calls, and samples a case in turn with its baseline.

A launch is a pair of fresh processes, a process for each side. It has rounds: in a round each side calls for a slice of
time while the other is suspended, and the order alternates from round to round. A disturbance longer than a round
affects both sides alike; differences between processes show as differences between launches.

The number of launches is set in two stages, by Stein's rule. Stopping as soon as an interval looks narrow enough picks
the runs whose launches agree by chance: with 0.8% from launch to launch, 92.2% of such intervals covered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import get_clock_info, perf_counter
from typing import Protocol

from bench.spec.outcome import Steady
from bench.statistics import launch_deviation, student

KEPT = 32  # samples kept of a slice, where calls take their typical time
SHORT_S = 20e-6  # calls shorter than this are timed several together: the clock matters to them
LEFT_SHARE, LEFT_S = 0.5, 50e-6  # of a call, and seconds: a call that leaves more on its device does not wait for it
LEFT_TRIES = 5  # whose least counts: what disturbs a wait only lengthens it
STEADY = 0.02  # relative difference of block medians up to which times count as steady
PATIENCE = 3  # how many budgets may be spent to reach `least_samples`


@dataclass(frozen=True)
class Plan:
    """Decides when a case has been sampled enough.

    Time alone decides the launches and passes of the first stage. Its standard deviation then says how many launches
    the interval needs. The second stage begins as many of these as the budget allows, and samples each for as long. The
    interval keeps the first stage's deviation, which is independent of the mean of all launches: its coverage holds
    whatever the deviation is and wherever the budget ends the run. Source: Stein 1945, "A two-sample test for a linear
    hypothesis whose power is independent of the variance".

    interval        the relative half-width at which the speed-up is known well enough: 0.005 is 0.5%.
    budget_s        seconds of starting and sampling after which nothing more is begun.
    least_launches  pairs of processes to begin with; three, where starting three takes half of the budget.
    first_launches  the largest number of pairs in the first stage, while starting takes at most the share `starting`.
    most_launches   the largest number of pairs in both stages.
    starting        the largest share of the budget for starting both sides; beyond it no further launches are begun.
    least_passes    how often all pairs are sampled in turn at least: a disturbance of seconds then falls on a part of
                    each pair's rounds, whose median does not feel it, and not on all rounds of a pair.
    pass_s          seconds for each pair in a pass.
    least_samples   the least number of samples of the case, for up to three budgets: a median has an interval of its
                    own from six samples on, and engines that are slow to start have little of the budget left.
    slice_s         seconds that a side calls before it is the other's turn.
    """

    interval: float = 0.005
    budget_s: float = 20.0
    least_launches: int = 4
    first_launches: int = 6
    most_launches: int = 8
    starting: float = 0.4
    least_passes: int = 2
    pass_s: float = 0.4
    least_samples: int = 6
    slice_s: float = 0.04

    @classmethod
    def within(cls, budget_s: float, interval: float = interval) -> Plan:
        """The plan for a budget: a larger budget samples the same processes for longer."""
        return cls(interval, budget_s, pass_s=max(cls.pass_s, budget_s / 25))

    def begun(self, spent_s: float, starting_s: float, start_s: float, launches: int) -> int:
        """How many launches the first stage has, given `launches` begun after `spent_s` seconds.

        Starting took `starting_s` of these seconds; each further launch takes `start_s`.
        """
        if 2 * spent_s >= self.budget_s:
            return launches
        left_s = self.starting * self.budget_s - starting_s
        further = int(left_s / start_s) if start_s > 0 else self.most_launches
        most = min(self.first_launches, self.most_launches)
        return max(launches, self.least_launches, min(most, launches + further))

    def staged(self, passes: int, samples: int, spent_s: float, last: bool) -> bool:
        """Whether the first stage is over. Its results never decide, so that its deviation is not selected.

        last  whether no second stage can follow; the first may then take the whole budget, otherwise half of it.
        """
        few = samples < self.least_samples and spent_s < PATIENCE * self.budget_s
        share = 0.0 if self.most_launches == 1 else 1.0 if last else 0.5
        return passes >= self.least_passes and not few and spent_s >= share * self.budget_s

    def wanted(self, deviation: float, first: int) -> int:
        """How many launches make the interval narrow enough, by the deviation of the `first` launches' log ratios."""
        return max(first, math.ceil((student(first) * deviation / math.asinh(self.interval)) ** 2))

    def affordable(self, spent_s: float, starting_s: float, start_s: float, sampling_s: float) -> int:
        """How many more launches fit in the budget, each started in `start_s` and sampled for `sampling_s` seconds."""
        starts = (self.starting * self.budget_s - starting_s) / start_s if start_s > 0 else math.inf
        each_s = start_s + sampling_s
        return max(
            0, int(min(starts, (self.budget_s - spent_s) / each_s if each_s > 0 else math.inf, self.most_launches))
        )


QUICK = Plan(least_launches=1, most_launches=1)


@dataclass(frozen=True)
class Slice:
    """A side's turn: the median of its samples and every n-th sample, in seconds a call, and the number of calls.

    energy_j  joules that the CPU packages used during exactly these calls; None where the system does not report it.
    """

    median_s: float
    samples_s: list[float]
    calls: int
    energy_j: float | None = None


@dataclass
class Launch:
    """A pair of processes: each side's median call in each round, and samples of the case's calls, in seconds."""

    case_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)
    samples_s: list[float] = field(default_factory=list)


class Launches(Protocol):
    """Launches as `two_stages` drives them: pairs of processes, or a simulation of them.

    launches    all launches that were begun, in order.
    starting_s  seconds that starting has taken so far.
    """

    launches: list[Launch]
    starting_s: float

    def begin(self, count: int) -> None:
        """Begin `count` more launches; none where `count` is not above 0."""
        ...

    def start_s(self) -> float:
        """Seconds to begin another launch."""
        ...

    def room(self) -> int:
        """How many launches fit in the machine's memory at the same time, at least 1."""
        ...

    def sample(self, since: int) -> None:
        """Sample all launches from index `since` on, in turn, for a pass; time for starting goes to `starting_s`."""
        ...


def two_stages(plan: Plan, pairs: Launches, baseline: bool, clock: Callable[[], float]) -> int:
    """Begin launches and sample them until the plan is fulfilled; returns how many belong to the first stage.

    baseline  whether there is a baseline, and so an interval to narrow.
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
    wanted = plan.wanted(launch_deviation([(launch.case_s, launch.baseline_s) for launch in pairs.launches]), first)
    more = plan.affordable(clock() - began, pairs.starting_s, pairs.start_s(), sampling_s / first)
    further = min(wanted, most, first + more) - first
    if further > 0:
        pairs.begin(further)
        for _ in range(passes):
            pairs.sample(first)
    return first


class Side(Protocol):
    """A session that can be sampled in turn with another session."""

    def take(self, seconds: float) -> Slice:
        """Call for `seconds`; the session does not run before or after."""
        ...


def paired(
    launch: Launch, case: Side, baseline: Side | None, seconds: float, slice_s: float, clock: Callable[[], float]
) -> None:
    """Sample both sides in turn for `seconds`, in an even number of rounds, and add the results to the launch.

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

    typical_s  seconds of a typical call. A call longer than the slice needs no warm-up. Calls so short that the clock
               matters are timed several together.
    clock      returns seconds.
    meter      returns the joules used since some start, None where the system does not report them.
    wait       waits until the device has done all that was queued; on the CPU there is no queue.

    It keeps every n-th sample, with n from `typical_s`, and counts on from slice to slice. So each kept sample stands
    for the same number of calls in slow and fast slices, and none is right after the warm-up more often than another.
    """

    typical_s: float
    clock: Callable[[], float] = perf_counter
    meter: Callable[[], float | None] = lambda: None
    wait: Callable[[], None] = lambda: None
    _passed: int = 0

    @property
    def together(self) -> int:
        """How many calls make a sample."""
        resolution_s = get_clock_info("perf_counter").resolution
        return max(1, math.ceil(SHORT_S / max(self.typical_s, resolution_s)))

    def slice(self, call: Callable[[], object], seconds: float) -> Slice:
        """Warm the caches for an eighth of `seconds`, then time calls for `seconds`, at least one sample.

        It returns with the device's queue empty: a suspended process's queue would run on in another's turn.
        """
        import statistics

        clock, together = self.clock, self.together
        began = clock()
        while self.typical_s < seconds and clock() - began < seconds / 8:
            call()
        self.wait()
        samples: list[float] = []
        used_j = self.meter()
        began = end = clock()
        while end - began < seconds or not samples:
            start = clock()
            for _ in range(together):
                call()
            end = clock()
            samples.append((end - start) / together)
        self.wait()
        now_j = self.meter()
        every = max(1, math.ceil(seconds / max(self.typical_s * together, SHORT_S) / KEPT))
        kept = samples[(every // 2 - self._passed) % every :: every]
        self._passed = (self._passed + len(samples)) % every
        energy_j = None if used_j is None or now_j is None else now_j - used_j
        return Slice(statistics.median(samples), kept, len(samples) * together, energy_j)


def warmed(
    call: Callable[[], object], longest_s: float = 3.0, clock: Callable[[], float] = perf_counter
) -> tuple[Steady, float]:
    """Call until times are steady. Returns whether they were, after how much, and the last block's median in seconds.

    A block has at least 3 calls and 50 ms. Times are steady when the faster median of two blocks in a row is within 2%
    of the fastest block before them. So a disturbance of a single block, which can only slow it, does not delay this.

    Gives up after `longest_s` seconds, or after a block whose median call is longer than a tenth of `longest_s`.
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


def left_over_s(
    call: Callable[[], object], wait: Callable[[], None], clock: Callable[[], float] = perf_counter
) -> tuple[float, float]:
    """Seconds of a call, and of the work that it leaves on the device when it returns: the least of several."""
    calls: list[float] = []
    lefts: list[float] = []
    for _ in range(LEFT_TRIES):
        wait()
        began = clock()
        call()
        returned = clock()
        wait()
        calls.append(returned - began)
        lefts.append(clock() - returned)
    return min(calls), min(lefts)


def call_overhead_s(clock: Callable[[], float] = perf_counter) -> float:
    """Seconds that timing adds to a call: the median of calls that do nothing."""
    return Timer(1.0, clock).slice(lambda: None, 0.01).median_s
