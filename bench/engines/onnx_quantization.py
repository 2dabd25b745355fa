"""Export and quantize ONNX files for ONNX Runtime."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.engine import quiet
from bench.engines.onnx_graphs import copied, data_files, large, save
from bench.errors import BuildError, Unsupported
from bench.machine.isa import saturates
from bench.spec.inputs import Inputs, arrays_of, tensors_of
from bench.spec.network import NetworkFile

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

    from bench.spec.inputs import Given


BATCH = "batch"  # the name of the free batch axis
NUMBERED = "val_"  # how the exporter begins the names of what it folds
PER_CHANNEL_OPSET = 13
GREAT, LARGEST_MASK = 1e4, 2**22  # a number that stands for infinity; the numbers of a mask
# operations that make, move or add masks
KEEPING_MASKS = (
    *("Where", "Mul", "Add", "Sub", "Cast", "Identity", "Expand", "Tile", "Concat", "Split", "Slice", "Gather"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
)


def export(network: torch.nn.Module, example: Given, file: Path) -> None:
    """Write the network to an ONNX file with a free batch axis; the example has a batch of two or more. The weights of
    a `large` one lie beside it.
    """
    import torch

    inputs = Inputs.of(example)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            tensors_of(inputs),
            dynamo=True,
            input_names=list(inputs.names),
            dynamic_shapes=({0: torch.export.Dim(BATCH)},) * len(inputs.names),
            verbose=False,
        )
        assert program is not None
        _name_weights(program.model.graph)
        program.save(str(file), external_data=False)


def _name_weights(graph: Any) -> None:
    """Name the weights of products by their modules, in place: the exporter transposes and numbers them.

    graph  an onnx_ir.Graph.
    """
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is not None and weight.is_initializer() and weight.name.startswith(NUMBERED):
            *modules, _ = _scopes(node.metadata_props)
            name = f"{modules[-1]}.weight_transposed" if modules else weight.name
            if name not in graph.initializers:
                weight.name = name


def _scopes(metadata: Mapping[str, str]) -> list[str]:
    """The names of the modules that a node was exported from, outermost first, if any, and its own."""
    import ast

    return ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "['']"))


def halve(exported: Path, file: Path) -> None:
    """Write an ONNX file with the weights of another in FP16, by ONNX Runtime's converter; inputs and outputs keep
    their types. ONNX Runtime's CPU provider computes most of its nodes in FP32, between casts.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        save(convert_float_to_float16(str(exported), keep_io_types=True), file)


def format_of_weights(file: Path) -> str:
    """The number format in which an ONNX file stores its floating weights, those of two axes or more; several where it
    has several.
    """
    import onnx

    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.DOUBLE: "fp64"}
    weights = as_written(file).graph.initializer
    kinds = {names[weight.data_type] for weight in weights if weight.data_type in names and len(weight.dims) > 1}
    return ", ".join(sorted(kinds))


def as_written(file: Path) -> Any:
    """The ONNX model that a .onnx or .ort file holds, before a session optimizes it."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as work:
        written = str(Path(work) / "written.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.save_model_format", "ONNX")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "written.data")
        options.optimized_model_filepath = written
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return onnx.load(written)


def forget_weight_shapes(file: Path) -> None:
    """Remove the weights' shapes from an ONNX file: the dynamic quantizer transposes weights and fails on them."""
    import onnx

    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    others = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(others)
    save(model, file)


def operators(file: Path) -> Counter[str]:
    """{operator: its count in the graph of an ONNX file}."""
    import onnx

    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


def has_int8(file: Path) -> bool:
    """Whether an ONNX file quantizes anything."""
    return any("Quantize" in kind or "Integer" in kind for kind in operators(file))


def unshare_weights(file: Path) -> None:
    """Give each product and table of an ONNX file separate weights.

    The exporter merges equal weights. The static quantizer numbers the biases that nodes share, so that a number may
    make the name of another value. Where two layers share them, the dynamic quantizer transposes them in place
    twice, and the static quantizer writes scales per channel for a single layer, which the other cannot take.
    """
    import onnx

    model = onnx.load(file)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    consumers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        for place in {"Gemm": (1, 2), "MatMul": (1,), "Conv": (1, 2), "Gather": (0,)}.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            if name in stored and consumers[name] > 1:
                copy = model.graph.initializer.add()
                copy.CopyFrom(stored[name])
                consumers[name] -= 1
                copy.name = node.input[place] = f"{node.output[0]}/{'bias' if place == 2 else 'weight'}"
    save(model, file)


def flatten_biases(file: Path) -> None:
    """Write the biases (1, n) of an ONNX file's Gemm nodes as (n,): the quantizer takes their rows for numbers."""
    import onnx

    model = onnx.load(file)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        bias = stored.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
            bias.dims[:] = bias.dims[1:]
    save(model, file)


def as_given(network: NetworkFile, file: Path) -> None:
    """Copy an ONNX file, and the files beside it that hold its weights."""
    copied(data_files(network.file), network.file.parent, file.parent)
    shutil.copyfile(network.file, file)


