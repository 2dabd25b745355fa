"""torch.compile with its Inductor backend on the CPU; INT8 by the PT2E flow and the X86 Inductor quantizer."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.engines import own_scales, pt2e
from bench.engines.engine import Emulation, Session, quiet, two_of
from bench.engines.equivalents import without_transposed
from bench.engines.lowered import Layer, as_stated, with_reasons
from bench.engines.operations import Operation
from bench.engines.torch import pools, profiled
from bench.engines.torch_devices import FORMATS_ON, OnDevices, lowered_on, restored_on, session_on, unsupported_on
from bench.engines.torch_modules import STATE, predictor, save
from bench.machine.isa import saturates
from bench.spec.inputs import batch_of, tensors_of
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given
    from bench.store import Facts

PROGRAM = "model.pt2"


class Inductor(OnDevices):
    """The artefact is a state dict, or for INT8 the quantized exported program; the first call compiles it."""

    format = "state_dict or pt2"
    compiled = "TORCHINDUCTOR_CACHE_DIR"
    unlowered = MappingProxyType(
        dict.fromkeys(
            ("conv1d", "conv3d", "transposed", "matmul", "lstm", "gru", "rnn"),
            "Inductor has INT8 for linear layers and convolutions in two dimensions",
        )
    )
    whole = False
    formats: tuple[str, ...] = ("fp32", "bf16", "int8")
    activations = ("static", "dynamic")
    devices: tuple[str, ...] = ("cpu", "cuda", "xpu")
    formats_on = MappingProxyType({device: FORMATS_ON[device] for device in ("cuda", "xpu")})
    scaled = True
    mode: str | None = None  # of torch.compile

    def _exports(self, recipe: Recipe) -> bool:
        """Whether the artefact is an exported program: PT2E's INT8, which is for CPUs."""
        return recipe.number_format == "int8" and self.device == "cpu"

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return the reason why not: no C++ compiler, a part of a network, INT8 on a processor other than x86."""
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "cl")):
            return "torch.compile needs a C++ compiler on the PATH; install g++"
        if device != "cpu":
            return unsupported_on(recipe, device)
        if recipe.partial:
            return "PT2E's quantizer for x86 lowers whole networks here"
        if recipe.number_format == "int8" and platform.machine().lower() not in ("x86_64", "amd64"):
            return "the Inductor quantizer serves x86 only"
        return pt2e.missing() if recipe.number_format == "int8" else None

    def settings(self) -> Facts:
        """Whether activations keep to 7 bits, and the package that quantizes."""
        return {"reduce_range": saturates(), "quantizer": pt2e.package()}

    def environment(self, threads: int) -> dict[str, str]:
        """Freezing is on for CPUs: it folds weights into the kernels, and INT8 patterns are not lowered without it."""
        return super().environment(threads) | ({"TORCHINDUCTOR_FREEZING": "1"} if self.device == "cpu" else {})

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Write the state dict; for INT8 export, calibrate, convert and write the program, its batch size free."""
        import torch

        if not self._exports(recipe):
            save(lowered_on(network, recipe, self.device, samples[:1], samples), folder / STATE)
            return
        with quiet(), torch.no_grad():
            batch = torch.export.Dim("batch")
            if recipe.scaled:
                pt2e.functions()  # Inductor knows INT8 patterns once the quantizer for x86 is imported
                module = pt2e.exported(own_scales.decomposed(network), two_of(samples), batch).module()
                converted: torch.nn.Module = own_scales.one_user_each(module)
            else:
                network = without_transposed(network, samples[:1], least_groups=2)  # PT2E folds normalization wrongly
                module = pt2e.exported(network, two_of(samples), batch).module()
                converted = pt2e.quantized(module, quantizer(recipe.activations == "dynamic"), recipe, samples)
            pair = tensors_of(two_of(samples))
            program = torch.export.export(converted, pair, dynamic_shapes=({0: batch},) * len(pair))
            torch.export.save(program, folder / PROGRAM)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Open a session that is compiled, at its first call, for exactly the shape of that call."""
        import torch

        torch.set_num_threads(threads)
        module: torch.nn.Module
        if self._exports(recipe):
            pt2e.functions()  # registers the operators of the program
            with quiet():
                module = torch.export.load(folder / PROGRAM).module()
        else:
            module = restored_on(network(), recipe, self.device, example[:1], folder / STATE)
        compiled = torch.compile(module, dynamic=False, mode=self.mode)
        return session_on(compiled, recipe, self.device, pools)

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Operation]:
        """The operators of a call by PyTorch's profiler, each with its self time."""
        return profiled(self.load(folder, recipe, network, example, threads), batch_of(example), self.device)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation | None:
        """The program itself, not compiled: float operators between quantize and dequantize operators."""
        return pt2e.emulation(folder / PROGRAM) if self._exports(recipe) else None

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The multiplications of a call of the network or of the exported program.

        INT8 are those that the compiled code calls in INT8: a quantized pattern that Inductor did not find is computed
        in floating point.
        """
        import torch

        from bench.engines.torch_count import as_compiled, interpreted, layers_of, products_of, tally

        predict, batch = self.load(folder, recipe, network, example, threads), batch_of(example)
        if self._exports(recipe):
            with quiet():
                program = torch.export.load(folder / PROGRAM).module()
            products = interpreted(program, lambda call: predictor(call)(batch))
            predict(batch)
            with tally(compiled=True) as called:
                predict(batch)
            products = as_compiled(products, called)
        else:
            with torch.compiler.set_stance("force_eager"):
                products = products_of(lambda: predict(batch))
        layers = as_stated(layers_of(products, len(example)), recipe)
        return with_reasons(layers, recipe, self.dynamic, self.unlowered)


def quantizer(dynamic: bool) -> Any:
    """PT2E's quantizer for x86, with scales of the call (`dynamic`) or of calibration."""
    import torch

    x86 = pt2e.functions().x86
    made = x86.X86InductorQuantizer()
    config = x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic, reduce_range=saturates())
    if dynamic:  # Inductor has no kernels for convolutions with scales of the call: they would run in FP32
        return made.set_function_type_qconfig(torch.nn.functional.linear, config)
    return made.set_global(config)


ENGINE = Inductor()
