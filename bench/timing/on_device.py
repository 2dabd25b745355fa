"""What a case did on a device other than the CPU: its time there, memory, energy, and what to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.errors import BenchError
from bench.machine.devices import DeviceCounters, devices
from bench.spec.outcome import OnDevice
from bench.timing.bench import Bench
from bench.timing.protocol import AskDevice, OnDeviceTimes
from bench.timing.sampling import QUICK
from bench.timing.session import JUDGING, WorkerSession

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
    metered_s = METERED_S if device.resolves is not None and bench.plan != QUICK else 0.0
    try:
        times = session.ask(AskDevice(metered_s), JUDGING)
    except BenchError as error:
        return DeviceFigures(facts, (f"not timed on the device: {error}",))
    return _figures(facts, times, metered_s)


def _figures(facts: OnDevice, times: OnDeviceTimes, metered_s: float) -> DeviceFigures:
    device_s, issue_s, meter = times.device_s, times.issue_s, times.meter
    warnings = () if times.reason is None else (f"not timed on the device: {times.reason}",)
    bound = None if device_s is None or issue_s is None else issue_s > device_s
    if bound and device_s is not None and issue_s is not None:
        warnings = (
            f"launch-bound: the host takes {1e3 * issue_s:.3g} ms to issue what the device computes in "
            f"{1e3 * device_s:.3g} ms",
        )
    facts = replace(
        facts,
        device_s=device_s,
        issue_s=issue_s,
        launch_bound=bound,
        allocated_bytes=times.allocated_bytes,
        used_bytes=times.used_bytes,
    )
    if meter is not None:
        facts = replace(facts, energy_j_per_call=meter.joules / meter.calls, energy_s=metered_s, idle_w=meter.idle_w)
    return DeviceFigures(facts, warnings)
