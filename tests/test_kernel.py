"""Claims about whether an engine's INT8 kernels compute what the quantized network says."""

import importlib
import os
from functools import partial

import pytest

from bench import Case, Dataset, Model, Samples, Weights, datasets, engines, models, recipes
from bench.engines.engine import Emulation
from bench.engines.kernel import compared, doubts
from bench.errors import Unsupported
from bench.machine.isa import saturates
from bench.measure import measure
from bench.statistics import sqnr_db
from bench.timing.sampling import Plan
from bench.timing.settings import Bench

QUICK = Plan(least_launches=1, most_launches=1, pass_s=0.01, slice_s=0.001)
LAYERS = ("convolution", "depthwise", "linear", "transposed", "prelu")


def network(layer):
    import torch
    from torch import nn

    torch.manual_seed(0)
    kinds = {
        "convolution": lambda: (nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        "depthwise": lambda: (nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        "linear": lambda: (nn.Flatten(), nn.Linear(8 * 36, 16), nn.GELU(), nn.Linear(16, 4)),
        "words": lambda: (nn.Flatten(2), nn.Linear(36, 64), nn.GELU(), nn.Linear(64, 4)),
        "transposed": lambda: (nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 4, 1)),
        "prelu": lambda: (nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 1)),
    }
    return nn.Sequential(*kinds[layer]()).eval().requires_grad_(False)


def inputs(count=8):
    import numpy as np

    return np.random.default_rng(0).normal(size=(count, 8, 6, 6)).astype(np.float32)


def facts_of(engine, layer, folder, precision="int8_static", fault=None):
    """What a record would say of a small network's kernels, its artefact built and perhaps changed by `fault`."""
    import torch

    samples, recipe = inputs(), recipes.get(precision)
    known = network(layer)(torch.from_numpy(samples[:4])).numpy()
    engines.get(engine).build(network(layer), recipe, samples, folder)
    opened = folder, recipe, lambda: network(layer), samples[:4], 1
    predict = engines.get(engine).load(*opened)
    if fault is not None:
        predict = fault(predict)
    return compared(predict, engines.get(engine).emulated(*opened), [samples[:4]], known)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("engine", ["torch", "torchscript", "onnxruntime", "onnxruntime_mobile", "openvino"])
def test_right_kernels_give_what_the_quantized_network_says(engine, layer, tmp_path):
    facts = facts_of(engine, layer, tmp_path)
    assert 10 < facts.quantized_db < 60
    assert facts.equal or facts.kernel_db > 40
    assert not list(doubts(facts))


@pytest.mark.skipif(not saturates(), reason="this processor sums 8-bit products in 32 bits")
@pytest.mark.parametrize(
    ("engine", "layer", "module"),
    [("onnxruntime", "convolution", "onnx_quantization"), ("openvino", "linear", "openvino")],
)
def test_saturation_is_named_where_weights_have_all_8_bits(engine, layer, module, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module(f"bench.engines.{module}"), "saturates", lambda: False)
    facts = facts_of(engine, layer, tmp_path)
    assert facts.kernel_db < facts.quantized_db - 6
    assert list(doubts(facts))


