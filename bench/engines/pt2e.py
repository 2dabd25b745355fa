"""PT2E, PyTorch's flow of quantizing exported programs: the common part of the engines that use it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.engines.engine import Emulation, quiet
from bench.engines.torch import WHOLE_NUMBERS
from bench.engines.torch_modules import predictor
from bench.engines.torch_quantization import CALIBRATION_BATCH
from bench.errors import BuildError, Unsupported
from bench.spec.inputs import tensors_of
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given


def package() -> str:
    """The package that has PT2E for this torch: torchao from torch 2.10 on, torch itself before."""
    if not needed():
        return "torch.ao"
    return "no torchao" if missing() else f"torchao {importlib.metadata.version('torchao')}"


def needed() -> tuple[str, ...]:
    """The distributions that PT2E needs beside this torch."""
    release = tuple(int(part) for part in importlib.metadata.version("torch").split("+")[0].split(".")[:2])
    return ("torchao",) if release >= (2, 10) else ()


def missing() -> str | None:
    """Return the reason why PT2E is missing here, None where it is installed."""
    return lacking(needed())


def functions() -> SimpleNamespace:
    """PT2E's `prepare`, `convert` and the module of its quantizer for x86 (`x86`), from the package that has them."""
    with quiet():
        if package().startswith("torchao"):
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer
        else:
            import torch.ao.quantization.quantizer.x86_inductor_quantizer as x86_inductor_quantizer
            from torch.ao.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
    return SimpleNamespace(prepare=prepare_pt2e, convert=convert_pt2e, x86=x86_inductor_quantizer)


def exported(network: torch.nn.Module, example: Given, batch: Any = None) -> torch.export.ExportedProgram:
    """The network as an exported program for the example's shape. Raises BuildError where it cannot be traced.

    batch  a torch.export.Dim for the first axis; without it that axis is fixed too.
    """
    import torch

    tensors = tensors_of(example)
    shapes = None if batch is None else ({0: batch},) * len(tensors)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its single closed operator is never quantized or lowered
    try:  # strict: up to torch 2.11 the quantizers find their patterns only by Dynamo's notes
        return torch.export.export(network, tensors, dynamic_shapes=shapes, strict=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise BuildError(f"torch.export cannot trace the network: {type(error).__name__}: {line}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def quantized(
    module: torch.nn.Module, quantizer: Any, recipe: Recipe, samples: Given, batch: int = CALIBRATION_BATCH
) -> torch.nn.Module:
    """An exported module with quantize and dequantize operators. Raises Unsupported where nothing is quantized.

    With static scales it is calibrated on samples, `batch` at a time.
    """
    pt2e = functions()
    prepared = pt2e.prepare(module, quantizer)
    for first in range(0, len(samples), batch):
        prepared(*tensors_of(samples[first : first + batch]))
        if recipe.activations == "dynamic":
            break
    converted = pt2e.convert(prepared)
    if not any("quantized_decomposed" in str(node.target) for node in converted.graph.nodes):
        raise Unsupported(f"PT2E's quantizer finds nothing in this network to lower with {recipe.activations} scales")
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*converted.named_parameters(), *converted.named_buffers()) if name not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(converted.get_submodule(owner), leaf)  # else the FP32 weights would be saved beside their INT8 ones
    return converted


def emulation(file: Path, by_rows: bool = False) -> Emulation:
    """The emulation of a quantized program: the program itself in eager mode. Raises Unsupported where an operator
    multiplies whole numbers.

    by_rows  whether scales found at run time are each row's, as XNNPACK finds them, instead of the whole tensor's.
    """
    import torch

    functions()  # registers the operators of the program
    with quiet():
        module = torch.export.load(file).module()
    if by_rows:
        _quantize_rows(module)
    for node in module.graph.nodes:
        if node.op == "call_function" and any(word in str(node.target) for word in WHOLE_NUMBERS):
            raise Unsupported(f"the program multiplies whole numbers by {node.target}")
    return Emulation(predictor(module), "the quantized program in PyTorch eager")


def _quantize_rows(module: torch.fx.GraphModule) -> None:
    """Let each row of the last axis have a scale of its own where a program finds scales at run time."""
    import torch

    ops = torch.ops.quantized_decomposed
    for node in module.graph.nodes:
        if node.target is ops.choose_qparams.tensor:
            node.target, node.args = ops.choose_qparams_per_token_asymmetric.default, (node.args[0], torch.int8)
        elif node.target is ops.quantize_per_tensor.tensor:
            node.target = ops.quantize_per_token.default
        elif node.target is ops.dequantize_per_tensor.tensor:
            node.target, node.args = ops.dequantize_per_token.default, (*node.args, torch.float32)
    module.recompile()
