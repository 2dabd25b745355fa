"""OpenVINO on the CPU: FP32, BF16, static and dynamic INT8 by NNCF."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.engines import openvino_dynamic, openvino_weights, own_scales
from bench.engines.engine import Emulation, Engine, Session, quiet, two_of
from bench.engines.lowered import Layer, with_reasons
from bench.engines.onnx_quantization import export
from bench.engines.operations import CALLS, Operation, format_of
from bench.errors import BuildError, Unsupported
from bench.machine.isa import cpu_flags, saturates
from bench.spec.inputs import Inputs, arrays_of, batch_of, tensors_of
from bench.spec.network import NetworkFile
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Output
    from bench.store import Facts

MODEL = "model.xml"
SAID = 200  # most characters of OpenVINO's error that a message quotes
POOLS = ("NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING", "INFERENCE_PRECISION_HINT")
RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell")
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
PRODUCTS = (*CONVOLUTIONS, "MatMul", *RECURRENT)
# no transformation to INT8 kernels, and no quantization of inputs at run time where weights stay INT8
FLOATING: dict[str, Any] = {"LP_TRANSFORMS_MODE": False} | openvino_dynamic.NEVER
MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "LSTMSequence", "GRUSequence", "RNNSeq")


class OpenVino(Engine):
    """The artefact is an IR with a free batch axis, which `load` fixes."""

    packages = ("openvino", "nncf", "torch")
    format = "openvino-ir"
    unlowered = MappingProxyType(dict.fromkeys(("lstm", "gru", "rnn"), "OpenVINO's INT8 kernel for an LSTM errs"))
    formats = ("fp32", "bf16", "fp16", "int8", "int4")
    stores = ("fp16",)  # stated as its precision, FP16 becomes bfloat16 on CPUs that have that
    reads = ("torch", "onnx", "openvino-ir")
    native = "openvino-ir"
    activations = ("static", "dynamic", "float")
    scaled = True

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return the reason against dynamic INT8 and BF16 on a CPU without their instructions."""
        if recipe.activations == "dynamic":
            return openvino_dynamic.lacking()
        if recipe.number_format == "bf16" and cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16")):
            return "this CPU has neither avx512_bf16 nor amx_bf16"
        return None

    def settings(self) -> Facts:
        """Which weights have 7 bits: all, or NNCF's default, those of the first convolutions."""
        return {"overflow_fix": "enable" if saturates() else "first_layer_only"}

    def build(self, network: Any, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Convert the network, or read the file that it is; quantize it on the samples for static INT8."""
        import openvino

        alone: list[str] = []
        if isinstance(network, NetworkFile):
            model = read(network)
        elif recipe.scaled:
            model = with_own_scales(network, samples)
        else:
            alone = recipe.left_alone(network)
            model = converted(network, samples, named=bool(alone))
        if recipe.activations is not None and not recipe.scaled:
            left = [node.get_friendly_name() for node in model.get_ordered_ops() if _belongs(node, alone)]
            model = self._quantized(model, recipe, samples, left)
        openvino.save_model(model, folder / MODEL, compress_to_fp16=recipe.number_format == "fp16")
        if recipe.number_format == "bf16":
            keep_precise(folder / MODEL, before_whole_numbers(model))

    def _quantized(self, model: Any, recipe: Recipe, samples: Given, left: list[str]) -> Any:
        """The model in INT8 but for the named operations."""
        import nncf

        nncf.set_log_level(logging.ERROR)
        if recipe.weights_alone:
            return openvino_weights.compressed(model, recipe.number_format, (*CONVOLUTIONS, *RECURRENT, "Gather"))
        if recipe.activations == "dynamic":
            model = openvino_dynamic.compressed(model, left, kept=(*CONVOLUTIONS, *RECURRENT))
            if not recipe.partial and not self._at_run_time(_fixed(model.clone(), samples[:1]), recipe, threads=1):
                raise Unsupported(openvino_dynamic.NOTHING)
            return model
        # its INT8 LSTM errs: an SQNR of 1 or 22 dB, by batch size (OpenVINO 2026.4.1)
        ignored = nncf.IgnoredScope(names=left, types=list(RECURRENT), validate=False)
        dataset = nncf.Dataset([dict(enumerate(arrays_of(item))) for item in Inputs.of(samples)])
        # 7 bits: 17 dB became 42 in a linear layer (AVX2, 2026.4.1)
        fix = nncf.OverflowFix(self.settings()["overflow_fix"])
        advanced = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
        model = nncf.quantize(
            model, dataset, subset_size=len(samples), ignored_scope=ignored, advanced_parameters=advanced
        )
        if not recipe.partial and all(node.get_type_name() != "FakeQuantize" for node in model.get_ops()):
            raise Unsupported("OpenVINO has no right static INT8 for anything in this network")
        return model

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Compile for exactly the example's shape, a single stream of `threads` threads."""
        compiled = _compiled(_read(folder, example), recipe, threads)
        request = compiled.create_infer_request()

        def predict(inputs: Batch) -> Output:
            outputs = tuple(request.infer(_numbered(inputs), share_inputs=True).values())
            return outputs[0] if len(outputs) == 1 else outputs

        return Session(predict, lambda: {name.lower(): str(compiled.get_property(name)) for name in POOLS})

    def _at_run_time(self, model: Any, recipe: Recipe, threads: int, runtime: Any = None) -> frozenset[str]:
        """The names of a model's products whose activations the plugin quantizes at run time.

        runtime  the compiled model's `get_runtime_model()`; None: the model is compiled for it.
        """
        if recipe.weights_alone:
            return frozenset()
        runtime = runtime or _compiled(model, recipe, threads).get_runtime_model()
        return openvino_dynamic.quantized(model, runtime, lambda part, more: _compiled(part, recipe, threads, more))

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Operation]:
        """The median time over calls of each node of the executed graph, with its kernel."""
        from bench.engines.openvino_count import matched, products_of, steps_of

        model = _read(folder, example)
        compiled = _compiled(model, recipe, threads, {"PERF_COUNT": True})
        runtime, products = compiled.get_runtime_model(), list(products_of(model))
        at_run_time = self._at_run_time(model, recipe, threads, runtime)
        steps = matched(products, list(steps_of(runtime)))
        quantized = [step.names for place, step in steps.items() if products[place].name in at_run_time]
        in_int8 = frozenset().union(*quantized)
        request = compiled.create_infer_request()
        nodes: dict[str, list[Any]] = {}
        numbered = _numbered(batch_of(example))
        for _ in range(CALLS):
            request.infer(numbered)
            for node in request.profiling_info:
                nodes.setdefault(node.node_name, []).append(node)
        return [
            Operation(
                runs[0].node_type,
                format_of(runs[0].node_type, name in in_int8 or _in_int8(runs[0].exec_type)),
                statistics.median(node.real_time.total_seconds() for node in runs),
                kernel=runs[0].exec_type,
            )
            for name, runs in nodes.items()
            if any(node.real_time.total_seconds() > 0 for node in runs)
        ]

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The IR's multiplications, each in the number format of the executed graph."""
        from bench.engines.openvino_count import layers_of

        model = _read(folder, example)
        runtime = _compiled(model, recipe, threads).get_runtime_model()
        layers = layers_of(model, runtime, len(example), self._at_run_time(model, recipe, threads, runtime))
        if recipe.number_format in self.stores:
            return layers
        left = {**self.unlowered, **openvino_weights.LEFT.get(recipe.activations or "", {})}
        return with_reasons(layers, recipe, self.covered(recipe), left)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation:
        """The IR compiled without the plugin's low-precision transformations, so that each FakeQuantize stays a
        separate operation between float operations. Raises Unsupported where a node still multiplies whole numbers.
        """
        model = _read(folder, example)
        if recipe.activations == "dynamic":
            model = openvino_dynamic.rounded(model, self._at_run_time(model, recipe, threads))
        compiled = _compiled(model, recipe, threads, FLOATING)
        for node in compiled.get_runtime_model().get_ordered_ops():
            kind, kernel = (str(node.get_rt_info()[name].value) for name in ("layerType", "primitiveType"))
            if kind in MULTIPLYING and _in_int8(kernel):
                raise Unsupported(f"OpenVINO's CPU plugin runs {kind} as {kernel} without low precision, too")
        request = compiled.create_infer_request()

        def predict(inputs: Batch) -> Output:
            outputs = tuple(output.copy() for output in request.infer(_numbered(inputs)).values())
            return outputs[0] if len(outputs) == 1 else outputs

        return Emulation(predict, "the IR on OpenVINO without low precision")


