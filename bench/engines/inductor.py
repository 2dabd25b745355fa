"""torch.compile with its Inductor backend on the CPU; INT8 by the PT2E flow and the X86 Inductor quantizer."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from bench.engines import Engine, quiet
from bench.engines.torch import CALIBRATION_BATCH, STATE, lowered, pools, predictor, reduce_range
from bench.errors import BuildError
from bench.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines import Predict

PROGRAM = "model.pt2"


class Inductor(Engine):
    """The artefact is a state dict, or for INT8 the quantized exported program; compiling is part of the first call."""

    packages = ("torch",)
    format = "state_dict or pt2"

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Give the reason why not: no compiler, INT8 on another processor than x86, another device."""
        if device != "cpu":
            return f"only the CPU is served so far, not {device!r}"
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "cl")):
            return "torch.compile needs a C++ compiler on the PATH; install g++"
        if recipe.number_format == "int8" and platform.machine().lower() not in ("x86_64", "amd64"):
            return "the Inductor quantizer serves x86 only"
        return None

    def settings(self) -> dict[str, object]:
        """Whether activations keep to 7 bits, and which package quantizes."""
        return {"reduce_range": reduce_range(), "quantizer": _quantizer()}

    def environment(self, threads: int) -> dict[str, str]:
        """Freezing folds weights into the kernels, without which INT8 patterns are not lowered."""
        return super().environment(threads) | {"TORCHINDUCTOR_FREEZING": "1"}

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Write the state dict, or export, calibrate, convert and write the program, with a free batch."""
        import torch

        if recipe.number_format != "int8":
            torch.save(lowered(network, recipe, samples[:1]).state_dict(), folder / STATE)
            return
        with quiet(), torch.no_grad():
            example = (torch.from_numpy(samples[:2]),)
            shapes = ({0: torch.export.Dim("batch")},)
            try:  # strict: up to torch 2.11 the quantizers find their patterns only by what Dynamo notes
                exported = torch.export.export(network, example, dynamic_shapes=shapes, strict=True).module()
            except Exception as error:
                line = str(error).strip().splitlines()[0]
                raise BuildError(f"torch.export cannot trace the network: {type(error).__name__}: {line}") from error
            converted = quantized(exported, recipe, samples)
            torch.export.save(torch.export.export(converted, example, dynamic_shapes=shapes), folder / PROGRAM)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Set the compilation up for exactly the example's shape."""
        import torch

        torch.set_num_threads(threads)
        if recipe.number_format != "int8":
            module = lowered(network(), recipe, example[:1])
            module.load_state_dict(torch.load(folder / STATE, weights_only=True))
        else:
            _pt2e()  # registers the operators of the program
            with quiet():
                module = torch.export.load(folder / PROGRAM).module()
        return predictor(torch.compile(module, dynamic=False))

    def pool(self) -> dict[str, object]:
        """PyTorch's two pools."""
        return super().pool() | pools()


def _quantizer() -> str:
    """The package that has PT2E for this torch: torchao from torch 2.10, before that torch itself."""
    release = tuple(int(part) for part in importlib.metadata.version("torch").split("+")[0].split(".")[:2])
    return f"torchao {importlib.metadata.version('torchao')}" if release >= (2, 10) else "torch.ao"


def _pt2e() -> SimpleNamespace:
    """PT2E's functions and quantizer, from whichever package has them."""
    with quiet():
        if _quantizer().startswith("torchao"):
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer
        else:
            import torch.ao.quantization.quantizer.x86_inductor_quantizer as x86_inductor_quantizer
            from torch.ao.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
    return SimpleNamespace(prepare=prepare_pt2e, convert=convert_pt2e, x86=x86_inductor_quantizer)


def quantized(exported: torch.nn.Module, recipe: Recipe, samples: np.ndarray) -> torch.nn.Module:
    """An exported module with quantize and dequantize operators, calibrated on samples (n, ...) where static."""
    import torch

    pt2e = _pt2e()
    quantizer = pt2e.x86.X86InductorQuantizer()
    dynamic = recipe.activations == "dynamic"
    quantizer.set_global(
        pt2e.x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic, reduce_range=reduce_range())
    )
    prepared = pt2e.prepare(exported, quantizer)
    for batch in torch.from_numpy(samples).split(CALIBRATION_BATCH):
        prepared(batch)
        if dynamic:
            break
    converted = pt2e.convert(prepared)
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*converted.named_parameters(), *converted.named_buffers()) if name not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(converted.get_submodule(owner), leaf)  # FP32 weights that INT8 ones replaced would be saved with them
    return converted


ENGINE = Inductor()