def with_sizes(network: NetworkFile, file: Path) -> None:
    """Write an ONNX file with the sizes that are asked for, for ONNX Runtime's quantizer.

    The batch axis stays free. Below opset 13 there are no scales per channel: "invalid graph".
    """
    import onnx
    from onnx import version_converter

    model = onnx.load(network.file)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < PER_CHANNEL_OPSET:
        if large(network.file):
            raise Unsupported(f"ONNX cannot raise a file of this size from opset {opset} to {PER_CHANNEL_OPSET}")
        model = version_converter.convert_version(model, PER_CHANNEL_OPSET)
    for value in model.graph.input:
        if value.name in network.sizes:
            axis, shape = network.batch_axes[value.name], value.type.tensor_type.shape
            names = [dim.dim_param for dim in shape.dim]
            del shape.dim[:]
            for place, extent in enumerate(network.sizes[value.name]):
                dim = shape.dim.add()
                if place == axis:
                    dim.dim_param = names[place] or BATCH
                else:
                    dim.dim_value = extent
    del model.graph.value_info[:]
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"  # by which nodes are left in FP32
    save(model, file)


def nodes_of(file: Path, modules: list[str]) -> list[str]:
    """The names of the nodes exported from these modules, by the exporter's scopes."""
    import onnx

    wanted, names = set(modules), []
    for node in onnx.load(file).graph.node if wanted else ():
        if wanted.intersection(_scopes({entry.key: entry.value for entry in node.metadata_props})):
            names.append(node.name)
    return names


def under_masks(file: Path) -> list[str]:
    """The names of the nodes of an ONNX file that take a mask, or scores under one: a value that holds numbers of GREAT
    and more. No scale of 8 bits holds them beside others: without their mask, 12 dB of 28 were left.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    masked = {tensor.name for tensor in graph.initializer if _great(tensor)}
    masked |= {
        node.output[0]
        for node in graph.node
        for attribute in node.attribute
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value" and _great(attribute.t)
    }
    names = []
    for node in graph.node:  # in the order of the graph: what makes a value stands before what takes it
        if not masked.isdisjoint(node.input):
            names.append(node.name)
            if node.op_type in KEEPING_MASKS:
                masked.update(node.output)
    return names


def _great(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor of floats in the file itself, no larger than masks are, reaches what stands for infinity."""
    import numpy as np
    from onnx import numpy_helper

    floats = tensor.data_type in (tensor.FLOAT, tensor.FLOAT16, tensor.DOUBLE)
    if not floats or tensor.data_location == tensor.EXTERNAL or not 0 < math.prod(tensor.dims) <= LARGEST_MASK:
        return False
    return float(np.abs(numpy_helper.to_array(tensor)).max()) >= GREAT


def quantize(prepared: Path, file: Path, samples: Given, left: list[str]) -> None:
    """Write a QDQ model: activations u8 asymmetric, weights s8 symmetric per channel, calibrated on samples.

    The nodes named in `left` stay FP32, and those under masks. Weights have 7 bits where kernels saturate: 19 dB became
    37 (AVX2, 1.31.1).

    s8 activations run on slow kernels: 49 against 874 GOP/s with u8 (AVX512-VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    inputs = Inputs.of(samples)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.items = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            item = next(self.items, None)
            return None if item is None else dict(zip(item.names, arrays_of(item), strict=True))

    quantize_static(
        prepared,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=saturates(),
        nodes_to_exclude=[*left, *under_masks(prepared)],
        use_external_data_format=large(prepared),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )


def check_weights(prepared: Path, file: Path) -> None:
    """Raise BuildError where the quantizer wrote other weights than the network's, as ONNX Runtime's does where two
    Gemm nodes share weights: it transposes them for each (1.31.1).

    Rounding to the nearest level, where 0 is a level, never errs by more than the weight itself: 0 dB. Unrelated
    weights are at -3 dB.
    """
    strayed = {name: weight_db for name, weight_db in weights_db(prepared, file).items() if weight_db < 0}
    if strayed:
        names = ", ".join(f"{name} ({weight_db:.1f} dB)" for name, weight_db in strayed.items())
        raise BuildError(f"ONNX Runtime's quantizer wrote other weights than the network's: {names}")


def weights_db(prepared: Path, file: Path) -> dict[str, float]:
    """{weight's name in `prepared`: its SQNR in dB in the quantized `file`}, for convolutions and products."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from bench.statistics import sqnr_db

    before, after = onnx.load(prepared).graph, onnx.load(file).graph
    original, stored = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer} for graph in (before, after)
    )
    dequantized = {node.input[0]: node for node in after.node if node.op_type == "DequantizeLinear"}
    turned_before, turned_after = (
        {node.input[1] for node in graph.node if _transposes(node)} for graph in (before, after)
    )
    sqnr = {}
    for name in {node.input[1] for node in before.node if node.op_type in ("Conv", "Gemm", "MatMul")}:
        if name not in original or (whole := stored.get(f"{name}_quantized")) is None:
            continue
        scale, zero, axis = stored[f"{name}_scale"], stored[f"{name}_zero_point"], 0
        node = dequantized.get(f"{name}_quantized")
        for attribute in node.attribute if node is not None else ():
            axis = attribute.i if attribute.name == "axis" else axis
        shape = [-1 if place == axis % whole.ndim else 1 for place in range(whole.ndim)]
        meant = (whole.astype(np.float64) - zero.astype(np.float64).reshape(shape)) * scale.reshape(shape)
        turned = (name in turned_before) != (node is not None and node.output[0] in turned_after)
        wanted = original[name].T if turned else original[name]
        sqnr[name] = sqnr_db(meant, wanted) if meant.shape == wanted.shape else -np.inf
    return sqnr


def _transposes(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and any(item.name == "transB" and item.i for item in node.attribute)