def _read(folder: Path, example: Given) -> Any:
    """An artefact's IR at exactly the example's shape."""
    import openvino

    return _fixed(openvino.Core().read_model(folder / MODEL), example)


def _fixed(model: Any, example: Given) -> Any:
    """The model, its shapes fixed to the example's."""
    model.reshape({place: list(array.shape) for place, array in enumerate(arrays_of(example))})
    return model


def _compiled(model: Any, recipe: Recipe, threads: int, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A model with a single stream of so many threads.

    The precision is always stated: by default the CPU plugin computes an FP32 model in bfloat16 where it can.
    """
    import openvino

    stated = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "bf16" if recipe.number_format == "bf16" else "f32",
    }
    if recipe.activations == "dynamic":
        stated |= openvino_dynamic.AT_RUN_TIME
    if recipe.weights_alone:
        stated |= openvino_dynamic.NEVER
    return openvino.Core().compile_model(model, "CPU", {**stated, **more})


def converted(network: torch.nn.Module, samples: Given, named: bool) -> Any:
    """OpenVINO's model of a PyTorch network, with a free batch axis.

    named  whether its operations must keep the names of the modules that they come from.
    """
    import openvino
    import torch
    from torch.fx.experimental.optimization import fuse

    if named:  # otherwise a convolution takes the name of the normalization folded into it, and its module is lost
        network = fuse(network)
    with quiet(), torch.inference_mode():
        pair = tensors_of(two_of(samples))
        model = openvino.convert_model(network, example_input=pair if len(pair) > 1 else pair[0])
    if len(model.inputs) != len(pair):
        raise BuildError(f"OpenVINO kept {len(model.inputs)} of {len(pair)} inputs: the network does not use all")
    model.reshape({place: [-1, *tensor.shape[1:]] for place, tensor in enumerate(pair)})
    return model


def with_own_scales(network: torch.nn.Module, samples: Given) -> Any:
    """OpenVINO's model of a network that brings INT8 scales, by an ONNX file: it knows no other form of them."""
    import openvino

    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "scaled.onnx"
        export(own_scales.decomposed(network), two_of(samples), file)
        return openvino.convert_model(file)


def read(network: NetworkFile) -> Any:
    """OpenVINO's model of a network file at the sizes that are asked for, its batch axis free.

    Raises Unsupported where OpenVINO does not read the file.
    """
    import openvino

    try:
        model = openvino.Core().read_model(network.file)
        places = {port.name: _place(model, port.name, count) for count, port in enumerate(network.signature.inputs)}
        shapes = {
            places[name]: [-1 if axis == network.batch_axes[name] else extent for axis, extent in enumerate(shape)]
            for name, shape in network.sizes.items()
        }
        model.reshape(shapes)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith(("Exception", "Check"))]
        raise Unsupported(f"OpenVINO does not read this file: {' '.join(' '.join(lines).split())[:SAID]}") from error
    if list(places.values()) != list(range(len(places))):
        raise Unsupported(f"OpenVINO has the file's inputs in another order: {list(places)} at {list(places.values())}")
    return model


