"""PyTorch eager: the network as it is, in bfloat16, or quantized by torch.ao's FX graph mode on the x86 kernels."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import Emulation, Engine, quiet
from bench.engines.equivalents import without_transposed
from bench.errors import BuildError, Unsupported
from bench.explain import CALLS, Operation, format_of
from bench.isa import has_vnni
from bench.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines import Predict
    from bench.model import Output

STATE = "state.pt"
CALIBRATION_BATCH = 8
WHOLE_NUMBERS = ("quantized::", "onednn::q", "mkldnn::q", "int8", "_int_mm")
APART = ("scale", "zero_point", "weight")


class Torch(Engine):
    """The artefact is the state dict of the lowered network, read with weights_only."""

    packages = ("torch",)
    format = "state_dict"
    widths = (8, 4, 2)

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Give the reason why not: this engine is on the CPU so far."""
        return None if device == "cpu" else f"only the CPU is served so far, not {device!r}"

    def settings(self) -> dict[str, object]:
        """The quantized kernels, and whether they have VNNI's sums, without which activations keep to 7 bits."""
        return {"quantized_engine": quantized_engine(), "vnni": has_vnni()}

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Lower the network, calibrated for static INT8, and write its state dict."""

        save(lowered(network, recipe, samples[:1], samples), folder / STATE)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Lower the bare network the same way and fill it with the stored state."""
        import torch

        torch.set_num_threads(threads)
        module = lowered(network(), recipe, example[:1])
        restore(module, folder / STATE)
        return predictor(module)

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> list[Operation]:
        """The operators of a call by PyTorch's profiler, each with the time that is its own."""
        return profiled(self.load(folder, recipe, network, example, threads), example)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Emulation:
        """The same lowered network, with the stored scales and weights, its INT8 operators in floating point."""
        from bench.engines.emulation_torch import emulation

        module = lowered(network(), recipe, example[:1])
        restore(module, folder / STATE)
        return emulation(predictor(module), module)

    def pool(self) -> dict[str, object]:
        """PyTorch's two pools."""
        return super().pool() | pools()


def save(module: torch.nn.Module, file: Path) -> None:
    """Write the state of a lowered network. Raises BuildError where it cannot be read without unpickling objects.

    Some of torch.ao's modules (PReLU, ELU) keep scales and weights out of their state dict: those are written beside
    it.
    """
    import torch

    apart = {
        f"{name}.{key}": vars(part)[key]
        for name, part in module.named_modules()
        for key in APART
        if isinstance(vars(part).get(key), (int, float, torch.Tensor))
    }
    torch.save({"state": module.state_dict(), "apart": apart}, file)
    try:
        with quiet():
            torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BuildError(
            "torch.ao packed weights as objects, which are not read back for safety: it does so where a network calls "
            "torch.nn.functional.conv2d or linear itself; call a module instead"
        ) from error


def restore(module: torch.nn.Module, file: Path) -> None:
    """Fill a lowered network with a state that was written."""
    import torch

    with quiet():
        stored = torch.load(file, weights_only=True)
    module.load_state_dict(stored["state"])
    for name, value in stored["apart"].items():
        owner, _, key = name.rpartition(".")
        setattr(module.get_submodule(owner), key, value)


def pools() -> dict[str, object]:
    """The sizes of PyTorch's two thread pools."""
    import torch

    return {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}


def quantized_engine() -> str:
    """The name of PyTorch's INT8 kernels for this processor."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else "qnnpack"


def saturating(network: torch.nn.Module) -> bool:
    """Whether activations must keep to 7 bits lest sums of 8-bit products saturate in 16.

    So it is without VNNI, and in convolutions of more than 100 groups, which "x86" hands to FBGEMM's kernels and not to
    oneDNN's (PyTorch 2.15.0, found by their pace and error at 100 and 104 groups): MobileNetV2 kept 62% of its answers
    with 8 bits, 84% with 7.
    """
    import torch

    convolutions = (module for module in network.modules() if isinstance(module, torch.nn.modules.conv._ConvNd))
    return not has_vnni() or any(module.groups > 100 for module in convolutions)


def lowered(
    network: torch.nn.Module, recipe: Recipe, example: np.ndarray, samples: np.ndarray | None = None
) -> torch.nn.Module:
    """The network in the recipe's number format, float32 in and out; static INT8 is calibrated on samples (n, ...)."""
    import torch

    if recipe.number_format == "bf16":
        return between_float32(network.to(torch.bfloat16), torch.bfloat16)
    if recipe.number_format == "fp32":
        return network
    watched = observed(network, recipe, example)
    if recipe.calibrated and samples is not None:
        with torch.inference_mode():
            for batch in torch.from_numpy(samples).split(CALIBRATION_BATCH):
                watched(batch)
    with quiet():
        from torch.ao.quantization.quantize_fx import convert_fx

        return convert_fx(watched)


