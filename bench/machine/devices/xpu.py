"""Intel's GPUs by PyTorch. Written by PyTorch's documentation; nothing here was measured on such a device yet."""

from __future__ import annotations

from bench.machine.devices.accelerator import Accelerator
from bench.spec.outcome import DeviceFacts


class Xpu(Accelerator):
    """An Intel GPU."""

    name = "xpu"

    def missing(self, index: int) -> str | None:
        """Return why not: this PyTorch finds no such device."""
        try:
            import torch
        except ImportError:
            return "xpu needs torch, which is not installed"
        count = torch.xpu.device_count()
        return None if index < count else f"there is no Intel GPU {index}: torch {torch.__version__} finds {count}"

    def describe(self, index: int) -> DeviceFacts:
        """The device's kind and number alone."""
        return DeviceFacts(kind=self.name, index=index)

    def environment(self, index: int) -> dict[str, str]:
        """The device by its number."""
        return {"ZE_AFFINITY_MASK": str(index)}


DEVICE = Xpu()