def _place(model: Any, name: str, otherwise: int) -> int:
    """The place of the input of this name."""
    return next((place for place, port in enumerate(model.inputs) if name in port.get_names()), otherwise)


def _numbered(inputs: Batch) -> dict[int, np.ndarray]:
    """The arrays of a call by their place among the network's inputs."""
    return dict(enumerate(inputs.values())) if isinstance(inputs, Mapping) else {0: inputs}


def before_whole_numbers(model: Any) -> set[str]:
    """The names of the operations that make whole numbers, such as word numbers, of the model's floating inputs: from
    the inputs to the conversion or test for equality, where no product lies between.
    """
    rounded: set[str] = set()
    waiting: list[Any] = []
    for node in model.get_ordered_ops():
        kind, floating = node.get_type_name(), node.get_output_size() and node.get_output_element_type(0).is_real()
        if not any(value.get_node().get_friendly_name() in rounded for value in node.input_values()):
            if kind == "Parameter" and floating:
                rounded.add(node.get_friendly_name())
        elif floating and kind not in PRODUCTS:
            rounded.add(node.get_friendly_name())
        elif kind in ("Convert", "Equal", "NotEqual"):
            waiting.append(node)
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        names.add(node.get_friendly_name())
        before = {value.get_node().get_friendly_name(): value.get_node() for value in node.input_values()}
        waiting += [before[name] for name in (before.keys() & rounded) - names]
    return names


def keep_precise(file: Path, names: set[str]) -> None:
    """Mark operations of an IR so that the CPU plugin computes them in float32 and the others in bfloat16, which is
    exact for whole numbers only up to 256. OpenVINO's Python API cannot set the mark.
    """
    from xml.etree import ElementTree

    if not names:
        return
    tree = ElementTree.parse(file)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            notes = layer.find("rt_info")
            notes = ElementTree.SubElement(layer, "rt_info") if notes is None else notes
            ElementTree.SubElement(notes, "attribute", name="precise", version="0")
    tree.write(file)


def _belongs(node: Any, modules: list[str]) -> bool:
    """Whether an operation was converted from any of the modules: its name begins with the module's."""
    return any(node.get_friendly_name().startswith(f"__module.{name}/") for name in modules)


def _in_int8(kernel: str) -> bool:
    """Whether a kernel of the executed graph, by its name, computes in whole numbers."""
    return kernel.upper().endswith(("I8", "U8"))


ENGINE = OpenVino()
