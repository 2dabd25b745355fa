"""PyTorch eager: the network in FP32, in bfloat16, or quantized by torch.ao's FX graph mode on the x86 kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.engines.engine import Emulation, Session, quiet
from bench.engines.lowered import Layer, as_stated, with_reasons
from bench.engines.operations import CALLS, Operation, format_of
from bench.engines.torch_devices import OnDevices, lowered_on, restored_on, session_on, unsupported_on
from bench.engines.torch_modules import STATE, predictor, save
from bench.engines.torch_quantization import quantized_engine
from bench.machine.isa import saturates
from bench.spec.inputs import batch_of
from bench.spec.outcome import Setting
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe
from bench.store import versions

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Predict
    from bench.store import Facts

# parts of the names of operators that compute in INT8
WHOLE_NUMBERS = ("quantized::", "onednn::q", "mkldnn::q", "int8", "_int_mm")


class Torch(OnDevices):
    """The artefact is the state dict of the lowered network, read with weights_only."""

    format = "state_dict"
    native = "torch"
    formats = ("fp32", "bf16", "int8")
    activations = ("static", "dynamic")
    widths = (8, 4, 2)
    scaled = True
    dynamic: tuple[str, ...] = ("linear", "lstm", "gru")
    unlowered: Mapping[str, str] = MappingProxyType(
        {
            "matmul": "torch.ao has no INT8 kernel for a product of two activations",
            "transposed": "torch.ao's INT8 kernels for transposed convolutions err; no convolution replaces this one",
            **dict.fromkeys(("lstm", "gru", "rnn"), "torch.ao's static INT8 leaves recurrent layers"),
        }
    )
    whole = False

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return the reason against INT8 and FP8 with scales from calibration on other devices than the CPU."""
        return unsupported_on(recipe, device)

    def settings(self) -> Facts:
        """The name of the INT8 kernels, and whether they saturate (activations then keep to 7 bits). On other devices
        than the CPU the version of torchao.
        """
        if self.device != "cpu":
            return {"torchao": None if lacking(("torchao",)) else versions(("torchao",))["torchao"]}
        return {"quantized_engine": quantized_engine(), "saturates": saturates()}

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Lower the network, calibrated for static INT8, and write its state dict."""
        save(lowered_on(network, recipe, self.device, samples[:1], samples), folder / STATE)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Lower the bare network the same way and fill it with the stored state."""
        import torch

        torch.set_num_threads(threads)
        module = restored_on(network(), recipe, self.device, example[:1], folder / STATE)
        return session_on(module, recipe, self.device, pools)

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Operation]:
        """The operators of a call by PyTorch's profiler, each with its self time."""
        return profiled(self.load(folder, recipe, network, example, threads), batch_of(example), self.device)

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The multiplications of a call of the lowered network, counted at PyTorch's dispatcher."""
        from bench.engines.torch_count import layers_of, products_of

        predict, batch = self.load(folder, recipe, network, example, threads), batch_of(example)
        layers = as_stated(layers_of(products_of(lambda: predict(batch)), len(example)), recipe)
        return with_reasons(layers, recipe, self.dynamic, self.unlowered)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation | None:
        """The same lowered network with the stored scales and weights; its INT8 operators compute in floating point.

        None on other devices than the CPU.
        """
        from bench.engines.emulation_torch import emulation

        if self.device != "cpu":
            return None
        module = restored_on(network(), recipe, self.device, example[:1], folder / STATE)
        return emulation(predictor(module), module)


def pools() -> dict[str, Setting]:
    """The sizes of PyTorch's two thread pools, within and between operators."""
    import torch

    return {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}


ENGINE = Torch()


def profiled(predict: Predict, batch: Batch, device: str = "cpu") -> list[Operation]:
    """The operators of a call by PyTorch's profiler, each with its self time on the device, the mean over calls."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    predict(batch)
    activities = [ProfilerActivity.CPU] if device == "cpu" else supported_activities()
    with quiet(), profile(activities=activities) as profiler:
        for _ in range(CALLS):
            predict(batch)
    own = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    return [
        Operation(
            event.key,
            format_of(event.key, any(word in event.key for word in WHOLE_NUMBERS)),
            getattr(event, own) / 1e6 / CALLS,
            round(event.count / CALLS),
        )
        for event in profiler.key_averages()
        if getattr(event, own) > 0 and event.device_type.name == "CPU"
    ]
