"""Apple's GPUs by PyTorch. Written by PyTorch's documentation; nothing here was measured on such a device yet."""

from __future__ import annotations

from bench.machine.devices.accelerator import Accelerator


class Mps(Accelerator):
    """The GPU of an Apple processor."""

    name = "mps"


DEVICE = Mps()
