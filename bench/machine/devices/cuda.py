"""NVIDIA's GPUs, by the management library NVML from outside and by PyTorch inside of a case's process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.machine.devices.accelerator import Accelerator
from bench.machine.devices.device import DeviceCounters
from bench.spec.outcome import DeviceFacts

VISIBLE = "CUDA_VISIBLE_DEVICES"
# why NVML says that a clock is kept down, by the names of its constants; idling and a clock that somebody set are none
THROTTLED = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slow-down",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat, by the hardware",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


class Cuda(Accelerator):
    """An NVIDIA GPU. Indices count the devices that CUDA_VISIBLE_DEVICES shows, in the order of the PCI bus."""

    name = "cuda"

    def missing(self, index: int) -> str | None:
        """Return why not: no NVML, no driver, no such GPU, or a mode that allows a single process."""
        try:
            import pynvml
        except ImportError:
            return "cuda needs nvidia-ml-py, which is not installed; pip install 'bench-harness[cuda]'"
        try:
            with _handle(index) as handle:
                exclusive = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
                if pynvml.nvmlDeviceGetComputeMode(handle) == exclusive:
                    return (
                        f"GPU {index} is in the mode EXCLUSIVE_PROCESS, and a case and its baseline are two processes; "
                        f"sudo nvidia-smi -i {index} -c DEFAULT"
                    )
        except IndexError as error:
            return str(error)
        except pynvml.NVMLError as error:
            return f"cuda needs an NVIDIA GPU and its driver: {error}"
        return None

    def describe(self, index: int) -> DeviceFacts:
        """The GPU's name, number, driver, memory, power limit and compute capability."""
        import pynvml

        with _handle(index) as handle:
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            limit = _known(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            return DeviceFacts(
                kind=self.name,
                name=_text(pynvml.nvmlDeviceGetName(handle)),
                index=index,
                uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                driver=_text(pynvml.nvmlSystemGetDriverVersion()),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                power_limit_w=None if limit is None else limit / 1e3,
                capability=f"{major}.{minor}",
            )

    def environment(self, index: int) -> dict[str, str]:
        """The GPU by its UUID, which no other variable can change the meaning of."""
        import pynvml

        with _handle(index) as handle:
            return {VISIBLE: _text(pynvml.nvmlDeviceGetUUID(handle)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def counters(self, index: int) -> DeviceCounters:
        """The SM clock, the temperature, why clocks are kept down, and all processes on the GPU."""
        import pynvml

        with _handle(index) as handle:
            reasons = _known(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
            processes = _known(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
            return DeviceCounters(
                mhz=_known(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
                celsius=_known(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
                throttled=tuple(
                    words for constant, words in THROTTLED.items() if reasons & int(getattr(pynvml, constant))
                ),
                processes=tuple(process.pid for process in processes),
            )

    def free_bytes(self, index: int) -> int:
        """The GPU's free memory."""
        import pynvml

        with _handle(index) as handle:
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)

    def advice(self, index: int) -> list[str]:
        """How to hold the clock, which otherwise follows load and heat; and to keep the driver loaded."""
        import pynvml

        with _handle(index) as handle:
            most = _known(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM)
            keeps = _known(pynvml.nvmlDeviceGetPersistenceMode, handle)
        lines = []
        if most is not None:
            steady = most * 3 // 4
            lines.append(f"clocks follow load and heat; sudo nvidia-smi -i {index} -lgc {steady}, and -rgc afterwards")
        if keeps == 0:
            lines.append(f"the driver is unloaded between processes; sudo nvidia-smi -i {index} -pm 1")
        return lines

    def hold(self, seconds: float) -> None:
        """Queue a kernel that counts clock ticks, at 2 GHz: at a lower clock it holds for longer."""
        import torch

        torch.cuda._sleep(int(seconds * 2e9))

    def works(self) -> bool | None:
        """Whether NVML knows of this process on the GPU; None in a container, where it tells other numbers."""
        import pynvml

        with _handle(0) as handle:
            processes = _known(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
        if processes is None:
            return super().works()
        named = any(process.pid == os.getpid() for process in processes)
        return True if named else False if not processes else super().works()

    def used_bytes(self) -> int | None:
        """What NVML says that this process holds on the GPU; None in a container, where it tells other numbers."""
        import pynvml

        with _handle(0) as handle:
            for process in _known(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []:
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    return int(process.usedGpuMemory)
        return None

    def energy_j(self) -> float | None:
        """The GPU's energy since the driver was loaded; its counter moves every 0.1 s."""
        import pynvml

        with _handle(0) as handle:
            millijoules = _known(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return None if millijoules is None else millijoules / 1e3


@contextmanager
def _handle(index: int) -> Iterator[Any]:
    """NVML's handle of the GPU that this process sees under a number. Raises IndexError where it sees none there."""
    import pynvml

    pynvml.nvmlInit()
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        visible = os.environ.get(VISIBLE)
        places = [str(place) for place in range(count)] if visible is None else [*filter(None, visible.split(","))]
        if index >= len(places):
            shown = "" if visible is None else f", since {VISIBLE} is {visible!r}"
            raise IndexError(f"there is no GPU {index}: this process sees {len(places)}{shown}")
        place = places[index].strip()
        if place.isdigit():
            yield pynvml.nvmlDeviceGetHandleByIndex(int(place))
        else:
            yield pynvml.nvmlDeviceGetHandleByUUID(place)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _known(function: Any, *arguments: Any) -> Any:
    """What an NVML function tells; None where this GPU does not tell it."""
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


DEVICE = Cuda()
