"""How a session is called and timed, and how a case is sampled in turn with its baseline.

A launch is a pair of fresh processes, one for each side. It has rounds; in a round each side makes its calls for a
slice of time while the other is suspended, and the order alternates from round to round. What disturbs the machine for
longer than a round disturbs both sides alike; what differs from process to process is seen between launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

KEPT = 32
SHORT_S = 20e-6
STEADY = 0.02
PATIENCE = 3


@dataclass(frozen=True)
class Plan:
    """When a case has been sampled enough.

    interval        the half-width at which its speed-up is known well enough, relative: 0.005 is 0.5%.
    budget_s        the time for starting and sampling after which no further pass is made.
    least_launches  pairs of processes to begin with; three of them, where starting these takes half of the budget.
    most_launches   pairs that are there at the most: one is added while the interval is too wide and there is time,
    starting        and while starting takes no more than this share of the budget.
    least_passes    how often all pairs are sampled in turn at least, for pass_s each: a disturbance of seconds then
                    falls on a part of each pair's rounds, whose median does not feel it, and not on the whole of one.
    least_samples   how many calls of the case there are at least, for up to three budgets: a median has an interval of
                    its own from six on, and engines that are slow to start have little of the budget left.
    slice_s         how long one side calls before it is the other's turn.
    """

    interval: float = 0.005
    budget_s: float = 20.0
    least_launches: int = 4
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

    def enough(self, passes: int, samples: int, half_width: float | None, spent_s: float) -> bool:
        """Whether to stop after so many passes and samples, an interval so wide (None: unknown) and so much time."""
        known = self.most_launches == 1 or (half_width is not None and half_width <= self.interval)
        few = samples < self.least_samples and spent_s < PATIENCE * self.budget_s
        return passes >= self.least_passes and not few and (known or spent_s >= self.budget_s)


QUICK = Plan(least_launches=1, most_launches=1)


@dataclass(frozen=True)
class Slice:
    """What one side did in its turn: the median call, some of the calls evenly taken, how many there were; seconds."""

    median_s: float
    samples_s: list[float]
    calls: int


@dataclass
class Launch:
    """One pair of processes: for each round the median call of either side in seconds, and samples of the case's."""

    case_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)
    samples_s: list[float] = field(default_factory=list)
    calls: int = 0


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
                round_s, launch.calls = taken.median_s, launch.calls + taken.calls
                launch.samples_s += taken.samples_s
        launch.case_s.append(round_s)


# What follows runs in the worker's process.


def timed(
    call: Callable[[], object], seconds: float, typical_s: float, clock: Callable[[], float] = perf_counter
) -> Slice:
    """Warm the caches up for an eighth of the time, then time calls for `seconds`, at least one.

    typical_s  what a call takes: one that is longer than the slice needs no warming, and one that is so short that
               the clock matters is made several times a sample.
    """
    import statistics

    began = clock()
    while typical_s < seconds and clock() - began < seconds / 8:
        call()
    together = max(1, math.ceil(SHORT_S / typical_s)) if typical_s > 0 else 1
    samples: list[float] = []
    began = end = clock()
    while end - began < seconds or not samples:
        start = clock()
        for _ in range(together):
            call()
        end = clock()
        samples.append((end - start) / together)
    every = math.ceil(len(samples) / KEPT)
    return Slice(statistics.median(samples), samples[::every], len(samples) * together)


def warmed(
    call: Callable[[], object], longest_s: float = 3.0, clock: Callable[[], float] = perf_counter
) -> dict[str, Any]:
    """Call until it is steady: in blocks of 50 ms or 3 calls each, until of two in a row the faster median is within 2%
    of the fastest before. What disturbs one block, which can only slow it down, does not hold this up.

    Gives `steady`, `calls` and `seconds` until then, and `typical_s`, the last block's median; gives up after
    longest_s, or after one block of calls that are longer than a tenth of it.
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
            return {"steady": steady, "calls": calls, "seconds": clock() - began, "typical_s": medians[-1]}


def call_overhead_s(clock: Callable[[], float] = perf_counter) -> float:
    """What timing adds to a call, in seconds: the median of a session that does nothing."""
    return timed(lambda: None, 0.01, 1.0, clock).median_s
