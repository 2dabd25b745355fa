"""What is asked of a device; each file beside this one answers for a kind of them.

A call returns when its outputs are with the host; a device may have a queue of its own that runs on meanwhile.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bench.spec.outcome import DeviceFacts

CLOCK_SHARE = 0.9  # a clock below this share of its highest is a reason to call a case noisy
ON_DEVICE_S = 1e-3  # calls timed together on a device: its events resolve half a microsecond
RUNS = 20  # of these, whose median counts
HOLD, LEAST_ISSUE_S = 3, 20e-6  # the device idles for so many times as long as the host needs to issue the calls
QUEUED = 8  # calls queued at most: a driver's queue holds some thousand kernels and then blocks


@dataclass(frozen=True)
class DeviceCounters:
    """A device's counters of one moment; None and () where it does not tell.

    mhz        the clock of its arithmetic units.
    celsius    its temperature.
    throttled  why it keeps its clock down, other than for idling: "power cap", "heat", ...
    processes  the numbers of all processes that compute on it.
    """

    mhz: float | None = None
    celsius: float | None = None
    throttled: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Spell:
    """Calls on resident inputs, in seconds a call: on the device by its own clock, and until the host had issued it."""

    device_s: float
    issue_s: float


@dataclass(frozen=True)
class Meter:
    """The energy of a block of calls and of the idle device beside it.

    joules, calls  of the block.
    idle_w         watts of the idle device just before it.
    """

    joules: float
    calls: int
    idle_w: float | None = None


class Device:
    """A kind of device; a member answers what it can, and the rest as here.

    `index` counts its devices from 0, as the system shows them to this process.

    name      as the axis `device` has it.
    fp32_db   the least SQNR in dB against PyTorch's FP32 on the CPU that counts as computed in FP32.
    slice_s   seconds that a side calls before it is the other's turn.
    queues    whether it has a queue of its own, which runs on when a call that does not wait has returned.
    """

    name: str = ""
    fp32_db: float = 60.0
    slice_s: float = 0.04
    queues: bool = True

    # asked from outside of the process that uses it

    def missing(self, index: int) -> str | None:
        """Return why cases cannot run on it here, and what to do; None where they can."""
        return None

    def describe(self, index: int) -> DeviceFacts | None:
        """What it is; None for the CPU, which the machine's facts describe."""
        return None

    def environment(self, index: int) -> dict[str, str]:
        """Environment variables by which a process sees this device alone."""
        return {}

    def counters(self, index: int) -> DeviceCounters | None:
        """Its counters now; None where it has none."""
        return None

    def free_bytes(self, index: int) -> int | None:
        """Its free memory; None where it has none of its own."""
        return None

    def advice(self, index: int) -> list[str]:
        """What would make its figures steadier, and what to type, a line each."""
        return []

    # asked in the process that uses it

    def synchronize(self) -> None:
        """Wait until the device has done all that this process queued."""

    def spell(self, call: Callable[[], object], count: int, hold_s: float) -> Spell | None:
        """Time `count` calls by the device's own clock. The device idles for `hold_s` seconds first, so that the calls
        are queued when it begins; None where it has no clock.
        """
        return None

    def works(self) -> bool | None:
        """Whether this process has used the device; None where that cannot be told."""
        return None

    def allocated_bytes(self) -> int | None:
        """The most memory that this process's framework had allocated on the device; None where unknown."""
        return None

    def used_bytes(self) -> int | None:
        """The memory of the device that this process holds, with its context and libraries; None where unknown."""
        return None

    def energy_j(self) -> float | None:
        """Joules since some start; None where it cannot be read."""
        return None


def on_device(device: Device, call: Callable[[], object]) -> Spell | None:
    """The time of a call on resident inputs by the device's own clock, and the host's time to issue it.

    The device idles while the host fills its queue, so that a host that is slow to issue does not lengthen the device's
    time. None where the device has no clock, or where a call waits for the device, so that nothing can be queued.
    """
    first = device.spell(call, 1, 0.0)
    if first is None:
        return None
    count = min(QUEUED, max(1, math.ceil(ON_DEVICE_S / max(first.device_s, 1e-6))))
    free = [spell for _ in range(RUNS) if (spell := device.spell(call, count, 0.0)) is not None]
    issue_s = statistics.median(spell.issue_s for spell in free)
    hold_s = HOLD * count * max(issue_s, LEAST_ISSUE_S)
    held = [spell for _ in range(RUNS) if (spell := device.spell(call, count, hold_s)) is not None]
    if statistics.median(spell.issue_s for spell in held) * count > hold_s:
        return None
    return Spell(statistics.median(spell.device_s for spell in held), issue_s)


def disturbances(after: Sequence[DeviceCounters], own: Collection[int]) -> list[str]:
    """What disturbed a device, a line each, by its counters after each pass; `own` are the harness's processes."""
    why = [
        f"the device kept its clock down: {reason}"
        for reason in dict.fromkeys(reason for counters in after for reason in counters.throttled)
    ]
    clocks = [counters.mhz for counters in after if counters.mhz is not None]
    if clocks and min(clocks) < CLOCK_SHARE * max(clocks):
        why.append(f"the device's clock ranged from {min(clocks):.0f} to {max(clocks):.0f} MHz")
    foreign = max((foreign_processes(counters, own) for counters in after), default=0)
    if foreign:
        why.append(f"{foreign} other processes computed on the device")
    return why


def foreign_processes(counters: DeviceCounters, own: Collection[int]) -> int:
    """How many processes that are not the harness's compute on a device.

    In a container the driver may tell the host's process numbers: where it names none of ours, only more processes than
    there are of ours are foreign.
    """
    others = set(counters.processes) - set(own)
    return len(others) if len(others) < len(counters.processes) else max(0, len(others) - len(own))
