"""Apple's GPUs by PyTorch. Written by PyTorch's documentation; nothing here was measured on such a device yet."""

from __future__ import annotations

from bench.machine.devices.accelerator import Accelerator
from bench.spec.outcome import DeviceFacts


class Mps(Accelerator):
    """The GPU of an Apple processor."""

    name = "mps"

    def missing(self, index: int) -> str | None:
        """Return why not: this PyTorch finds no such device."""
        try:
            import torch
        except ImportError:
            return "mps needs torch, which is not installed"
        count = torch.mps.device_count()
        return None if index < count else f"there is no Apple GPU {index}: torch {torch.__version__} finds {count}"

    def describe(self, index: int) -> DeviceFacts:
        """The device's kind and number alone."""
        return DeviceFacts(kind=self.name, index=index)


DEVICE = Mps()