@pytest.mark.parametrize(("short", "most"), [(True, 64), (False, 127)])
def test_weights_of_onnx_runtime_keep_to_7_bits_where_kernels_saturate(short, most, monkeypatch, tmp_path):
    import onnx
    from onnx import numpy_helper

    monkeypatch.setattr(importlib.import_module("bench.engines.onnx_quantization"), "saturates", lambda: short)
    engines.get("onnxruntime").build(network("linear"), recipes.get("int8_static"), inputs(), tmp_path)
    tables = [numpy_helper.to_array(table) for table in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert max(abs(table.astype(int)).max() for table in tables if table.dtype == "int8") == most


def test_torchs_own_kernel_for_prelu_is_named_where_it_is_used(monkeypatch, tmp_path):
    """It multiplies positive values by the slope as well (PyTorch 2.15.0); the engine keeps off it."""
    from torch.ao.quantization.backend_config import get_native_backend_config

    from bench.engines import torch_quantization as module

    monkeypatch.setattr(module, "patterns", get_native_backend_config)
    monkeypatch.setattr(module, "without_prelu", lambda network: network)
    facts = facts_of("torch", "prelu", tmp_path)
    assert facts.kernel_db < 15
    assert "prelu" in facts.erring[0].name
    assert [line for line in doubts(facts) if "prelu" in line]


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own import uses what Python and torch will drop
@pytest.mark.parametrize("layer", ["convolution", "linear", "words"])
@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime_mobile", "torch", "openvino", "executorch"])
def test_dynamic_kernels_give_what_the_quantized_network_says(engine, layer, tmp_path):
    if layer == "convolution" and not engine.startswith("onnxruntime"):
        pytest.skip("these engines quantize activations at run time in linear layers alone")
    if (engine, layer) == ("openvino", "linear"):
        pytest.skip("OpenVINO turns these weights to floating point when it loads the file (2026.4.1)")
    if reason := engines.get(engine).supports(recipes.get("int8_dynamic"), "cpu"):
        pytest.skip(reason)
    facts = facts_of(engine, layer, tmp_path, "int8_dynamic")
    assert 20 < facts.quantized_db < 60
    assert facts.equal or facts.kernel_db > 100


@pytest.mark.parametrize("two_ways", [False, True])
def test_a_dynamic_lstm_of_onnx_runtime_gives_what_it_says(two_ways, tmp_path):
    import numpy as np
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.LSTM(12, 10, batch_first=True, bidirectional=two_ways)
            self.head = nn.Linear(20 if two_ways else 10, 3)

        def forward(self, x):
            return self.head(self.cells(x)[0][:, -1])

    def network():
        torch.manual_seed(0)
        return Recurrent().eval().requires_grad_(False)

    samples = np.random.default_rng(0).normal(size=(4, 7, 12)).astype(np.float32)
    known, engine = network()(torch.from_numpy(samples)).numpy(), engines.get("onnxruntime")
    recipe = recipes.get("int8_dynamic")
    engine.build(network(), recipe, samples, tmp_path)
    opened = tmp_path, recipe, network, samples, 1
    facts = compared(engine.load(*opened), engine.emulated(*opened), [samples], known)
    assert 25 < facts.quantized_db < 60
    assert facts.equal or facts.kernel_db > 100


def test_programs_of_executorch_are_emulated_and_their_copy_is_no_part_of_the_artefact(tmp_path):
    from bench.store import BESIDE, Store

    store = Store(tmp_path)

    def make(folder):
        (folder / "model").write_bytes(b"12345")
        (folder / BESIDE).mkdir()
        (folder / BESIDE / "copy").write_bytes(b"1234567")

    def alone(folder):
        (folder / "model").write_bytes(b"12345")

    with_copy, without = store.get("artifact", {"copy": 1}, make), store.get("artifact", {"copy": 0}, alone)
    assert (with_copy.bytes, with_copy.digest) == (5, without.digest)
    (with_copy.folder / BESIDE / "copy").write_bytes(b"7654321")
    with pytest.warns(UserWarning, match="beside/copy was changed"):
        assert store.find("artifact", {"copy": 1}) is None


@pytest.mark.filterwarnings("ignore")  # its own import uses what Python and torch will drop
@pytest.mark.parametrize("layer", ["depthwise", "prelu"])
def test_executorch_gives_what_its_exported_program_says(layer, tmp_path):
    facts = facts_of("executorch", layer, tmp_path)
    assert 20 < facts.quantized_db < 60
    assert facts.equal or facts.kernel_db > 40


def test_a_kernel_that_errs_is_named_with_both_figures(tmp_path):
    facts = facts_of("onnxruntime", "convolution", tmp_path, fault=lambda predict: lambda x: 1.5 * predict(x))
    assert facts.kernel_db == pytest.approx(6.0, abs=0.1)  # 20 log10(1 / 0.5)
    (line,) = doubts(facts)
    assert "give 6.0 dB of what the quantized network says" in line
    assert f"keeps {facts.quantized_db:.1f} dB of FP32" in line


def test_one_rounding_otherwise_in_each_value_is_no_erring_kernel():
    """At the worst all roundings have nothing to do with each other: 3 dB more noise than one of them."""
    import numpy as np

    rng = np.random.default_rng(0)
    real = rng.normal(size=(8, 500))

    def rounded():
        return np.floor(real / 0.1 + rng.random(real.shape)) * 0.1

    quantized, kernels = rounded(), rounded()
    facts = compared(lambda _: kernels, Emulation(lambda _: quantized, "numpy"), [inputs()], real)
    assert facts.kernel_db == pytest.approx(facts.quantized_db - 3.0, abs=0.5)
    assert not list(doubts(facts))


def test_equal_outputs_are_said_to_be_equal_and_not_infinite():
    real = inputs().reshape(8, -1)
    facts = compared(lambda _: real, Emulation(lambda _: real, "numpy"), [inputs()], real + 0.01)
    assert (facts.kernel_db, facts.equal) == (None, True)
    assert facts.quantized_db == pytest.approx(40.0, abs=0.3)
    assert not list(doubts(facts))


def test_outputs_that_are_not_finite_have_a_reason_and_no_figure():
    import numpy as np

    real = inputs().reshape(8, -1)
    broken = real.copy()
    broken[3] = np.nan
    facts = compared(lambda _: broken, Emulation(lambda _: real, "numpy"), [inputs()], real + 0.01)
    assert (facts.kernel_db, facts.equal) == (None, False)
    assert "not finite" in facts.reason


def test_a_program_for_inductor_is_emulated_in_eager(tmp_path):
    import torch

    samples = inputs()
    for precision, layer in (("int8_static", "convolution"), ("int8_dynamic", "linear")):
        known = network(layer)(torch.from_numpy(samples[:4])).numpy()
        folder, recipe = tmp_path / precision, recipes.get(precision)
        folder.mkdir()
        engines.get("inductor").build(network(layer), recipe, samples, folder)
        opened = folder, recipe, partial(network, layer), samples[:4], 1
        assert 20 < sqnr_db(engines.get("inductor").emulated(*opened).predict(samples[:4].copy()), known) < 90


def test_label_maps_are_compared_by_agreement():
    import numpy as np

    labels = np.arange(800).reshape(8, 100) % 7
    other = labels.copy()
    other[:, :20] += 1
    facts = compared(lambda _: other, Emulation(lambda _: labels, "numpy"), [inputs()], labels)
    assert (facts.kernel_db, facts.agreement, facts.quantized_agreement) == (None, 0.8, 1.0)
    (line,) = doubts(facts)
    assert "80.0% of values" in line


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_the_emulation_of_a_linear_layer_is_what_numpy_computes(engine, tmp_path):
    """A second source: whole numbers multiplied in int64, by the scales that the artefact states."""
    import numpy as np
    import torch

    samples, recipe = inputs(16).reshape(16, -1)[:, :32], recipes.get("int8_static")

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(32, 6)).eval().requires_grad_(False)

    engines.get(engine).build(network(), recipe, samples, tmp_path)
    emulated = engines.get(engine).emulated(tmp_path, recipe, network, samples[:4], 1).predict(samples[:4].copy())
    if engine == "torch":
        from bench.engines.torch_modules import STATE

        state = torch.load(tmp_path / STATE, weights_only=True)["state"]
        given, zero = float(state["0_input_scale_0"]), int(state["0_input_zero_point_0"])
        packed, bias = state["0._packed_params._packed_params"]
        scales, weight = packed.q_per_channel_scales().numpy(), packed.int_repr().numpy()
        step, step_zero = float(state["0.scale"]), int(state["0.zero_point"])
        low, high, bias = 0, 255, bias.detach().numpy()
    elif engine == "onnxruntime":
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(tmp_path / "model.onnx").graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        quantizing = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        (given, zero), (step, step_zero) = ([stored[name] for name in node.input[1:]] for node in quantizing)
        name = next(name for name, values in stored.items() if values.dtype == np.int8 and values.ndim == 2)
        weight, scales = stored[name], stored[name.replace("_quantized", "_scale")]
        weight = weight if weight.shape == (6, 32) else weight.T
        whole = next(values for values in stored.values() if values.dtype == np.int32 and values.shape == (6,))
        low, high, bias = 0, 255, whole * float(given) * scales
    else:
        # 256 levels of the input, none of the output: NNCF quantizes what a layer is given
        import openvino

        graph = openvino.Core().read_model(tmp_path / "model.xml")
        levels = next(node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize")
        low, high = (float(levels.input_value(place).get_node().data.item()) for place in (1, 2))
        given = (high - low) / 255
        x = (np.round((np.clip(samples[:4], low, high) - low) / given) * given + low).astype(np.float64)
        constants = [node.data for node in graph.get_ordered_ops() if node.get_type_name() == "Constant"]
        weight = next(values for values in constants if values.dtype == np.int8)
        scales = next(values for values in constants if values.shape == (6, 1))
        bias = next(values for values in constants if values.size == 6 and values.shape != (6, 1))
        expected = x @ (weight * scales.astype(np.float64)).T + bias.reshape(1, 6)
        assert sqnr_db(emulated, expected) > 100
        return
    x = np.clip(np.round(samples[:4] / given) + zero, low, high).astype(np.int64) - int(zero)
    sums = (x @ weight.astype(np.int64).T) * (float(given) * scales.astype(np.float64)) + bias
    expected = (np.clip(np.round(sums / float(step)) + int(step_zero), low, high) - int(step_zero)) * float(step)
    assert sqnr_db(emulated, expected) > 100


def test_an_emulation_with_one_scale_changed_is_not_the_artefacts(tmp_path):
    import numpy as np
    import onnx
    from onnx import numpy_helper

    samples, recipe, engine = inputs(), recipes.get("int8_static"), engines.get("onnxruntime")
    engine.build(network("convolution"), recipe, samples, tmp_path)
    opened = tmp_path, recipe, lambda: network("convolution"), samples[:4], 1
    predict = engine.load(*opened)
    model = onnx.load(tmp_path / "model.onnx")
    scale = next(one for one in model.graph.initializer if one.name.endswith("weight_scale"))
    scale.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(scale) * 1.3).astype(np.float32), scale.name))
    onnx.save(model, tmp_path / "model.onnx")
    facts = compared(predict, engine.emulated(*opened), [samples[:4]], predict(samples[:4]))
    assert facts.kernel_db < 20


