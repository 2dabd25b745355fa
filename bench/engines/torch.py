"""PyTorch eager: the network as it is, in bfloat16, or quantized by torch.ao's FX graph mode on the x86 kernels."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines import Engine
from bench.errors import BuildError
from bench.isa import has_vnni
from bench.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch

    from bench.engines import Predict

WEIGHTS = "weights.safetensors"
CALIBRATION_BATCH = 32


class Torch(Engine):
    """The artefact is the state dict; for static INT8 that of the observed network, observers included, so that no
    quantized tensor need be stored: scales follow from the observers when it is loaded.
    """

    packages = ("torch",)
    format = "safetensors"

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Give the reason why not: this engine is on the CPU so far."""
        return None if device == "cpu" else f"only the CPU is served so far, not {device!r}"

    def settings(self) -> dict[str, object]:
        """The quantized kernels, and whether activations keep to 7 bits, which x86 without VNNI needs."""
        return {"quantized_engine": quantized_engine(), "reduce_range": not has_vnni()}

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Write the state dict, after calibration for static INT8."""
        from safetensors.torch import save_file

        if recipe.number_format == "int8":
            reduce_range = bool(self.settings()["reduce_range"])
            network = observed(network, recipe, samples[:1], reduce_range)
            if recipe.calibrated:
                calibrate(network, samples)
            (folder / "quantization.json").write_text(json.dumps({"reduce_range": reduce_range}))
        save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Open a session under inference mode."""
        import torch

        torch.set_num_threads(threads)
        return predictor(lowered(folder, recipe, network(), example))


def quantized_engine() -> str:
    """The name of PyTorch's INT8 kernels for this processor."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else "qnnpack"


def lowered(folder: Path, recipe: Recipe, network: torch.nn.Module, example: np.ndarray) -> torch.nn.Module:
    """The artefact as a module that takes and gives float32."""
    import torch
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS)
    if recipe.number_format == "int8":
        reduce_range = json.loads((folder / "quantization.json").read_text())["reduce_range"]
        network = observed(network, recipe, example[:1], reduce_range)
        network.load_state_dict(state)
        with quiet():
            from torch.ao.quantization.quantize_fx import convert_fx

            return convert_fx(network)
    network.load_state_dict(state)
    return between_float32(network.to(torch.bfloat16), torch.bfloat16) if recipe.number_format == "bf16" else network


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


def observed(network: torch.nn.Module, recipe: Recipe, example: np.ndarray, reduce_range: bool) -> torch.nn.Module:
    """The network with observers where INT8 will be, not yet calibrated. Raises BuildError where FX cannot trace it.

    Weights per channel and symmetric, but per tensor in transposed convolutions, whose channels torch.ao does not take.
    """
    import torch

    torch.backends.quantized.engine = quantized_engine()  # read when weights are packed, at conversion
    with quiet():
        from torch.ao.quantization import (
            HistogramObserver,
            QConfig,
            QConfigMapping,
            default_per_channel_weight_observer,
            default_weight_observer,
            get_default_qconfig_mapping,
            per_channel_dynamic_qconfig,
        )
        from torch.ao.quantization.quantize_fx import prepare_fx

        if recipe.activations == "dynamic":
            mapping = QConfigMapping().set_object_type(torch.nn.Linear, per_channel_dynamic_qconfig)
        else:
            activations = HistogramObserver.with_args(reduce_range=reduce_range)
            mapping = get_default_qconfig_mapping(quantized_engine())
            mapping.set_global(QConfig(activations, default_per_channel_weight_observer))
            for kind in list(mapping.object_type_qconfigs):
                if isinstance(kind, type) and issubclass(kind, torch.nn.modules.conv._ConvTransposeNd):
                    mapping.set_object_type(kind, QConfig(activations, default_weight_observer))
        try:
            return prepare_fx(network, mapping, (torch.from_numpy(example),))
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise BuildError(f"torch.ao's FX cannot trace the network: {type(error).__name__}: {line}") from error


def calibrate(network: torch.nn.Module, samples: np.ndarray) -> None:
    """Show the samples (n, ...) float32 to the observers."""
    import torch

    with torch.inference_mode(), quiet():
        for batch in torch.from_numpy(samples).split(CALIBRATION_BATCH):
            network(batch)


def predictor(module: Callable[[torch.Tensor], torch.Tensor]) -> Predict:
    """A session of a module: float32 (batch, ...) in and out, no gradients."""
    import torch

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs)).numpy()

    return predict


@contextmanager
def quiet() -> Iterator[Any]:
    """Keep back the warnings that torch.ao is going to move elsewhere: they are known, and not the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


ENGINE = Torch()
