"""The devices that networks run on. One file a device; importing it imports none of the packages that it drives."""

from __future__ import annotations

from bench.machine.devices.device import Device, DeviceCounters
from bench.spec.registry import Registry

__all__ = ["Device", "DeviceCounters", "devices"]

devices: Registry[Device] = Registry("device")
devices.add("cpu", "bench.machine.devices.cpu:DEVICE")
devices.add("cuda", "bench.machine.devices.cuda:DEVICE")
devices.add("mps", "bench.machine.devices.mps:DEVICE")
devices.add("xpu", "bench.machine.devices.xpu:DEVICE")
devices.add("fake", "bench.machine.devices.fake:DEVICE")