@pytest.mark.parametrize("precision", ["int8_static", "int8_dynamic"])
def test_weights_that_two_layers_share_are_written_right(precision, tmp_path):
    """ONNX Runtime 1.31.1 transposes weights that two Gemm nodes share for each of them: the outputs kept 2.9 dB."""
    import numpy as np
    import torch
    from torch import nn

    def network():
        torch.manual_seed(0)
        first, last = nn.Linear(16, 16), nn.Linear(16, 16)
        last.load_state_dict(first.state_dict())
        return nn.Sequential(first, nn.ReLU(), last).eval().requires_grad_(False)

    samples = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    known, recipe = network()(torch.from_numpy(samples[:4])).numpy(), recipes.get(precision)
    engines.get("onnxruntime").build(network(), recipe, samples, tmp_path)
    found = engines.get("onnxruntime").load(tmp_path, recipe, network, samples[:4], 1)(samples[:4])
    assert sqnr_db(found, known) > 25


def test_weights_of_a_quantized_file_are_compared_with_those_it_was_made_of(tmp_path):
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    from bench.engines.onnx_quantization import weights_db

    weight = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    scale = np.float32(np.abs(weight).max() / 127)
    whole = np.round(weight / scale).astype(np.int8)

    def write(name, node, stored):
        tensors = [numpy_helper.from_array(values, key) for key, values in stored.items()]
        onnx.save(helper.make_model(helper.make_graph([node], "g", [], [], tensors)), tmp_path / name)
        return tmp_path / name

    def quantized(values):
        facts = {"w_quantized": values, "w_scale": scale, "w_zero_point": np.int8(0)}
        return write("after.onnx", helper.make_node("MatMulInteger", ["x", "w_quantized", "z"], ["y"]), facts)

    before = write("before.onnx", helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"w": weight})
    right = sqnr_db(whole * scale, weight)
    assert weights_db(before, quantized(whole.T)) == {"w": pytest.approx(right, abs=0.01)}
    assert weights_db(before, quantized(whole))["w"] < -2


