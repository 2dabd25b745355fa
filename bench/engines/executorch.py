"""ExecuTorch with its XNNPACK backend: the runtime for phones, here on the CPU; FP32, FP16, and static and dynamic INT8
by PT2E.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import own_scales, pt2e
from bench.engines.engine import Emulation, Engine, Session, quiet
from bench.engines.equivalents import without_reflection, without_transposed
from bench.engines.lowered import Layer, with_reasons
from bench.engines.torch_quantization import between_float32
from bench.errors import Unsupported
from bench.spec.inputs import Inputs, tensors_of
from bench.spec.recipe import Recipe
from bench.store import BESIDE

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Output

MODEL, PROGRAM = "model.pte", "model.pt2"
# no kernels for these: refused with a reason
VOLUMES = ("aten.conv3d", "aten.conv_transpose3d")


class ExecuTorch(Engine):
    """The artefact is one .pte file for a batch of 1, as a phone runs it; its memory is planned when it is built."""

    packages = ("executorch", "torch", "torchao")
    format = "pte"
    formats = ("fp32", "fp16", "int8")
    activations = ("static", "dynamic")
    scaled = True

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return the reason why not: bfloat16, a part of a network."""
        if recipe.number_format == "bf16":
            return "ExecuTorch's XNNPACK backend computes in FP32, FP16 and INT8"
        if recipe.partial:
            return "PT2E's quantizer for XNNPACK lowers whole networks here"
        return None

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Export, calibrate and convert for INT8, lower to XNNPACK and write the program."""
        import torch

        example = samples[:1]
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
            from executorch.exir import to_edge_transform_and_lower

            network = without_reflection(network)
            if recipe.scaled:
                network = own_scales.decomposed(network, signed=True)
            elif recipe.number_format == "int8":
                network = without_transposed(network, example, least_groups=2)  # PT2E folds normalization wrongly
            if recipe.number_format == "fp16":
                network = between_float32(network.to(torch.float16), torch.float16)
            program = pt2e.exported(network, example)
            if any(str(node.target).startswith(VOLUMES) for node in program.graph.nodes):
                raise Unsupported("neither XNNPACK nor ExecuTorch has a convolution in three dimensions")
            if recipe.scaled:
                program = pt2e.exported(own_scales.one_user_each(program.module()), example)
            elif recipe.number_format == "int8":
                quantizer = xnnpack_quantizer.XNNPACKQuantizer()
                scheme = xnnpack_quantizer.get_symmetric_quantization_config
                if recipe.activations == "dynamic":  # of convolutions it takes some alone, those without a ReLU
                    linear = torch.ops.aten.linear.default
                    quantizer.set_operator_type(linear, scheme(is_per_channel=True, is_dynamic=True))
                else:
                    quantizer.set_global(scheme(is_per_channel=True))
                module = pt2e.quantized(program.module(), quantizer, recipe, samples, batch=1)
                program = pt2e.exported(module, example)
            if recipe.number_format == "int8":
                (folder / BESIDE).mkdir()
                torch.export.save(program, folder / BESIDE / PROGRAM)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        (folder / MODEL).write_bytes(lowered.buffer)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Load the program's only method with a pool of `threads` threads; a call runs it for each item of a batch."""
        import numpy as np
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        torch.set_num_threads(threads)
        portable_lib._unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(folder / MODEL)
        method = program.load_method("forward")

        def predict(inputs: Batch) -> Output:
            items = zip(*(tensor.split(1) for tensor in tensors_of(inputs)), strict=True)
            results = [[output.numpy().copy() for output in method.execute(list(item))] for item in items]
            outputs = [np.concatenate(parts) for parts in zip(*results, strict=True)]
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

        return Session(predict, lambda: {"threadpool": portable_lib._threadpool_get_thread_count()}, keeps=program)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation:
        """The program before it was lowered to XNNPACK, kept beside the artefact, in eager mode, item by item: float
        operators between quantize and dequantize operators.
        """
        import numpy as np

        whole = pt2e.emulation(folder / BESIDE / PROGRAM, by_rows=recipe.activations == "dynamic")

        def predict(inputs: Batch) -> Output:
            outputs = [whole.predict(item.batch()) for item in Inputs.split(inputs)]
            if isinstance(outputs[0], tuple):
                return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))
            return np.concatenate(outputs)

        return Emulation(predict, whole.by)

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The multiplications handed to XNNPACK, in the formats that its graph states, and those that are not."""
        from bench.engines.executorch_count import layers_of

        layers = layers_of((folder / MODEL).read_bytes())
        return with_reasons(layers, recipe, self.dynamic, self.unlowered)


ENGINE = ExecuTorch()
