"""Claims about quantization with scales of our own: where quantizers stand, how they are set, and that each engine
takes their scales as they are.
"""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from bench import Case, Dataset, Model, Recipe, Training, Weights, engines, models, recipes
from bench import datasets as data_sets
from bench.build.bill import Bill
from bench.build.networks import architecture, shaped
from bench.build.reference import outputs_before_rounding
from bench.build.weights import trained_network
from bench.compress import Channels, Quantize, Sparse
from bench.compress.finetune import parts_of
from bench.compress.quantizer import fit_weights, quantizer_class, weighted_class
from bench.errors import BadCase, Unsupported
from bench.machine.isa import saturates
from bench.spec.model import Source
from bench.spec.step import Context
from bench.store import Store
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported
from fixtures.models.img2col import convolution, product, replaced

SCALED = ("torch", "torchscript", "inductor", "onnxruntime", "onnxruntime_mobile", "openvino", "executorch")


class Small(nn.Module):
    """A residual block, a maximum, a joining, and a linear layer after a flattening."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.pool = nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2)
        self.side = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = self.pool(torch.relu(x + self.inner(x)))
        x = torch.cat([x, torch.relu(self.side(x))], 1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def small():
    torch.manual_seed(0)
    net = Small()
    nn.init.uniform_(net.norm.running_mean)
    nn.init.uniform_(net.norm.running_var, 0.5, 2)
    return net.eval().requires_grad_(False)


def pictures(split, folder=None):
    from bench import Samples

    rng = np.random.default_rng(len(split))
    return Samples(rng.normal(size=(24, 3, 8, 8)).astype(np.float32), rng.integers(0, 4, 24))


ITEMS = torch.from_numpy(pictures("train").inputs)
TRAINING = Training(lambda outputs, wanted: (outputs - wanted).square().mean(), batch=8, rate=0.01)


def context(before=(), build=small):
    return Context(TRAINING, build(), len(ITEMS), lambda places: (ITEMS[places],), before)


def quantized(step, build=small, before=()):
    return step.make(build(), context(before, build))


def quantizers_of(net):
    return [part for part in net.modules() if isinstance(part, quantizer_class())]


def sqnr(values, known):
    return float(10 * np.log10(np.square(known).sum() / np.square(values - known).sum()))


# quantizers


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_of_activations_and_its_gradients_are_pytorchs(bits, training):
    quantizer = quantizer_class()(0, 2**bits - 1).train(training).requires_grad_(True)
    quantizer.scale.data.fill_(0.11)
    quantizer.zero_point.fill_(3)
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scale = torch.full((1,), 0.11, requires_grad=True)
    factor = (x.numel() * (2**bits - 1)) ** -0.5
    known = torch._fake_quantize_learnable_per_tensor_affine(x, scale, torch.tensor([3.0]), 0, 2**bits - 1, factor)
    rounded = quantizer(x)
    torch.testing.assert_close(rounded, known)
    if training:
        weights = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
        expected = torch.autograd.grad((known * weights).sum(), (x, scale))
        gradients = torch.autograd.grad((rounded * weights).sum(), (x, quantizer.scale))
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_rounding_of_weights_and_its_gradients_are_pytorchs():
    quantizer = quantizer_class()(-7, 7, 5).train().requires_grad_(True)
    scales = torch.linspace(0.05, 0.3, 5)
    quantizer.scale.data.copy_(scales)
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scale = scales.clone().requires_grad_(True)
    known = torch._fake_quantize_learnable_per_channel_affine(weight, scale, torch.zeros(5), 0, -7, 7, (27 * 7) ** -0.5)
    rounded = quantizer(weight)
    torch.testing.assert_close(rounded, known)
    expected = torch.autograd.grad(known.square().sum(), (weight, scale))
    for gradient, wanted in zip(
        torch.autograd.grad(rounded.square().sum(), (weight, quantizer.scale)), expected, strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_scales_of_least_error_are_no_worse_than_those_of_the_range():
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    errors = {}
    for clip in ("mse", "minmax"):
        quantizer = quantizer_class()(-7, 7, 6).eval()
        fit_weights(quantizer, weight, clip)
        errors[clip] = (quantizer(weight) - weight).square().sum(1)
    assert bool((errors["mse"] <= errors["minmax"]).all())
    assert float(errors["mse"].sum()) < float(errors["minmax"].sum())


# where they stand


def test_values_are_quantized_where_engines_have_kernels_and_share_scales_where_values_pass():
    _, decided = quantized(Quantize())
    assert [group["nodes"] for group in decided["values"]] == [
        ["x"],
        ["relu"],  # the convolution, its normalization folded, and the ReLU
        ["inner"],
        ["relu_1", "pool", "relu_2", "cat", "adaptive_avg_pool2d", "flatten"],
        ["head"],
    ]
    assert decided["layers"] == {"first": 8, "inner": 8, "side": 8, "head": 8}


def test_normalization_that_is_not_folded_is_quantized_apart():
    _, decided = quantized(Quantize(fused=False))
    assert ["first"] in [group["nodes"] for group in decided["values"]]


def test_the_ends_have_bits_of_their_own():
    _, decided = quantized(Quantize(4, ends=8))
    assert decided["layers"] == {"first": 8, "inner": 4, "side": 4, "head": 8}
    assert {group["nodes"][0]: group["bits"] for group in decided["values"]} == {
        "x": 8,
        "relu": 4,
        "inner": 4,
        "relu_1": 8,
        "head": 4,
    }


def test_ends_in_fp32_are_left_alone():
    net, decided = quantized(Quantize(ends=32))
    assert decided["layers"] == {"inner": 8, "side": 8}
    assert not isinstance(net.first, weighted_class())
    assert [group["nodes"][0] for group in decided["values"]] == ["relu", "inner"]


@pytest.mark.parametrize("settings", [{"bits": 1}, {"bits": 17}, {"ends": 20}, {"clip": "best"}])
def test_bits_and_clips_that_cannot_be_are_refused(settings):
    with pytest.raises(BadCase, match=r"bits are 2 to 16|clip is 'mse' or 'minmax'"):
        Quantize(**settings)


def test_a_network_that_cannot_be_traced_or_has_no_layer_is_unsupported():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(x) if x.sum() > 0 else x

    with pytest.raises(Unsupported, match=r"torch\.fx cannot trace this network: TraceError: symbolically traced"):
        quantized(Quantize(), Branching)
    with pytest.raises(Unsupported, match="no convolution and no linear layer"):
        quantized(Quantize(), lambda: nn.Sequential(nn.ReLU()))


# what comes out


def test_eight_bits_are_near_and_sixteen_nearer():
    known = small()(ITEMS).numpy()
    near, nearer = (sqnr(quantized(Quantize(bits))[0](ITEMS).numpy(), known) for bits in (8, 16))
    assert near > 30
    assert nearer > near + 40


def test_a_bare_network_is_brought_to_the_same_structure():
    net, decided = quantized(Quantize(epochs=1))
    bare = Quantize().shape(small(), json.loads(json.dumps(decided)))
    bare.load_state_dict(net.state_dict())
    torch.testing.assert_close(bare(ITEMS), net(ITEMS), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not net.training


def test_training_lowers_the_distance_and_is_the_same_every_time():
    known = small()(ITEMS)
    distances = []
    for epochs in (0, 10, 10):
        net, _ = quantized(Quantize(3, epochs=epochs, rate=1.0))
        distances.append(float(TRAINING.distance(net(ITEMS), known)))
    assert distances[1] < distances[0]
    assert distances[1] == distances[2]
    assert all(bool((quantizer.scale > 0).all()) for quantizer in quantizers_of(net))


def test_zeros_of_a_pruned_network_stay_zeros_through_training():
    net = small()
    sparse = Sparse(0.5, epochs=0)
    net, _ = sparse.make(net, context())
    zeros = [part.weight == 0 for part in parts_of(net)]
    trained, _ = Quantize(epochs=2).make(net, context((sparse,)))
    assert all(bool((part.weight[zero] == 0).all()) for part, zero in zip(parts_of(trained), zeros, strict=True))


def test_zeros_stay_where_channels_are_removed_after_them():
    pytest.importorskip("torch_pruning")
    sparse, given = Sparse(0.3, epochs=0), replace(TRAINING, whole=("first", "inner", "head"))
    net, _ = sparse.make(small(), context())
    after = Context(given, small(), len(ITEMS), lambda places: (ITEMS[places],), (sparse,))
    net, _ = Channels(0.5, epochs=1).make(net, after)
    assert net.side.out_channels == 4
    assert int((net.inner.weight == 0).sum()) > 0


# layers of a user's class


def by_columns():
    return replaced(small())


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled():
    net = small()
    net.side.__class__ = Doubled
    return net


def test_a_users_convolution_is_quantized_as_pytorchs_and_trained_through_its_own_gradients(monkeypatch):
    calls, backward = [], product().backward
    monkeypatch.setattr(product(), "backward", lambda *given: calls.append(1) or backward(*given))
    standard, known = quantized(Quantize(epochs=1))
    assert not calls
    own, decided = quantized(Quantize(epochs=1), by_columns)
    assert calls
    assert decided["standing"] == ["first", "inner", "side"]
    assert (decided["layers"], decided["values"]) == (known["layers"], known["values"])
    assert type(own.inner.layer) is convolution()
    assert sqnr(own(ITEMS).numpy(), standard(ITEMS).numpy()) > 30
    bare = Quantize().shape(by_columns(), json.loads(json.dumps(decided)))
    bare.load_state_dict(own.state_dict())
    torch.testing.assert_close(bare(ITEMS), own(ITEMS))


def test_a_users_convolution_may_be_followed_by_a_relu_in_place():
    def build():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3)
        return replaced(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False))

    net, decided = quantized(Quantize(epochs=1), build)
    assert decided["standing"] == ["0", "3"]
    assert sqnr(net(ITEMS).numpy(), build()(ITEMS).numpy()) > 20


def test_a_users_convolution_that_computes_something_else_stays_in_fp32():
    net, decided = quantized(Quantize(), doubled)
    assert decided["standing"] == []
    assert list(decided["layers"]) == ["first", "inner", "head"]
    assert sqnr(net(ITEMS).numpy(), doubled()(ITEMS).numpy()) > 25


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_engines_lower_a_users_convolution_as_pytorchs(engine, tmp_path):
    if saturates():
        pytest.skip("sums of 8-bit products saturate on this CPU: such cases are unsupported here")
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    model = Model("columns", "classification", by_columns, (Weights("as built", "columns"),))
    models.add("columns", model)
    data_sets.add("columns", Dataset("columns", "", pictures))
    bill = Bill(Store(tmp_path), Source(model, model.weights[0], data_sets.get("columns"), None))
    recipe = bill.recipe("own_int8")
    artefact, reference = bill.artefact(engine, "own_int8").folder, bill.reference("own_int8").folder
    known = trained_network(bill.source, bill.stage(recipe.steps), recipe.steps)(ITEMS).numpy()

    def bare():
        return shaped(architecture(bill.source), recipe.steps, reference).eval()

    loading = (artefact, recipe, bare, ITEMS[:8].numpy(), 1)
    assert sqnr(engines.get(engine).load(*loading).predict(ITEMS[:8].numpy()), known[:8]) > 30
    formats = {layer.name: layer.format for layer in engines.get(engine).layers(*loading) if layer.kind != "matmul"}
    assert list(formats.values()) == ["int8"] * 4, formats


# engines


@pytest.fixture
def bill(tmp_path):
    model = Model("scaled", "classification", small, (Weights("as built", "scaled"),), training=TRAINING)
    models.add("scaled", model)
    data = Dataset("scaled", "", pictures)
    data_sets.add("scaled", data)
    return Bill(Store(tmp_path), Source(model, model.weights[0], data, None))


def scales_of(net):
    """What a stage's network holds: the scales and zero points of activations, and the scales of weights."""
    parts = quantizers_of(net)
    activations = {(float(part.scale), int(part.zero_point)) for part in parts if not part.by_channel}
    return activations, {tuple(part.scale.tolist()) for part in parts if part.by_channel}


