"""Export and quantize ONNX files for ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines.engine import quiet
from bench.errors import BuildError
from bench.machine.isa import saturates

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch


BATCH = "batch"  # the name of the free batch axis


def export(network: torch.nn.Module, example: np.ndarray, file: Path) -> None:
    """Write the network to an ONNX file with a free batch axis; the example has a batch of two or more."""
    import torch

    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (torch.from_numpy(example),),
            dynamo=True,
            input_names=["input"],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            verbose=False,
        )
        assert program is not None
        program.save(str(file), external_data=False)


def forget_weight_shapes(file: Path) -> None:
    """Remove the weights' shapes from an ONNX file: the dynamic quantizer transposes weights and fails on them."""
    import onnx

    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    others = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(others)
    onnx.save(model, file)


def operators(file: Path) -> Counter[str]:
    """{operator: its count in the graph of an ONNX file}."""
    import onnx

    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


def has_int8(file: Path) -> bool:
    """Whether an ONNX file quantizes anything."""
    return any("Quantize" in kind or "Integer" in kind for kind in operators(file))


def unshare_weights(file: Path) -> None:
    """Give each product and table of an ONNX file separate weights.

    The exporter merges equal weights. Where two layers share them, the dynamic quantizer transposes them in place
    twice, and the static quantizer writes scales per channel for a single layer, which the other cannot take.
    """
    import onnx

    model = onnx.load(file)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    consumers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        place = {"Gemm": 1, "MatMul": 1, "Conv": 1, "Gather": 0}.get(node.op_type)
        if place is not None and node.input[place] in stored and consumers[node.input[place]] > 1:
            copy = model.graph.initializer.add()
            copy.CopyFrom(stored[node.input[place]])
            consumers[node.input[place]] -= 1
            copy.name = node.input[place] = f"{node.output[0]}/weight"
    onnx.save(model, file)


def nodes_of(file: Path, modules: list[str]) -> list[str]:
    """The names of the nodes exported from these modules, by the exporter's scopes."""
    import ast

    import onnx

    wanted, names = set(modules), []
    for node in onnx.load(file).graph.node if wanted else ():
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        if scopes and wanted.intersection(ast.literal_eval(scopes[0])):
            names.append(node.name)
    return names


def quantize(prepared: Path, file: Path, samples: np.ndarray, left: list[str]) -> None:
    """Write a QDQ model: activations u8 asymmetric, weights s8 symmetric per channel, calibrated on samples (n, ...);
    the nodes named in `left` stay FP32. Weights have 7 bits where kernels saturate: 19 dB became 37 (AVX2, 1.31.1).

    s8 activations run on slow kernels: 49 against 874 GOP/s with u8 (AVX512-VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.inputs, None)
            return None if sample is None else {"input": sample[None]}

    quantize_static(
        prepared,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=saturates(),
        nodes_to_exclude=left,
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
