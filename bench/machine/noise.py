"""What disturbed the machine while a case was measured.

A control probe is an FP32 product, an INT8 product and a memory copy, timed before each pass in a process of its own
that no case touches: if a probe is slower than its best, the machine was slower, not the case. `best` is the highest
per-case median of any session: a session in a slow hour has no fast reference of its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.machine.devices import DeviceCounters
from bench.machine.devices.device import disturbances
from bench.machine.facts import whole_number
from bench.machine.pace import fallen

FOREIGN_CORES = 0.1
STEAL_SHARE = 0.005
CLOCK_SHARE = 0.9


def snapshot(pids: list[int], device: DeviceCounters | None = None) -> Counters:
    """The current counters; `own_s` is of this process and of those in `pids`.

    device  the counters of the case's device.
    """
    cpu = psutil.cpu_times()
    own = 0.0
    for pid in (os.getpid(), *pids):
        with contextlib.suppress(psutil.NoSuchProcess):  # it died: its next caller reports that
            used = psutil.Process(pid).cpu_times()
            own += used.user + used.system
    idle = cpu.idle + getattr(cpu, "iowait", 0.0) + getattr(cpu, "steal", 0.0)
    throttles = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    counts = [count for path in throttles if (count := whole_number(path)) is not None]
    return Counters(
        at_s=time.monotonic(),
        # guest time is part of user time, and counted there
        busy_s=sum(cpu) - idle - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0),
        own_s=own,
        steal_s=getattr(cpu, "steal", None),
        throttled=sum(counts) if counts else None,
        mhz=_mhz(),
        device=device,
    )


def _mhz() -> float | None:
    clocks: Sequence[Any] = ()
    if hasattr(psutil, "cpu_freq"):
        with contextlib.suppress(OSError, RuntimeError):  # some kernels' files for it are not there, or odd
            clocks = psutil.cpu_freq(percpu=True)
    return max((clock.current for clock in clocks or ()), default=None)


@dataclass(frozen=True)
class Clock:
    """The range of the fastest CPU's clock in MHz; None where the system does not say."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Noise:
    """What disturbed a measurement.

    verdict        "steady", or "noisy" where `why` has a reason.
    foreign_cores  mean number of CPUs that other processes used.
    steal_share    share 0..1 of all CPU time that the hypervisor took.
    throttled      how often the CPU was throttled for heat.
    involuntary_switches  of the first session's process.
    probes         the figures of the control probes, in order of time.
    best           the best figure of each probe on this machine, see `Pace`.
    """

    verdict: str | None = None
    why: tuple[str, ...] = ()
    foreign_cores: float | None = None
    steal_share: float | None = None
    throttled: int | None = None
    mhz: Clock | None = None
    involuntary_switches: int | None = None
    probes: tuple[dict[str, float], ...] = ()
    best: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Counters:
    """Counters at a moment, in seconds since an arbitrary start; None where the system does not say.

    busy_s, steal_s  of all CPUs; own_s  of this process and its workers.
    throttled        how often the CPU was throttled for heat; mhz  the fastest CPU's clock.
    device           those of the case's device, None for the CPU.
    """

    at_s: float
    busy_s: float
    own_s: float
    steal_s: float | None = None
    throttled: int | None = None
    mhz: float | None = None
    device: DeviceCounters | None = None


@dataclass
class Watch:
    """Sums over pairs of snapshots, and the verdict on them."""

    elapsed_s: float = 0.0
    foreign_s: float = 0.0
    steal_s: float | None = 0.0
    throttled: int = 0
    switches: int | None = None
    mhz: list[float] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    device: list[DeviceCounters] = field(default_factory=list)
    own: set[int] = field(default_factory=set)

    def add(self, before: Counters, after: Counters) -> None:
        """Add the time between two snapshots."""
        self.elapsed_s += after.at_s - before.at_s
        self.foreign_s += max(0.0, after.busy_s - before.busy_s - (after.own_s - before.own_s))
        if self.steal_s is not None and after.steal_s is not None and before.steal_s is not None:
            self.steal_s += max(0.0, after.steal_s - before.steal_s)  # kernels have let it go backwards
        else:
            self.steal_s = None
        self.throttled += max(0, (after.throttled or 0) - (before.throttled or 0))
        self.mhz += [] if after.mhz is None else [after.mhz]
        self.device += [] if after.device is None else [after.device]

    def noise(self, best: dict[str, float]) -> Noise:
        """The verdict on all added time.

        best  the best figure of each control probe, see `Pace`.
        """
        cores = psutil.cpu_count() or 1
        foreign = self.foreign_s / self.elapsed_s if self.elapsed_s else 0.0
        steal = None if self.steal_s is None or not self.elapsed_s else self.steal_s / self.elapsed_s / cores
        why = []
        if foreign > FOREIGN_CORES:
            why.append(f"other processes used {foreign:.2f} cores")
        if steal is not None and steal > STEAL_SHARE:
            why.append(f"the hypervisor took {steal:.1%} of the CPUs' time")
        if self.throttled:
            why.append(f"the CPU was throttled for heat {self.throttled} times")
        slowest, fastest = min(self.mhz, default=None), max(self.mhz, default=None)
        if slowest is not None and fastest is not None and slowest < CLOCK_SHARE * fastest:
            why.append(f"the CPU's clock ranged from {slowest:.0f} to {fastest:.0f} MHz")
        why += disturbances(self.device, self.own)
        why += fallen(self.probes, best)
        return Noise(
            verdict="noisy" if why else "steady",
            why=tuple(why),
            foreign_cores=foreign,
            steal_share=steal,
            throttled=self.throttled,
            mhz=Clock(slowest, fastest),
            involuntary_switches=self.switches,
            probes=tuple(self.probes),
            best=best,
        )