def scales_in_onnx(file):
    graph = onnx.load(file).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    activations, weights = set(), set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            activations.add((float(stored[node.input[1]]), int(stored[node.input[2]])))
        elif node.op_type == "DequantizeLinear" and stored[node.input[1]].ndim == 1:
            weights.add(tuple(stored[node.input[1]].tolist()))
    return activations, weights


def scales_in_program(file, shift):
    program = torch.export.load(file)
    activations, weights = set(), set()
    for node in program.graph.nodes:
        if "quantized_decomposed.quantize_per_tensor" in str(node.target):
            activations.add((node.args[1], node.args[2] + shift))
        elif "dequantize_per_channel" in str(node.target):
            buffer = program.graph_signature.inputs_to_buffers[node.args[1].name]
            weights.add(tuple(program.state_dict[buffer].tolist()))
    return activations, weights


def scales_in_torch(file):
    stored = torch.load(file, weights_only=True)
    state = stored["state"]
    points = {name: name.replace("scale", "zero_point") for name in state}
    activations = {
        (float(state[name]), int(state[point]))
        for name, point in points.items()
        if name != point and point in state and state[name].numel() == 1
    }
    held = [parts[0] for _, parts in stored["packed"].values()]  # of functions and of some layers
    held += [value[0] if isinstance(value, tuple) else value for value in state.values()]
    weights = {
        tuple(value.q_per_channel_scales().tolist())
        for value in held
        if isinstance(value, torch.Tensor) and value.is_quantized and value.dim() > 1
    }
    return activations, weights


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", SCALED)
def test_an_engine_computes_what_the_quantized_network_says_all_of_it_in_int8(engine, bill):
    if saturates():
        pytest.skip("sums of 8-bit products saturate on this CPU: such cases are unsupported here")
    recipe = recipes.get("own_int8")
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    artefact, reference = bill.artefact(engine, recipe.name), bill.reference(recipe.name).folder
    known = trained_network(bill.source, bill.stage(recipe.steps), recipe.steps)(ITEMS).numpy()

    def bare():
        return shaped(architecture(bill.source), recipe.steps, reference).eval()

    inputs = ITEMS[:8].numpy()
    with torch._inductor.config.patch(freezing=True):
        loading = (artefact.folder, recipe, bare, inputs, 1)
        assert sqnr(engines.get(engine).load(*loading).predict(inputs), known[:8]) > 30
        layers = engines.get(engine).layers(*loading)
    formats = {layer.name: layer.format for layer in layers if layer.kind != "matmul"}
    assert list(formats.values()) == ["int8"] * 4, formats


