"""ONNX Runtime with other optimizations of the graph than a user's session has: none, basic ones, or those of its tool
for transformers before. For grids that name them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.onnx_graphs import save
from bench.engines.onnx_quantization import operators
from bench.engines.onnxruntime import MODEL, OnnxRuntime
from bench.errors import Unsupported
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    from bench.spec.inputs import Given


class Level(OnnxRuntime):
    """FP32 alone: INT8 kernels come from optimizations."""

    formats = ("fp32",)
    stores, activations, scaled = (), (), False
    devices = ("cpu",)
    reads, native = ("torch",), ""
    common = False

    def __init__(self, level: str) -> None:
        self.level = level


class ForTransformers(Level):
    """The artefact is what ONNX Runtime's tool for transformers makes of the file, by its fusions for a ViT."""

    def build(self, network: Any, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Write the file, then fuse. Raises Unsupported where nothing is fused."""
        from onnxruntime.transformers import optimizer

        super().build(network, recipe, samples, folder)
        before = operators(folder / MODEL)
        optimized = optimizer.optimize_model(
            str(folder / MODEL), model_type="vit", num_heads=0, hidden_size=0, opt_level=0
        )
        save(optimized.model, folder / MODEL)
        if not operators(folder / MODEL) - before:  # no kind of operator became more frequent
            raise Unsupported("ONNX Runtime's tool for transformers finds nothing to fuse in this network")


UNOPTIMIZED = Level("ORT_DISABLE_ALL")
BASIC = Level("ORT_ENABLE_BASIC")
TRANSFORMERS = ForTransformers("ORT_ENABLE_ALL")