def between_float32(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The network with its input cast to its own number format and its output cast back."""
    import torch

    class Cast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.to(dtype)).to(torch.float32)

    return Cast().eval()


def observed(network: torch.nn.Module, recipe: Recipe, example: np.ndarray) -> torch.fx.GraphModule:
    """The network with observers where INT8 will be, not yet calibrated. Raises BuildError where FX cannot trace it.

    Weights per channel and symmetric. A transposed convolution is told by a convolution and a pixel shuffle, or stays
    in FP32 where it cannot be: the INT8 kernels for it give rubbish, oneDNN's where it changes the number of channels,
    FBGEMM's for 2x2 at stride 2 (PyTorch 2.15.0).
    Fewer than 8 bits are simulated by fewer levels in the storage and kernels of 8: weights keep to 2^bits - 1 about 0,
    activations to 2^bits over the range that calibration saw. What lies beyond that range is not cut off, for these
    kernels know no such limit.
    """
    import torch

    torch.backends.quantized.engine = quantized_engine()  # read when weights are packed, at conversion
    with quiet():
        from torch.ao.quantization import (
            HistogramObserver,
            MinMaxObserver,
            QConfig,
            QConfigMapping,
            default_per_channel_weight_observer,
            get_default_qconfig_mapping,
            per_channel_dynamic_qconfig,
        )
        from torch.ao.quantization.quantize_fx import prepare_fx

        if recipe.activations == "dynamic":
            if not any(isinstance(module, torch.nn.Linear) for module in network.modules()):
                raise Unsupported("torch.ao quantizes activations at run time in linear layers; this network has none")
            mapping = QConfigMapping().set_object_type(torch.nn.Linear, per_channel_dynamic_qconfig)
        else:
            activations, weights = HistogramObserver.with_args(reduce_range=saturating(network)), {}
            if recipe.bits < 8:
                most = 2 ** (recipe.bits - 1) - 1
                activations = MinMaxObserver.with_args(quant_min=0, quant_max=2**recipe.bits - 1)
                weights = {"quant_min": -most, "quant_max": most}
            usual = QConfig(activations, default_per_channel_weight_observer.with_args(**weights))
            mapping = QConfigMapping() if recipe.only else get_default_qconfig_mapping(quantized_engine())
            mapping.set_global(None if recipe.only else usual)
            # in 256 levels of a sigmoid sure boxes tie: SCRFD's COCO AP is 0.28, not 0.34
            for sigmoid in (torch.sigmoid, torch.nn.Sigmoid, "sigmoid", "sigmoid_"):
                mapping.set_object_type(sigmoid, None)
            for name in recipe.only:
                mapping.set_module_name(name, usual)
            for name in recipe.left:
                mapping.set_module_name(name, None)
            network = without_transposed(network)
            for name, module in network.named_modules():
                if isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
                    mapping.set_module_name(name, None)
        try:
            return prepare_fx(network, mapping, (torch.from_numpy(example),))
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise BuildError(f"torch.ao's FX cannot trace the network: {type(error).__name__}: {line}") from error


def predictor(module: Callable[[torch.Tensor], torch.Tensor]) -> Predict:
    """A session of a module: float32 (batch, ...) in and out, no gradients; a tuple where it has several outputs."""
    import torch

    def predict(inputs: np.ndarray) -> Output:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(inputs))
            return outputs.numpy() if isinstance(outputs, torch.Tensor) else tuple(one.numpy() for one in outputs)

    return predict


ENGINE = Torch()


def profiled(predict: Predict, example: np.ndarray) -> list[Operation]:
    """The operators of a call by PyTorch's profiler, each with the time that is its own, the mean over calls."""
    from torch.profiler import ProfilerActivity, profile

    predict(example)
    with quiet(), profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(CALLS):
            predict(example)
    return [
        Operation(
            event.key,
            format_of(event.key, any(word in event.key for word in WHOLE_NUMBERS)),
            event.self_cpu_time_total / 1e6 / CALLS,
            round(event.count / CALLS),
        )
        for event in found.key_averages()
        if event.self_cpu_time_total > 0
    ]