@pytest.mark.parametrize("engine", ["torch", "inductor", "onnxruntime", "executorch"])
def test_the_scales_are_in_the_artefact_unchanged(engine, bill):
    recipe = recipes.get("own_int8")
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    folder = bill.artefact(engine, recipe.name).folder
    read = {
        "torch": lambda: scales_in_torch(folder / "state.pt"),
        "inductor": lambda: scales_in_program(next(folder.glob("*.pt2")), 0),
        "onnxruntime": lambda: scales_in_onnx(folder / "model.onnx"),
        "executorch": lambda: scales_in_program(next((folder / "beside").glob("*.pt2")), 128),
    }
    activations, weights = read[engine]()
    known, of_channels = scales_of(trained_network(bill.source, bill.stage(recipe.steps), recipe.steps))
    assert {(round(scale, 7), zero) for scale, zero in activations} == {
        (round(scale, 7), zero) for scale, zero in known
    }
    assert {tuple(np.float32(row)) for row in weights} == {tuple(np.float32(row)) for row in of_channels}


def test_the_ranges_are_in_openvinos_file_unchanged(bill):
    openvino = pytest.importorskip("openvino")
    recipe = recipes.get("own_int8")
    model = openvino.Core().read_model(bill.artefact("openvino", recipe.name).folder / "model.xml")
    ranges = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            low, high = (float(node.input_value(place).get_node().get_vector()[0]) for place in (1, 2))
            ranges.add((round(low, 5), round(high, 5)))
    known, _ = scales_of(trained_network(bill.source, bill.stage(recipe.steps), recipe.steps))
    assert ranges == {(round(-zero * scale, 5), round((255 - zero) * scale, 5)) for scale, zero in known}


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_other_bits_are_computed_in_floating_point(engine, bill):
    recipe = recipes.get("own_int4_simulated")
    artefact, reference = bill.artefact(engine, recipe.name), bill.reference(recipe.name).folder
    known = trained_network(bill.source, bill.stage(recipe.steps), recipe.steps)(ITEMS).numpy()

    def bare():
        return shaped(architecture(bill.source), recipe.steps, reference).eval()

    inputs = ITEMS[:8].numpy()
    outputs = engines.get(engine).load(artefact.folder, recipe, bare, inputs, 1)
    last = quantizers_of(trained_network(bill.source, bill.stage(recipe.steps), recipe.steps).quantizers)[-1]
    steps = np.abs(outputs.predict(inputs) - known[:8]) / float(last.scale)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)  # whole steps, where a sum falls near an edge
    assert steps.max() < 1.5
    assert np.mean(steps > 0.5) < 0.5


