"""ONNX Runtime on its CPU provider: FP32, QDQ static INT8, dynamic INT8."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.engines.engine import Emulation, Engine, quiet, two_of
from bench.engines.equivalents import without_transposed
from bench.engines.lowered import Layer, with_reasons
from bench.engines.operations import CALLS, Operation, format_of
from bench.errors import BuildError, Unsupported
from bench.machine.isa import saturates
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

    from bench.spec.interface import Output, Predict

MODEL = "model.onnx"
BATCH = "batch"


class OnnxRuntime(Engine):
    """The artefact is one ONNX file with a free batch axis."""

    packages = ("onnx", "onnxruntime", "onnxscript", "torch")
    format = "onnx"
    formats = ("fp32", "int8")
    activations = ("static", "dynamic")
    file = MODEL
    dynamic = ("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "linear", "lstm")
    unlowered = MappingProxyType(
        {
            "transposed": "ONNX Runtime has no INT8 kernel for ConvTranspose",
            **dict.fromkeys(("lstm", "gru", "rnn"), "ONNX Runtime's static quantizer leaves recurrent layers"),
        }
    )

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Give the reason why not: bfloat16, another device."""
        if device != "cpu":
            return f"only the CPU is served so far, not {device!r}"
        if recipe.number_format == "bf16":
            return "ONNX Runtime's CPU provider has no bfloat16 kernels for convolutions"
        return None

    def settings(self) -> dict[str, object]:
        """Whether weights keep to 7 bits."""
        return {"reduce_range": saturates()}

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Export the network; quantize it after ONNX Runtime's own pre-processing, its transposed convolutions as
        convolutions: there are no INT8 kernels for ConvTranspose.
        """
        with tempfile.TemporaryDirectory() as work:
            exported, prepared = Path(work) / "exported.onnx", Path(work) / "prepared.onnx"
            if recipe.number_format == "fp32":
                export(network, two_of(samples), folder / MODEL)
                return
            alone = recipe.left_alone(network)
            export(without_transposed(network, samples[:1]), two_of(samples), exported)
            left = nodes_of(exported, alone)
            logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises on the root logger
            from onnxruntime.quantization import QuantType, quantize_dynamic
            from onnxruntime.quantization.shape_inference import quant_pre_process

            quant_pre_process(exported, prepared, skip_symbolic_shape=True)
            unshare_weights(prepared)
            if recipe.activations == "dynamic":
                forget_weight_shapes(prepared)
                # u8 weights: ConvInteger took 19 ms with them against 89 ms with s8 (ResNet20, batch 32, AVX512-VNNI)
                # its LSTM saturates with them: 20 dB became 39 with 7 bits (AVX2, 1.31.1); its products do not
                short = saturates() and operators(prepared)["LSTM"] > 0
                quantize_dynamic(prepared, folder / MODEL, weight_type=QuantType.QUInt8, reduce_range=short)
            else:
                quantize(prepared, folder / MODEL, samples, left)
            if not recipe.partial and not has_int8(folder / MODEL):
                raise Unsupported(
                    f"ONNX Runtime's quantizer finds nothing in this network to lower with {recipe.activations} scales"
                )
            check_weights(prepared, folder / MODEL)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Open a session with one pool of `threads` threads, for exactly the example's batch."""
        session = self._session = self._opened(folder, example, threads)
        name = session.get_inputs()[0].name

        def predict(inputs: np.ndarray) -> Output:
            outputs = session.run(None, {name: inputs})
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

        return predict

    def _opened(self, folder: Path, example: np.ndarray, threads: int, profile: Path | None = None) -> Any:
        """A session on the artefact, one that writes a profile where a path for it is given."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name(BATCH, len(example))
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        return onnxruntime.InferenceSession(folder / self.file, options, providers=["CPUExecutionProvider"])

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> list[Operation]:
        """The median over calls of each node of the optimized graph, by ONNX Runtime's profile."""
        with tempfile.TemporaryDirectory() as work:
            session = self._opened(folder, example, threads, Path(work) / "profile")
            name = session.get_inputs()[0].name
            for _ in range(CALLS):
                session.run(None, {name: example})
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            if event.get("cat") == "Node" and "op_name" in event.get("args", {}):
                nodes.setdefault(event["name"], []).append(event)
        return [
            Operation(
                kind := runs[0]["args"]["op_name"],
                format_of(kind, _in_int8(runs[0]["args"])),
                statistics.median(event["dur"] for event in runs) / 1e6,
            )
            for runs in nodes.values()
        ]

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Emulation:
        """The artefact's own graph without optimizations, so that quantized layers stay what they are written as: float
        operations between QuantizeLinear and DequantizeLinear; what is written as whole-number products, as float ones.
        """
        import onnx
        import onnxruntime

        from bench.engines.emulation_onnx import in_floating_point, multiplying_whole_numbers

        with tempfile.TemporaryDirectory() as work:
            written, executed = str(Path(work) / "written.onnx"), str(Path(work) / "executed.onnx")
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.save_model_format", "ONNX")
            options.optimized_model_filepath = written
            onnxruntime.InferenceSession(folder / self.file, options, providers=["CPUExecutionProvider"])
            model = onnx.load(written)
            in_floating_point(model)
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.add_free_dimension_override_by_name(BATCH, len(example))
            options.optimized_model_filepath = executed
            session = onnxruntime.InferenceSession(model.SerializeToString(), options)
            if whole := multiplying_whole_numbers(onnx.load(executed).graph.node):
                raise Unsupported(f"ONNX Runtime without optimizations still runs {', '.join(sorted(set(whole)))}")
        name = session.get_inputs()[0].name

        def predict(inputs: np.ndarray) -> Output:
            outputs = session.run(None, {name: inputs})
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

        return Emulation(predict, "the artefact's graph in floating point on ONNX Runtime")

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> list[Layer]:
        """What ONNX Runtime's optimized graph multiplies in a call."""
        from bench.engines.onnx_count import batch_of, executed, layers_of

        batch = batch_of(example)
        layers = layers_of(*executed(folder / self.file, {BATCH: batch}, example), batch)
        return with_reasons(layers, recipe, self.dynamic, self.unlowered)

    def pool(self) -> dict[str, object]:
        """The session's own pools."""
        options = self._session.get_session_options()
        return super().pool() | {
            "intra_op": options.intra_op_num_threads,
            "inter_op": options.inter_op_num_threads,
            "execution_mode": options.execution_mode.name,
        }


def _in_int8(told: dict[str, Any]) -> bool:
    """Whether a node of a profile computed in whole numbers: whether an input was of 8 bits."""
    kinds = {kind for shapes in told.get("input_type_shape", []) for kind in shapes}
    return bool(kinds & {"int8", "uint8"})


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


ENGINE = OnnxRuntime()
