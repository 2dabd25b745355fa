"""ONNX Runtime from its .ort format, which its builds for phones read; quantized as the ONNX file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.onnx_graphs import data_files
from bench.engines.onnxruntime import MODEL, OnnxRuntime
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    from bench.spec.inputs import Given

ORT = "model.ort"


class OnnxRuntimeMobile(OnnxRuntime):
    """The artefact is a .ort file: the graph after the optimizations that hold on every machine."""

    format = "ort"
    reads, native = ("torch",), ""
    file = ORT
    devices = ("cpu",)

    def build(self, network: Any, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Write the .ort file instead of the .onnx."""
        import onnxruntime

        super().build(network, recipe, samples, folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / ORT)
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])
        for written in (folder / MODEL, *data_files(folder / MODEL)):
            written.unlink()


ENGINE = OnnxRuntimeMobile()
