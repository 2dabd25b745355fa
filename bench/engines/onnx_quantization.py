"""ONNX files made and quantized for ONNX Runtime."""

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


BATCH = "batch"


def export(network: torch.nn.Module, example: np.ndarray, file: Path) -> None:
    """Write the network to one ONNX file with a free batch axis; the example has a batch of two or more."""
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
    """Take the shapes of weights out of an ONNX file: the dynamic quantizer transposes weights and trips over them."""
    import onnx

    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    others = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(others)
    onnx.save(model, file)


def operators(file: Path) -> Counter[str]:
    """How often each operator stands in the graph of an ONNX file."""
    import onnx

    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


def has_int8(file: Path) -> bool:
    """Whether an ONNX file quantizes anything."""
    return any("Quantize" in kind or "Integer" in kind for kind in operators(file))


def unshare_weights(file: Path) -> None:
    """Give each product and table of an ONNX file weights of its own. The exporter makes equal weights one; the dynamic
    quantizer transposes them in place, twice where two layers share them, and the static one writes scales per channel
    for one of them, which the other cannot take.
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
    """The names of the nodes that were exported from these modules, by the scopes that the exporter noted."""
    import ast

    import onnx

    wanted, found = set(modules), []
    for node in onnx.load(file).graph.node if wanted else ():
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        if scopes and wanted.intersection(ast.literal_eval(scopes[0])):
            found.append(node.name)
    return found


def quantize(prepared: Path, file: Path, samples: np.ndarray, left: list[str]) -> None:
    """Write a QDQ model: activations u8 asymmetric, weights s8 symmetric per channel, calibrated on samples (n, ...);
    the nodes named in `left` stay FP32. Weights have 7 bits where kernels saturate: 19 dB became 37 (AVX2, 1.31.1).

    s8 activations would fall to slow kernels: 49 against 874 GOP/s on an AVX512-VNNI machine.
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
    Gemm nodes share theirs: it transposes them for each (1.31.1).

    Rounding to the nearest of levels of which 0 is one never errs by more than the weight itself: 0 dB. Others' weights
    are at -3 dB.
    """
    strayed = {name: own_db for name, own_db in weights_db(prepared, file).items() if own_db < 0}
    if strayed:
        told = ", ".join(f"{name} ({own_db:.1f} dB)" for name, own_db in strayed.items())
        raise BuildError(f"ONNX Runtime's quantizer wrote other weights than the network's: {told}")


def weights_db(prepared: Path, file: Path) -> dict[str, float]:
    """The SQNR in dB of each weight of a convolution or product in a quantized file against the file that it was made
    of, by the name there.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from bench.statistics import sqnr_db

    before, after = onnx.load(prepared).graph, onnx.load(file).graph
    known, stored = ({one.name: numpy_helper.to_array(one) for one in graph.initializer} for graph in (before, after))
    dequantized = {node.input[0]: node for node in after.node if node.op_type == "DequantizeLinear"}
    turned_before, turned_after = (
        {node.input[1] for node in graph.node if _transposes(node)} for graph in (before, after)
    )
    found = {}
    for name in {node.input[1] for node in before.node if node.op_type in ("Conv", "Gemm", "MatMul")}:
        if name not in known or (whole := stored.get(f"{name}_quantized")) is None:
            continue
        scale, zero, axis = stored[f"{name}_scale"], stored[f"{name}_zero_point"], 0
        node = dequantized.get(f"{name}_quantized")
        for attribute in node.attribute if node is not None else ():
            axis = attribute.i if attribute.name == "axis" else axis
        shape = [-1 if place == axis % whole.ndim else 1 for place in range(whole.ndim)]
        meant = (whole.astype(np.float64) - zero.astype(np.float64).reshape(shape)) * scale.reshape(shape)
        turned = (name in turned_before) != (node is not None and node.output[0] in turned_after)
        wanted = known[name].T if turned else known[name]
        found[name] = sqnr_db(meant, wanted) if meant.shape == wanted.shape else -np.inf
    return found


def _transposes(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and any(one.name == "transB" and one.i for one in node.attribute)
