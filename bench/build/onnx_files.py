"""A model that exists only as an ONNX file: its graph becomes a PyTorch network, for all engines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.file_readers import reader_of
from bench.build.following import note
from bench.engines.onnx_graphs import reason_of
from bench.errors import DataError

if TYPE_CHECKING:
    import onnx
    import torch

TOLERANCE = 1e-4  # absolute and relative, of the converted network's outputs against ONNX Runtime's


def network_of(file: Path) -> torch.nn.Module:
    """The network of an ONNX file with a single float32 input, by onnx2torch; a batch fixed at 1 becomes free.

    Its outputs are compared with the file's on ONNX Runtime, item by item. Raises DataError where the file cannot be
    read or converted, or where the outputs differ.
    """
    import numpy as np
    import torch
    from onnx2torch import convert

    from bench.engines.engine import quiet
    from bench.engines.torch_modules import predictor

    session, graph = _opened(file)
    declared = session.get_inputs()
    listed = "; ".join(f"{value.name} {value.type.removeprefix('tensor')} {value.shape}" for value in declared)
    if len(declared) != 1 or declared[0].type != "tensor(float)":
        raise DataError(
            f"{file} wants {len(declared)} input{'s' * (len(declared) != 1)}: {listed}; a network from a file is given "
            f"one float32 input so far: `pytest {file}` measures the file as it is"
        )
    if not all(isinstance(extent, int) for extent in declared[0].shape[1:]):
        raise DataError(f"{file} must have an input whose shape is fixed but for its batch; it has: {listed}")
    try:
        with quiet():
            network = _told(convert(_free(graph))).eval()
    except Exception as error:  # a converter fails in many ways; all mean that it does not take this graph
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file} holds what onnx2torch does not convert: {reason}") from error
    inputs = np.random.default_rng(0).random((2, *declared[0].shape[1:]), np.float32)
    per_item = [session.run(None, {declared[0].name: inputs[place : place + 1]}) for place in range(2)]
    with quiet():
        outputs = predictor(network)(inputs)
    for number, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
        expected = np.concatenate([values[number] for values in per_item])
        if output.shape != expected.shape or not np.allclose(output, expected, atol=TOLERANCE, rtol=TOLERANCE):
            raise DataError(
                f"{file}: output {number} of the converted network differs from the file's: its batch is not free"
            )
    torch.manual_seed(0)
    return network


def _opened(file: Path) -> tuple[Any, onnx.ModelProto]:
    """A session of the file, and its graph with everything folded that follows from the fixed shapes.

    Files beside it that hold its weights are noted: they shape the network too.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded.bin")
    try:
        for data in reader_of(file).files(file)[1:]:
            note(data)
        with tempfile.TemporaryDirectory() as place:
            options.optimized_model_filepath = str(Path(place) / "folded.onnx")
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            graph = onnx.shape_inference.infer_shapes(
                onnx.load(options.optimized_model_filepath, load_external_data=False)
            )
            onnx.load_external_data_for_model(graph, place)
            return session, graph
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:  # ONNX Runtime and protobuf raise their own errors
        raise DataError(f"{file} cannot be read as ONNX: {reason_of(error)}") from error


def _free(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a free batch: a reshape or resize to a batch of 1 keeps its input's batch instead."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        info.name: [extent.dim_value for extent in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.input)
    }
    for node in graph.node:
        sizes = 1 if node.op_type == "Reshape" else 3 if node.op_type == "Resize" and len(node.input) == 4 else None
        if sizes is None or node.input[sizes] not in stored:
            continue
        wanted = numpy_helper.to_array(stored[node.input[sizes]])
        if node.op_type == "Reshape" and wanted[0] == 1:
            name, values = f"{node.output[0]}/shape", np.concatenate([[0], wanted[1:]]).astype(np.int64)
        elif node.op_type == "Resize" and node.input[0] in shapes:
            name = f"{node.output[0]}/scales"
            values = (wanted / np.array(shapes[node.input[0]])).astype(np.float32)
            del node.input[sizes]
            sizes = 2
        else:
            continue
        graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[sizes] = name
    for info in (*graph.input, *graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    return model


def _told(network: Any) -> torch.nn.Module:
    """The converted network with target shapes of reshapes and resizes as numbers, not as tensors read at run time.

    Exporters and quantizers follow only numbers. This function's name is in the classes' names below, and so in keys.
    """
    import torch
    from onnx2torch.node_converters.reshape import OnnxReshape
    from onnx2torch.node_converters.resize import OnnxResize
    from torch.nn import functional

    class Reshape(torch.nn.Module):
        def __init__(self, shape: list[int]) -> None:
            super().__init__()
            self.shape = tuple(shape)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = [x.shape[place] if extent == 0 else extent for place, extent in enumerate(self.shape)]
            return x.reshape(shape)

    class Resize(torch.nn.Module):
        def __init__(self, scales: list[float], like: Any, mode: str) -> None:
            super().__init__()
            self.scales, self.mode, self.align_corners = tuple(scales[2:]), mode, like.align_corners

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.interpolate(x, scale_factor=self.scales, mode=self.mode, align_corners=self.align_corners)

    modes = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
    for node in network.graph.nodes:
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(module, (OnnxReshape, OnnxResize)) or any(arg.op != "get_attr" for arg in node.args[1:]):
            continue
        values = [_value(network, arg.target).tolist() for arg in node.args[1:]]
        replacement = (
            Reshape(values[0])
            if isinstance(module, OnnxReshape)
            else Resize(values[1], module, modes[module.onnx_mode])
        )
        network.set_submodule(node.target, replacement)
        node.args = node.args[:1]
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _value(network: Any, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(network.get_submodule(owner), leaf)
