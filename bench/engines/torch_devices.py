"""PyTorch's engines on devices other than the CPU: what they lower, compute FP32 in, and how modules are called."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from bench.engines.engine import Engine, Session, quiet
from bench.engines.torch_modules import predictor, restore
from bench.engines.torch_quantization import in_float32, lowered
from bench.errors import Unsupported
from bench.spec.inputs import arrays_of
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.outcome import Setting

# the number formats that PyTorch computes in on each device; INT8 and FP8 by torchao, linear layers alone
FORMATS_ON = MappingProxyType(
    {
        "cuda": ("fp32", "tf32", "bf16", "fp16", "int8", "fp8"),
        "mps": ("fp32", "bf16", "fp16"),
        "xpu": ("fp32", "bf16", "fp16"),
    }
)
BY_TORCHAO = ("int8", "fp8")
MULTIPLE = {"int8": 8, "fp8": 16}  # what the sizes of a layer must be multiples of for the GPU's kernels
UNLOWERED = MappingProxyType(
    {
        **dict.fromkeys(
            ("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "matmul", "lstm", "gru", "rnn"),
            "torchao quantizes linear layers alone",
        ),
        "linear": "the GPU's kernels take sizes that are multiples of 8 in INT8 and of 16 in FP8",
    }
)
FP8_SINCE = (8, 9)  # compute capability


class OnDevices(Engine):
    """An engine of PyTorch's that runs on other devices than the CPU too, where torchao lowers linear layers."""

    packages = ("torch",)
    devices: tuple[str, ...] = ("cpu", *FORMATS_ON)
    formats_on: Mapping[str, tuple[str, ...]] = FORMATS_ON
    autocasts: tuple[str, ...] = ("cuda",)

    def on(self, device: str) -> Self:
        """This engine on a device; on others than the CPU with torchao's kinds of layers."""
        engine = super().on(device)
        if device != "cpu":
            engine.dynamic, engine.unlowered = ("linear",), UNLOWERED
        return engine

    def missing(self) -> str | None:
        """Return why not: PyTorch is missing, or was built without the device."""
        return super().missing() or built_without(self.device)


def built_without(device: str) -> str | None:
    """Why this PyTorch has no such device, by its own file of versions, which needs no import of PyTorch; None where it
    has, or says nothing.
    """
    if device != "cuda":
        return None
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    told = runpy.run_path(str(Path(spec.origin).parent / "version.py"))
    if told.get("cuda") is not None or told.get("hip") is not None:
        return None
    return f"torch {told['__version__']} is built without CUDA; install one that is built with it"


def unsupported_on(recipe: Recipe, device: str) -> str | None:
    """Why PyTorch cannot compute a recipe on a device other than the CPU; None where it can."""
    if device == "cpu" or recipe.number_format not in BY_TORCHAO:
        return None
    if recipe.activations != "dynamic":
        return f"torchao's {recipe.number_format} on {device} takes the scales of activations from each call"
    return lacking(("torchao",))


def lowered_on(
    network: torch.nn.Module, recipe: Recipe, device: str, example: Given, samples: Given | None = None
) -> torch.nn.Module:
    """The network in the recipe's number format, on a device; the example and samples are `lowered`'s. Raises
    Unsupported where nothing in it can be lowered.
    """
    import torch

    if device == "cpu":
        return lowered(network, recipe, example, samples)
    if recipe.number_format not in BY_TORCHAO:
        return lowered(network, recipe, example).to(device)  # no samples: lowering would try them on the CPU
    with quiet():
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8DynamicActivationInt8WeightConfig,
            quantize_,
        )

    left, multiple = set(recipe.left_alone(network)), MULTIPLE[recipe.number_format]

    def takes(module: torch.nn.Module, name: str) -> bool:
        """Torchao computes layers of other sizes on the CPU, without a word."""
        if not isinstance(module, torch.nn.Linear) or name in left:
            return False
        return module.in_features % multiple == module.out_features % multiple == 0

    if not any(takes(module, name) for name, module in network.named_modules()):
        raise Unsupported(
            f"torchao lowers linear layers alone, to {recipe.number_format} those of sizes that are multiples of "
            f"{multiple}; this network has none"
        )
    if recipe.number_format == "fp8" and torch.cuda.get_device_capability() < FP8_SINCE:
        has = ".".join(map(str, torch.cuda.get_device_capability()))
        raise Unsupported(f"FP8 needs compute capability 8.9, and this GPU has {has}")
    int8 = recipe.number_format == "int8"
    config = Int8DynamicActivationInt8WeightConfig() if int8 else Float8DynamicActivationFloat8WeightConfig()
    module = network.to(device)
    quantize_(module, config, takes)
    return module


def restored_on(network: torch.nn.Module, recipe: Recipe, device: str, example: Given, state: Path) -> torch.nn.Module:
    """The bare network with the state that `lowered_on` gave it, on the device."""
    if device != "cpu" and recipe.number_format in BY_TORCHAO:
        with quiet():
            importlib.import_module("torchao.quantization")  # its types may then be read without unpickling code
        restore(network, state, assign=True)
        return network.to(device)
    module = lowered(network, recipe, example)
    restore(module, state)
    return module if device == "cpu" else module.to(device)


def set_tf32(allowed: bool) -> None:
    """Let products and convolutions of FP32 tensors round their factors to TF32, or not.

    PyTorch 2.15 starts with TF32 in convolutions and without in products. Each version has words of its own for this;
    since 2.9 the older ones must not be read any more.
    """
    import torch

    if not hasattr(torch.backends, "fp32_precision"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        return
    cudnn: Any = torch.backends.cudnn
    for place in (torch.backends, torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn):
        place.fp32_precision = "tf32" if allowed else "ieee"


def session_on(
    module: Callable[..., Any], recipe: Recipe, device: str, pools: Callable[[], dict[str, Setting]]
) -> Session:
    """A session of a module that lies on the device already, in the recipe's precision."""
    if device == "cpu":
        return Session(predictor(module), pools)
    set_tf32(recipe.number_format == "tf32")
    called = autocast(module, device) if recipe.autocast else module
    return Session(predictor(called, device), pools, resident=lambda batch: _resident(called, batch, device))


def autocast(module: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The module, called in mixed precision: PyTorch picks the operations that compute in FP16."""
    import torch

    def called(*inputs: torch.Tensor) -> Any:
        with torch.autocast(device, dtype=torch.float16):
            outputs = module(*inputs)
        return in_float32(outputs)

    return called


def _resident(module: Callable[..., Any], batch: Batch, device: str) -> Callable[[], object]:
    """A call on inputs that are on the device already; it queues the call and does not wait."""
    import torch

    inputs = [torch.from_numpy(array).to(device) for array in arrays_of(batch)]

    def call() -> None:
        with torch.inference_mode():
            module(*inputs)

    return call
