"""Intel's GPUs by PyTorch. Written by PyTorch's documentation; nothing here was measured on such a device yet."""

from __future__ import annotations

from bench.machine.devices.accelerator import Accelerator


class Xpu(Accelerator):
    """An Intel GPU."""

    name = "xpu"

    def environment(self, index: int) -> dict[str, str]:
        """The device by its number."""
        return {"ZE_AFFINITY_MASK": str(index)}


DEVICE = Xpu()