def test_an_operation_without_a_floating_point_form_is_named():
    import onnx

    from bench.engines.emulation_onnx import in_floating_point

    node = onnx.helper.make_node("QAttention", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(Unsupported, match="no floating-point form is known of QAttention"):
        in_floating_point(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])))


class Slow:
    """An engine's emulation that breaks as the environment says."""

    def emulated(self, *opened):
        if os.environ.get("KERNEL_FAULT") == "raise":
            raise RuntimeError("no such emulation")
        if os.environ.get("KERNEL_FAULT") == "exit":
            os._exit(5)


def noise(split, folder):
    import numpy as np

    return Samples(inputs(32), np.zeros(32, np.int64))


datasets.add("kernel_noise", Dataset("kernel_noise", "noise", noise), __name__)
made = (Weights("as made", "kernel_noise"),)
convolution = Model("kernel_convolution", "features", lambda: network("convolution"), made)
models.add("kernel_convolution", convolution, __name__)


def broken_engines():
    from bench.engines.onnxruntime import OnnxRuntime

    class Breaking(Slow, OnnxRuntime):
        pass

    class Erring(OnnxRuntime):
        """Its kernels give half of what they should."""

        def load(self, *opened):
            predict = super().load(*opened)
            return lambda inputs: 0.5 * predict(inputs)

    return {"kernel_breaking": Breaking(), "kernel_erring": Erring()}


