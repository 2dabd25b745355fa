"""PyTorch modules on devices other than the CPU: where they lie, what they compute FP32 in, and how they are called."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.engines.engine import Session, quiet
from bench.engines.torch_modules import predictor, restore
from bench.engines.torch_quantization import lowered
from bench.errors import Unsupported
from bench.spec.inputs import arrays_of
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch
    from bench.spec.interface import Output, Predict
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


def lowered_on(network: torch.nn.Module, recipe: Recipe, device: str) -> torch.nn.Module:
    """The network in the recipe's number format, on a device other than the CPU. Raises Unsupported where nothing in it
    can be lowered.
    """
    import numpy as np
    import torch

    if recipe.number_format not in BY_TORCHAO:
        return lowered(network, recipe, np.empty(0)).to(device)

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


def restored_on(network: torch.nn.Module, recipe: Recipe, device: str, state: Path) -> torch.nn.Module:
    """The bare network with the state that `lowered_on` gave it, on the device."""
    import numpy as np

    if recipe.number_format not in BY_TORCHAO:
        module = lowered(network, recipe, np.empty(0))
        restore(module, state)
        return module.to(device)
    with quiet():
        importlib.import_module("torchao.quantization")  # its types may then be read without unpickling code
    restore(network, state, assign=True)
    return network.to(device)


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
    return Session(_predictor_on(called, device), pools, resident=lambda batch: _resident(called, batch, device))


def autocast(module: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The module, called in mixed precision: PyTorch picks the operations that compute in FP16."""
    import torch

    def called(*inputs: torch.Tensor) -> Any:
        with torch.autocast(device, dtype=torch.float16):
            outputs = module(*inputs)
        if isinstance(outputs, torch.Tensor):
            return outputs.float() if outputs.is_floating_point() else outputs
        return tuple(output.float() if output.is_floating_point() else output for output in outputs)

    return called


def _predictor_on(module: Callable[..., Any], device: str) -> Predict:
    """A function that moves a call's inputs to the device and its outputs back, which waits for them."""
    import torch

    def predict(inputs: Batch) -> Output:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(array).to(device) for array in arrays_of(inputs)))
            if isinstance(outputs, torch.Tensor):
                return outputs.cpu().numpy()
            arrays = tuple(output.cpu().numpy() for output in outputs)
            return arrays[0] if len(arrays) == 1 else arrays

    return predict


def _resident(module: Callable[..., Any], batch: Batch, device: str) -> Callable[[], object]:
    """A call on inputs that are on the device already; it queues the call and does not wait."""
    import torch

    inputs = [torch.from_numpy(array).to(device) for array in arrays_of(batch)]

    def call() -> None:
        with torch.inference_mode():
            module(*inputs)

    return call
