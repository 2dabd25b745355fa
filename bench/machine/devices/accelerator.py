"""What all devices that PyTorch calls accelerators share: its own words for queue, events and memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.machine.devices.device import Device, Spell
from bench.spec.outcome import DeviceFacts


class Accelerator(Device):
    """A device by `torch.accelerator`. PyTorch is imported in the process that uses the device alone."""

    fp32_db = 90.0  # FP32 keeps 100 dB and more of the CPU's FP32; TF32 some 70

    def missing(self, index: int) -> str | None:
        """Return why not: this PyTorch finds no such device."""
        try:
            import torch
        except ImportError:
            return f"{self.name} needs torch, which is not installed"
        count = getattr(torch, self.name).device_count()
        return None if index < count else f"there is no {self.name} {index}: torch {torch.__version__} finds {count}"

    def describe(self, index: int) -> DeviceFacts:
        """The device's kind and number alone."""
        return DeviceFacts(kind=self.name, index=index)

    def synchronize(self) -> None:
        """Wait until the device has done all that this process queued."""
        import torch

        torch.accelerator.synchronize()

    def hold(self, seconds: float) -> None:
        """Let the device idle for so many seconds before it does what is queued next; needs not be exact."""

    def spell(self, call: Callable[[], object], count: int, hold_s: float) -> Spell | None:
        """Time calls by two events in the device's queue."""
        import torch

        start, end = (torch.Event(self.name, enable_timing=True) for _ in range(2))
        torch.accelerator.synchronize()
        if hold_s:
            self.hold(hold_s)
        start.record()
        began = time.perf_counter()
        for _ in range(count):
            call()
        issued = time.perf_counter()
        end.record()
        torch.accelerator.synchronize()
        return Spell(start.elapsed_time(end) / 1e3 / count, (issued - began) / count)

    def works(self) -> bool | None:
        """Whether PyTorch's allocator has given memory out; None where it has not, but another library may have."""
        return True if self.allocated_bytes() else None

    def allocated_bytes(self) -> int | None:
        """The most that PyTorch's allocator had given out."""
        import torch

        return int(torch.accelerator.memory.max_memory_allocated())
