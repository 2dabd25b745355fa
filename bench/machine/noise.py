"""What else the machine did while a case was measured, and what it can do at the best: control probes, and peaks.

A probe is an fp32 product, an int8 product and a memory copy in a process of its own that no case touches: when it is
slower than at its best, the machine was, not the case. The best is what this machine has kept up over a whole case, in
any session: one that is held in an hour when everything is slower would know nothing better. A probe is cheap enough to
be made before each pass; the peak, of which a case's pace is a share, is the best of several products and convolutions.
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

from bench.machine.facts import whole_number
from bench.machine.pace import fallen

FOREIGN_CORES = 0.1
STEAL_SHARE = 0.005
CLOCK_SHARE = 0.9


def snapshot(pids: list[int]) -> dict[str, float | None]:
    """Counters of now, in seconds since some start: `busy_s` and `steal_s` of all CPUs, `own_s` of this process and
    those with the numbers `pids`; the count of thermal throttling, `throttled`, and the fastest CPU's clock, `mhz`,
    None where the system does not tell.
    """
    cpu = psutil.cpu_times()
    own = 0.0
    for pid in (os.getpid(), *pids):
        with contextlib.suppress(psutil.NoSuchProcess):  # it died: whoever asks it next says so
            used = psutil.Process(pid).cpu_times()
            own += used.user + used.system
    idle = cpu.idle + getattr(cpu, "iowait", 0.0) + getattr(cpu, "steal", 0.0)
    throttles = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    counts = [count for path in throttles if (count := whole_number(path)) is not None]
    return {
        "at_s": time.monotonic(),
        # guest time is part of user time, and counted there
        "busy_s": sum(cpu) - idle - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0),
        "steal_s": getattr(cpu, "steal", None),
        "own_s": own,
        "throttled": sum(counts) if counts else None,
        "mhz": _mhz(),
    }


def _mhz() -> float | None:
    clocks: Sequence[Any] = ()
    if hasattr(psutil, "cpu_freq"):
        with contextlib.suppress(OSError, RuntimeError):  # some kernels' files for it are not there, or odd
            clocks = psutil.cpu_freq(percpu=True)
    return max((clock.current for clock in clocks or ()), default=None)


@dataclass
class Watch:
    """Adds up what happened between pairs of snapshots; the verdict is over all of them."""

    elapsed_s: float = 0.0
    foreign_s: float = 0.0
    steal_s: float | None = 0.0
    throttled: int = 0
    switches: int | None = None
    mhz: list[float] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)

    def add(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Count what lies between two snapshots."""
        self.elapsed_s += after["at_s"] - before["at_s"]
        self.foreign_s += max(0.0, after["busy_s"] - before["busy_s"] - (after["own_s"] - before["own_s"]))
        if self.steal_s is not None and after["steal_s"] is not None:
            self.steal_s += max(0.0, after["steal_s"] - before["steal_s"])  # kernels have let it go backwards
        else:
            self.steal_s = None
        self.throttled += max(0, (after["throttled"] or 0) - (before["throttled"] or 0))
        self.mhz += [] if after["mhz"] is None else [after["mhz"]]

    def noise(self, best: dict[str, float]) -> dict[str, Any]:
        """Give `verdict`, "steady" or "noisy", `why`, and the figures behind it.

        best  the best figure of each probe, as `Pace` knows it.
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
        why += fallen(self.probes, best)
        return {
            "verdict": "noisy" if why else "steady",
            "why": why,
            "foreign_cores": foreign,
            "steal_share": steal,
            "throttled": self.throttled,
            "mhz": {"low": slowest, "high": fastest},
            "involuntary_switches": self.switches,
            "probes": self.probes,
            "best": best,
        }