def test_engines_and_processors_that_cannot_take_the_scales_say_so(bill, monkeypatch):
    case, bench = Case("scaled", "own_int8", "onnxruntime"), Bench(bill._store.root)
    monkeypatch.setattr("bench.timing.unsupported.saturates", lambda: False)
    assert unsupported(case, bench) is None
    monkeypatch.setattr("bench.timing.unsupported.saturates", lambda: True)
    assert "own_int8 has 8 bits, whose products saturate" in unsupported(case, bench)
    monkeypatch.setattr(type(engines.get("onnxruntime")), "scaled", False)
    assert unsupported(case, bench) == "onnxruntime finds its own scales here, and own_int8 brings some"


def test_what_kernels_may_err_is_measured_against_what_rounding_loses(bill):
    half = Sparse(0.5, epochs=0)
    for steps in ((Quantize(),), (half, Quantize())):
        folder, before = bill.reference_after(steps).folder, bill.reference_after(steps[:-1]).folder
        np.testing.assert_array_equal(outputs_before_rounding(folder), np.load(before / "outputs.npy"))
        assert sqnr(np.load(folder / "outputs.npy"), outputs_before_rounding(folder)) < 60
        np.testing.assert_array_equal(outputs_before_rounding(before), np.load(before / "outputs.npy"))


def test_steps_lead_to_one_another(bill):
    half = Sparse(0.5, epochs=0)
    recipes.add("half_own_int8", Recipe("half_own_int8", "int8", "static", steps=(half, Quantize())))
    steps = recipes.get("half_own_int8").steps
    assert bill.stage(steps[:1]).digest == bill.stage((half,)).digest
    net = trained_network(bill.source, bill.stage(steps), steps)
    weights = [part.weight for part in parts_of(net)]
    assert sum(int((weight == 0).sum()) for weight in weights) / sum(map(torch.numel, weights)) > 0.49
