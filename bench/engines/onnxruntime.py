"""ONNX Runtime: on its CPU provider FP32, FP16 files, static and dynamic INT8; on its CUDA provider FP32, TF32, FP16.

Nothing here was measured with the CUDA provider yet.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.engines import own_scales
from bench.engines.engine import Emulation, Engine, Session, two_of
from bench.engines.equivalents import without_transposed
from bench.engines.lowered import Layer, as_stated, with_reasons
from bench.engines.onnx_graphs import large, save
from bench.engines.onnx_quantization import (
    BATCH,
    as_given,
    as_written,
    check_weights,
    export,
    flatten_biases,
    forget_weight_shapes,
    format_of_weights,
    halve,
    has_int8,
    nodes_of,
    operators,
    quantize,
    unshare_weights,
    with_sizes,
)
from bench.engines.onnx_weights import compressed
from bench.engines.operations import CALLS, Operation, format_of
from bench.errors import Unsupported
from bench.machine.isa import saturates
from bench.spec.inputs import batch_of
from bench.spec.network import NetworkFile
from bench.spec.outcome import Setting
from bench.spec.packages import STANDS_IN, lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Output, Predict
    from bench.store import Facts

Event = dict[str, Any]  # of ONNX Runtime's profile
MODEL = "model.onnx"
BITS = {"int8": 8, "int4": 4}  # of weights alone
LEFT_LSTM = "ONNX Runtime's dynamic quantizer left this LSTM; it leaves all that lies inside of If and Loop"


class OnnxRuntime(Engine):
    """The artefact is an ONNX file with a free batch axis."""

    packages = ("onnx", "onnxruntime", "onnxscript", "torch")
    format = "onnx"
    formats: tuple[str, ...] = ("fp32", "fp16", "int8", "int4")
    stores: tuple[str, ...] = ("fp16",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    formats_on = MappingProxyType({"cuda": ("fp32", "tf32", "fp16")})
    reads: tuple[str, ...] = ("torch", "onnx")
    native = "onnx"
    activations: tuple[str, ...] = ("static", "dynamic", "float")
    scaled = True
    file = MODEL
    level = "ORT_ENABLE_ALL"  # which optimizations of the graph a session makes, as ONNX Runtime names them
    dynamic = ("conv1d", "conv2d", "conv3d", "depthwise", "transposed", "linear", "lstm")
    unlowered = MappingProxyType(
        {
            "transposed": "ONNX Runtime has no INT8 kernel for ConvTranspose",
            **dict.fromkeys(("lstm", "gru", "rnn"), "ONNX Runtime's static quantizer leaves recurrent layers"),
        }
    )

    def missing(self) -> str | None:
        """Return why not: a package is missing, on a GPU the build of ONNX Runtime that has the CUDA provider."""
        return lacking(self.packages if self.device == "cpu" else (*self.packages, STANDS_IN["onnxruntime"]))

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return the reason against bfloat16."""
        if recipe.number_format == "bf16":
            return "ONNX Runtime's CPU provider has no bfloat16 kernels for convolutions"
        return None

    def settings(self) -> Facts:
        """Whether weights have 7 bits."""
        return {"reduce_range": saturates()}

    def build(self, network: Any, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Export the network, or take the ONNX file as it is. For INT8, write a network's transposed convolutions as
        convolutions, since there are no INT8 kernels for ConvTranspose, and quantize after ONNX Runtime's
        pre-processing.
        """
        with tempfile.TemporaryDirectory() as work:
            exported = Path(work) / "exported.onnx"
            if recipe.scaled:
                export(own_scales.decomposed(network), two_of(samples), folder / MODEL)
            elif recipe.activations is None:
                written = exported if recipe.number_format == "fp16" else folder / MODEL
                if isinstance(network, NetworkFile):
                    as_given(network, written)
                else:
                    export(network, two_of(samples), written)
                if written == exported:
                    halve(exported, folder / MODEL)
            elif isinstance(network, NetworkFile):
                with_sizes(network, exported)
                _quantize(exported, recipe, samples, [], folder.absolute() / MODEL)
            else:
                export(without_transposed(network, samples[:1]), two_of(samples), exported)
                left = nodes_of(exported, recipe.left_alone(network))
                _quantize(exported, recipe, samples, left, folder.absolute() / MODEL)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Open a session with a single pool of `threads` threads, for exactly the example's batch."""
        session = self._opened(folder, recipe, example, threads)

        def pools() -> dict[str, Setting]:
            options = session.get_session_options()
            return {
                "intra_op": options.intra_op_num_threads,
                "inter_op": options.inter_op_num_threads,
                "execution_mode": options.execution_mode.name,
            }

        return Session(predictor(session), pools)  # its queue on a GPU is its own: PyTorch's events do not time it

    def _providers(self, recipe: Recipe) -> list[Any]:
        """The execution providers of the engine's device."""
        if self.device == "cpu":
            return ["CPUExecutionProvider"]
        import onnxruntime

        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries that PyTorch brings
        return [("CUDAExecutionProvider", {"use_tf32": int(recipe.number_format == "tf32")})]

    def _opened(self, folder: Path, recipe: Recipe, example: Given, threads: int, profile: Path | None = None) -> Any:
        """A session on the artefact; it writes a profile to the path `profile`, if given."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self.level)
        options.add_free_dimension_override_by_name(BATCH, len(example))
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if self.device != "cpu":  # nodes that a provider lacks would run on the CPU without a word
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = onnxruntime.InferenceSession(folder / self.file, options, providers=self._providers(recipe))
        if self.device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
            raise Unsupported(f"ONNX Runtime cannot load its CUDA provider here: it has {session.get_providers()}")
        return session

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Operation] | None:
        """The median time over calls of each node of the optimized graph, by ONNX Runtime's profile.

        None on a GPU, where the profile has the times to issue nodes.
        """
        if self.device != "cpu":
            return None
        with tempfile.TemporaryDirectory() as work:
            session = self._opened(folder, recipe, example, threads, Path(work) / "profile")
            predict, batch = predictor(session), batch_of(example)
            for _ in range(CALLS):
                predict(batch)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes: dict[str, list[Event]] = {}
        for event in events:
            if event.get("cat") == "Node" and "op_name" in event.get("args", {}):
                nodes.setdefault(event["name"], []).append(event)
        return [
            Operation(
                kind := runs[0]["args"]["op_name"],
                format_of(kind, not recipe.weights_alone and _in_int8(runs[0]["args"])),
                statistics.median(event["dur"] for event in runs) / 1e6,
            )
            for runs in nodes.values()
        ]

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation:
        """The artefact's graph without optimizations, so that quantized layers stay as written: float operations
        between QuantizeLinear and DequantizeLinear. Whole-number products become float products.
        """
        import onnx
        import onnxruntime

        from bench.engines.emulation_onnx import in_floating_point, multiplying_whole_numbers

        with tempfile.TemporaryDirectory() as work:
            executed, floating = str(Path(work) / "executed.onnx"), Path(work) / "floating.onnx"
            model = as_written(folder / self.file)
            in_floating_point(model)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.add_free_dimension_override_by_name(BATCH, len(example))
            options.optimized_model_filepath = executed
            save(model, floating)
            session = onnxruntime.InferenceSession(floating, options)
            if whole := multiplying_whole_numbers(onnx.load(executed, load_external_data=False).graph.node):
                raise Unsupported(f"ONNX Runtime without optimizations still runs {', '.join(sorted(set(whole)))}")
        return Emulation(predictor(session), "the artefact's graph in floating point on ONNX Runtime")

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The multiplications of ONNX Runtime's optimized graph in a call."""
        from bench.engines.onnx_count import executed, layers_of

        count = len(example)
        providers = self._providers(recipe)
        call = executed(folder / self.file, {BATCH: count}, batch_of(example), providers, self.level)
        layers = layers_of(*call, count)
        if self.device != "cpu":
            return as_stated(layers, recipe)
        if recipe.number_format in self.stores:
            stored = format_of_weights(folder / self.file)
            return [replace(layer, stored=stored) for layer in layers]
        left = self.unlowered | ({"lstm": LEFT_LSTM} if recipe.activations == "dynamic" else {})
        return with_reasons(layers, recipe, self.covered(recipe), left)


def _quantize(exported: Path, recipe: Recipe, samples: Given, left: list[str], file: Path) -> None:
    """Write an ONNX file in INT8, or with its weights in few bits. Raises Unsupported where nothing is quantized."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises on the root logger
    prepared = exported.with_name("prepared.onnx")
    with contextlib.chdir(exported.parent):  # where onnx looks for files in the way
        beside = {"save_as_external_data": True, "all_tensors_to_one_file": True} if large(exported) else {}
        quant_pre_process(exported, prepared, skip_symbolic_shape=True, **beside)
        if recipe.weights_alone:
            compressed(prepared, BITS[recipe.number_format], file)
            return
        unshare_weights(prepared)
        flatten_biases(prepared)
        if recipe.activations == "dynamic":
            forget_weight_shapes(prepared)
            # u8 weights: ConvInteger took 19 ms against 89 ms with s8 (ResNet20, batch 32, AVX512-VNNI); the LSTM
            # saturates with them: 20 dB became 39 with 7 bits (AVX2, 1.31.1); products do not
            short = saturates() and operators(prepared)["LSTM"] > 0
            settings = {"reduce_range": short, "use_external_data_format": large(prepared)}
            quantize_dynamic(prepared, file, weight_type=QuantType.QUInt8, **settings)
        else:
            quantize(prepared, file, samples, left)
        if not recipe.partial and not has_int8(file):
            raise Unsupported(
                f"ONNX Runtime's quantizer finds nothing in this network to lower with {recipe.activations} scales"
            )
        check_weights(prepared, file)


def predictor(session: Any) -> Predict:
    """A function that runs an ONNX Runtime session: a call's inputs -> its outputs, a tuple of several."""
    name = session.get_inputs()[0].name

    def predict(inputs: Batch) -> Output:
        outputs = session.run(None, inputs if isinstance(inputs, Mapping) else {name: inputs})
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict


def _in_int8(facts: Event) -> bool:
    """Whether a node of a profile computed in whole numbers: whether an input had 8 bits."""
    kinds = {kind for shapes in facts.get("input_type_shape", []) for kind in shapes}
    return bool(kinds & {"int8", "uint8"})


ENGINE = OnnxRuntime()