for name, engine in broken_engines().items():
    engines.add(name, engine, __name__)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("cache"), plan=QUICK)


def test_a_record_of_int8_says_what_its_kernels_compute_and_one_of_fp32_nothing(bench):
    record = measure(Case("kernel_convolution", "int8_static", "onnxruntime", batch=3), bench)
    assert record.status == "ok", record.reason
    assert record.kernel.equal or record.kernel.kernel_db > 40
    assert record.kernel.quantized_db == pytest.approx(record.fidelity["sqnr_db"], abs=3)
    assert record.kernel.reason is None
    assert "ONNX Runtime" in record.kernel.by
    assert measure(Case("kernel_convolution", "fp32", "onnxruntime"), bench).kernel is None


def test_a_record_whose_kernel_errs_is_ok_and_warns(bench):
    record = measure(Case("kernel_convolution", "int8_static", "kernel_erring"), bench)
    assert record.status == "ok", record.reason
    assert record.kernel.kernel_db == pytest.approx(6.0, abs=0.1)  # 20 log10(1 / 0.5)
    assert [line for line in record.warnings if "the engine's INT8 kernels give 6.0 dB" in line]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("none", "kernel_breaking tells of no floating-point form of its artefacts"),
        ("raise", "kernel: RuntimeError: no such emulation"),
        ("exit", "the worker exited with status 5 while it answered 'kernel'"),
    ],
)
def test_an_emulation_that_breaks_is_a_reason_and_no_failure(bench, monkeypatch, fault, reason):
    monkeypatch.setenv("KERNEL_FAULT", fault)
    record = measure(Case("kernel_convolution", "int8_static", "kernel_breaking"), bench)
    assert record.status == "ok", record.reason
    assert record.kernel.kernel_db is None
    assert record.kernel.reason.startswith(reason)
    assert record.judged.n


def test_an_emulation_that_lasts_too_long_is_a_reason_and_no_failure():
    from bench.errors import WorkerError
    from bench.measure import _kernel

    class Session:
        case = Case("kernel_convolution", "int8_static", "onnxruntime")

        def ask(self, question):
            raise WorkerError(f"no answer to {question.name!r} within 1 s; it was killed")

    assert _kernel(Session()).reason == "no answer to 'kernel' within 1 s; it was killed"
