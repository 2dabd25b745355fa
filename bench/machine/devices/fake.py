"""A device that computes nothing: a queue that runs on its own, by a clock that a test may script.

It holds what is asked of a device, and of the harness with one, on machines that have none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench.machine.devices.device import Device, DeviceCounters, Spell
from bench.spec.outcome import DeviceFacts

THROTTLED = "BENCH_FAKE_THROTTLED"  # the environment variable that holds why its clock is down; absent: it is not
WATTS, IDLE_W = 300.0, 50.0


class Fake(Device):
    """A queue of work by its seconds.

    clock, sleep  the host's; `sleep` passes the seconds that the clock then shows.
    """

    name = "fake"
    fp32_db = 90.0

    def __init__(self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep):
        self._clock, self._sleep = clock, sleep
        self._began_s = clock()
        self._done_s = self._busy_s = 0.0

    def queue(self, seconds: float) -> None:
        """Queue work; the host goes on at once."""
        self._done_s = self._reached_s() + seconds
        self._busy_s += seconds

    def _reached_s(self) -> float:
        """When the device reaches what is queued now."""
        return max(self._clock(), self._done_s)

    def describe(self, index: int) -> DeviceFacts:
        """Its kind and number."""
        return DeviceFacts(kind=self.name, name="a device that computes nothing", index=index)

    def counters(self, index: int) -> DeviceCounters:
        """A steady clock, kept down for the reason that the environment gives."""
        reason = os.environ.get(THROTTLED)
        return DeviceCounters(mhz=1000.0, throttled=() if reason is None else (reason,))

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        left_s = self._done_s - self._clock()
        if left_s > 0:
            self._sleep(left_s)

    def spell(self, call: Callable[[], object], count: int, hold_s: float) -> Spell:
        """Time calls between two places of the queue."""
        self.synchronize()
        self.queue(hold_s)
        start_s, began = self._reached_s(), self._clock()
        for _ in range(count):
            call()
        issued, end_s = self._clock(), self._reached_s()
        self.synchronize()
        return Spell((end_s - start_s) / count, (issued - began) / count)

    def works(self) -> bool:
        """Whether anything was queued."""
        return self._busy_s > 0

    def energy_j(self) -> float:
        """Joules by a counter that moves every 0.1 s, as NVML's does."""
        passed_s = self._clock() - self._began_s
        joules = IDLE_W * passed_s + (WATTS - IDLE_W) * self._busy_s
        step = WATTS * 0.1
        return joules // step * step


DEVICE = Fake()
