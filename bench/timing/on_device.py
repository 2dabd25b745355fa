"""What a case did on a device other than the CPU: its time there, memory, energy, and what to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.errors import BenchError
from bench.machine.devices import DeviceCounters, devices
from bench.spec.outcome import OnDevice
from bench.timing.protocol import AskDevice, OnDeviceTimes
from bench.timing.sampling import QUICK
from bench.timing.session import JUDGING, WorkerSession
from bench.timing.settings import Bench

METERED_S = 5.0  # of calls whose energy is read: NVML's counter moves every 0.1 s


@dataclass(frozen=True)
class DeviceFigures:
    """The record's entry on the device, None for the CPU; and lines on what to know of it."""

    facts: OnDevice | None = None
    warnings: tuple[str, ...] = ()


def on_device(session: WorkerSession, bench: Bench, counters: Sequence[DeviceCounters]) -> DeviceFigures:
    """What the case of a session did on its device; nothing on the CPU. A failure loses these figures alone.

    counters  the device's after each pass of sampling.
    """
    device = devices.get(session.case.device)
    described = device.describe(bench.device_index)
    if described is None:
        return DeviceFigures()
    clocks = [each.mhz for each in counters if each.mhz is not None]
    heat = [each.celsius for each in counters if each.celsius is not None]
    facts = OnDevice(described, mhz=min(clocks, default=None), celsius=max(heat, default=None))
    metered_s = 0.0 if bench.plan == QUICK else METERED_S
    try:
        times = session.ask(AskDevice(metered_s), JUDGING)
    except BenchError as error:
        return DeviceFigures(facts, (f"not timed on the device: {error}",))
    return _figures(facts, times, metered_s)


def _figures(facts: OnDevice, times: OnDeviceTimes, metered_s: float) -> DeviceFigures:
    call, meter = times.call, times.meter
    facts = replace(facts, allocated_bytes=times.allocated_bytes, used_bytes=times.used_bytes)
    warnings = () if times.reason is None else (f"not timed on the device: {times.reason}",)
    if call is not None:
        bound = call.issue_s > call.device_s
        facts = replace(facts, device_s=call.device_s, issue_s=call.issue_s, launch_bound=bound)
        if bound:
            warnings = (
                f"launch-bound: the host takes {1e3 * call.issue_s:.3g} ms to issue what the device computes in "
                f"{1e3 * call.device_s:.3g} ms",
            )
    if meter is not None:
        facts = replace(facts, energy_j_per_call=meter.joules / meter.calls, energy_s=metered_s, idle_w=meter.idle_w)
    return DeviceFigures(facts, warnings)
