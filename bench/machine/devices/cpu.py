"""The CPU: all that is asked of other devices is in the machine's facts, its noise and its process's usage."""

from __future__ import annotations

from bench.machine.devices.device import Device


class Cpu(Device):
    """The machine's processor."""

    name = "cpu"
    queues = False


DEVICE = Cpu()
