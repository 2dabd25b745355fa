"""What on this machine makes figures worse, and what to type against it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.machine.devices import Device
    from bench.machine.facts import Machine


def findings(machine: Machine, load: float, pinning: bool, energy: bool, gpus: Iterable[str] = ()) -> list[str]:
    """A line for each thing that makes figures worse: what it is, its effect, what to type.

    machine  from `bench.machine.facts.describe`.
    load     mean number of busy processes in the last minute.
    pinning  whether processes can be bound to cores.
    energy   whether RAPL can be read.
    gpus     the lines of `gpu_findings`.
    """
    lines = list(gpus)
    governor = machine.governor
    if governor not in (None, "performance"):
        lines.append(f"CPU governor is {governor}: clocks follow the load; sudo cpupower frequency-set -g performance")
    if machine.smt:
        lines.append("SMT is on: two threads share a core; echo off | sudo tee /sys/devices/system/cpu/smt/control")
    if load > 0.25:
        lines.append(f"{load:.1f} processes are busy: find them by top, and end or move them")
    cores = machine.cores_logical or 1
    quota = None if machine.cgroup is None else machine.cgroup.cpus
    if quota is not None and quota < cores:
        lines.append(f"the control group may use {quota:g} of {cores} CPUs: calls are cut short; start without --cpus")
    affinity = machine.affinity
    if affinity is not None and len(affinity) < cores:
        lines.append(f"bound to {len(affinity)} of {cores} CPUs: larger thread counts are not bound; see taskset -p")
    isa = set(machine.isa or ())
    if isa.isdisjoint(("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")):
        lines.append("no INT8 dot product (VNNI, AMX, dotprod): INT8 gains little here; measure on a newer CPU")
    if machine.hypervisor:
        lines.append("a virtual machine: neighbours take time unseen; watch steal_share, or use a machine of one's own")
    if not pinning:
        lines.append("this system binds no process to cores: intervals are wider; use Linux for figures to publish")
    if not energy:
        lines.append("energy cannot be read; where there is RAPL: sudo chmod -R a+r /sys/class/powercap/intel-rapl*")
    return lines


def gpu_findings(device: Device, index: int = 0) -> list[str]:
    """A line for each thing that makes a device's figures worse; none where there is no such device."""
    if device.missing(index) is not None:
        return []
    facts, counters = device.describe(index), device.counters(index)
    name = f"{device.name}:{index}" if facts is None or facts.name is None else facts.name
    lines = [f"{name}: {advice}" for advice in device.advice(index)]
    if counters is not None and counters.processes:
        lines.append(f"{name}: {len(counters.processes)} processes compute there: end them, or choose another device")
    return lines


def examine() -> list[str]:
    """The findings about this machine at this moment."""
    import psutil

    from bench.machine.devices import devices
    from bench.machine.facts import describe, energy_j

    gpus = gpu_findings(devices.get("cuda"))
    pinning = hasattr(os, "sched_setaffinity")
    return findings(describe(), psutil.getloadavg()[0], pinning, energy_j() is not None, gpus)
