"""How often a session is called, and when it has been called enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Schedule:
    """How long to warm up and to sample.

    Both last until their time is over AND their least number of calls is done; `most_rounds` ends sampling early,
    and so does `patience_s`, which bounds the whole of it for a model that takes seconds a call.
    """

    warmup_s: float = 0.5
    warmup_calls: int = 5
    sampling_s: float = 1.0
    least_rounds: int = 30
    most_rounds: int = 5000
    patience_s: float = 20.0


def sample(call: Callable[[], object], schedule: Schedule, clock: Callable[[], float] = perf_counter) -> list[float]:
    """Warm up, then time single calls: the duration of each in seconds, in the order in which they were made.

    `clock` gives seconds and is read right before and right after each timed call.
    """
    began = clock()
    calls = 0
    while clock() - began < schedule.patience_s / 2 and (
        calls < schedule.warmup_calls or clock() - began < schedule.warmup_s
    ):
        call()
        calls += 1
    samples: list[float] = []
    began = now = clock()
    while len(samples) < schedule.most_rounds and now - began < schedule.patience_s:
        if len(samples) >= schedule.least_rounds and now - began >= schedule.sampling_s:
            break
        start = clock()
        call()
        now = clock()
        samples.append(now - start)
    return samples
