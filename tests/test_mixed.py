"""Claims about mixed precision: the widths are the best within a size, and engines compute what they say."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from bench import Dataset, Model, Recipe, Samples, Training, Weights, engines, models, recipes
from bench import datasets as data_sets
from bench.build.bill import Bill
from bench.build.networks import architecture, decided_in, shaped
from bench.build.weights import trained_network
from bench.compress import Mixed, Quantize
from bench.compress.mixed import WIDTHS, least_errors
from bench.compress.quantize import layers_by_bits
from bench.compress.quantizer import packed_bytes, stored_state, weighted_class
from bench.errors import BadCase, Unsupported
from bench.machine.isa import saturates
from bench.spec.limits import Limits, Size
from bench.spec.model import Source
from bench.spec.step import Context
from bench.store import Store

SCALED = ("torch", "torchscript", "inductor", "onnxruntime", "onnxruntime_mobile", "openvino", "executorch")


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def small():
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def pictures(split, folder=None):
    inputs = np.random.default_rng(len(split)).normal(size=(24, 3, 8, 8)).astype(np.float32)
    return Samples(inputs, small()(torch.from_numpy(inputs)).argmax(1).numpy())


ITEMS = torch.from_numpy(pictures("train").inputs)
WEIGHTS = {"first": 3 * 16 * 9, "second": 16 * 16 * 9, "head": 64}
FP32 = 4 * (sum(WEIGHTS.values()) + 16 + 16 + 4)
TRAINING = Training(lambda outputs, wanted: (outputs - wanted).square().mean(), batch=8, rate=0.01)


def context(fallen=None):
    return Context(TRAINING, small(), len(ITEMS), lambda places: (ITEMS[places],), fallen=fallen)


def noise(net):
    known = small()(ITEMS)
    return float((net(ITEMS) - known).square().sum() / known.square().sum())


# the program


@pytest.mark.parametrize("seed", range(5))
def test_widths_within_a_size_have_the_least_sum_of_errors_of_all(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(10, 1000, 4)
    sizes = counts[:, None] * np.array(WIDTHS)
    errors = np.sort(rng.uniform(1e-6, 1, (4, len(WIDTHS))), 1)[:, ::-1] * 4.0 ** -np.arange(len(WIDTHS))
    limit = int(sizes[:, 0].sum() + 0.4 * (sizes[:, -1] - sizes[:, 0]).sum())
    best = min(
        (
            places
            for places in itertools.product(range(len(WIDTHS)), repeat=4)
            if sum(sizes[row, place] for row, place in enumerate(places)) <= limit
        ),
        key=lambda places: sum(errors[row, place] for row, place in enumerate(places)),
    )
    assert least_errors(errors, sizes, limit) == [WIDTHS[place] for place in best]
    assert least_errors(errors, sizes, int(sizes[:, 0].sum()) - 1) is None


# the step


@pytest.mark.parametrize("share", [0.12, 0.2])
def test_weights_take_no_more_than_the_size_and_each_layer_its_bits(share):
    net, decided = Mixed(size=Size(share=share), drop=None).make(small(), context())
    assert packed_bytes(net) <= share * FP32
    assert decided["packed_bytes"] == packed_bytes(net)
    for name, bits in decided["layers"].items():
        weight = net.get_submodule(name).quantizer(net.get_submodule(name).layer.weight)
        assert max(len(row.unique()) for row in weight) <= 2**bits - 1
    assert len(set(decided["layers"].values())) > 1
    assert {name for names in layers_by_bits(decided).values() for name in names} == set(WEIGHTS)


def test_packed_bytes_are_those_of_weights_at_their_bits_and_of_all_else_as_it_is():
    net, decided = Quantize(4).make(small(), context())
    scales_and_biases = 4 * 2 * (16 + 16 + 4)
    activations = 2 * 4 * len(decided["values"])
    assert packed_bytes(net) == sum(WEIGHTS.values()) // 2 + scales_and_biases + activations
    stored = stored_state(net)
    weighted = next(part for part in net.modules() if isinstance(part, weighted_class()))
    assert stored["first.layer.weight"].dtype == torch.int8
    assert int(stored["first.layer.weight"].abs().max()) == 7
    rounded = stored["first.layer.weight"] * weighted.quantizer.scale[:, None, None, None]
    torch.testing.assert_close(rounded, weighted.quantizer(weighted.layer.weight))


def test_mixed_widths_err_less_than_the_same_size_in_equal_bits():
    equal, decided = Quantize(8).make(small(), context())
    places = {**decided, "layers": dict.fromkeys(decided["layers"], 4)}
    net = torch.fx.symbolic_trace(small())
    equal = Quantize().calibrated(net, places, context())
    mixed, _ = Mixed(size=Size(bytes=packed_bytes(equal)), drop=None).make(small(), context())
    assert packed_bytes(mixed) <= packed_bytes(equal)
    assert noise(mixed) < noise(equal)


def test_a_drop_is_kept_by_the_smallest_size_that_was_tried():
    tried = []

    def fallen(net):
        tried.append((packed_bytes(net), noise(net)))
        return noise(net)

    limit = 4 * noise(Quantize().make(small(), context())[0])
    net, _ = Mixed(drop=limit).make(small(), context(fallen))
    assert noise(net) <= limit
    assert packed_bytes(net) == min(size for size, lost in tried if lost <= limit)
    assert any(lost > limit for _, lost in tried)


def test_limits_that_cannot_be_kept_are_said():
    with pytest.raises(Unsupported, match=r"the weights may take 100 bytes, and in 2 bits each they take 1,\d\d\d"):
        Mixed(size=Size(bytes=100), drop=None).make(small(), context())
    with pytest.raises(Unsupported, match=r"weights in 8 bits lose 50.00% on the training side, more than 1.00%"):
        Mixed().make(small(), context(lambda net: 0.5))
    with pytest.raises(Unsupported, match=r"the best widths within 2,\d\d\d bytes lose 50.00% .* more than 2.00%"):
        Mixed(size=Size(share=0.2), drop=0.02).make(small(), context(lambda net: 0.5))


def test_a_callers_limits_replace_those_of_the_step_and_leave_other_steps():
    size = Size(bytes=9000)
    assert Mixed().within(Limits()) == Mixed()
    assert Mixed().within(Limits(drop=0.1)) == Mixed(drop=0.1)
    assert Mixed().within(Limits(size=size)) == Mixed(drop=None, size=size)
    assert Mixed().within(Limits(0.1, size)) == Mixed(drop=0.1, size=size)
    assert recipes.get("mixed_int8").within(Limits(0.1)).steps == (Mixed(drop=0.1),)
    assert recipes.get("own_int8").within(Limits(0.1, size)) == recipes.get("own_int8")


@pytest.mark.parametrize("settings", [{"bits": 4}, {"ends": 8}, {"drop": None}])
def test_settings_of_a_mixed_step_that_cannot_be_are_refused(settings):
    with pytest.raises(BadCase, match="a mixed network"):
        Mixed(**settings)


# the whole line


@pytest.fixture
def bill(tmp_path):
    model = Model("mixed", "classification", small, (Weights("as built", "mixed"),))
    models.add("mixed", model)
    data = Dataset("mixed", "", pictures)
    data_sets.add("mixed", data)
    return Bill(Store(tmp_path), Source(model, model.weights[0], data, None), limits=Limits(size=Size(share=0.15)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", SCALED)
def test_an_engine_computes_what_the_mixed_network_says_all_of_it_in_int8(engine, bill):
    if saturates():
        pytest.skip("sums of 8-bit products saturate on this CPU: such cases are unsupported here")
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    recipe = bill.recipe("mixed_int8")
    artefact, reference = bill.artefact(engine, recipe.name), bill.reference(recipe.name).folder
    known = trained_network(bill.source, bill.stage(recipe.steps), recipe.steps)(ITEMS).numpy()

    def bare():
        return shaped(architecture(bill.source), recipe.steps, reference).eval()

    inputs = ITEMS[:8].numpy()
    with torch._inductor.config.patch(freezing=True):
        loading = (artefact.folder, recipe, bare, inputs, 1)
        outputs = engines.get(engine).load(*loading).predict(inputs)
        layers = engines.get(engine).layers(*loading)
    error = np.square(outputs - known[:8]).sum() / np.square(known[:8]).sum()
    assert -10 * np.log10(error) > 30
    formats = {layer.name: layer.format for layer in layers if layer.kind != "matmul"}
    assert list(formats.values()) == ["int8"] * 3, formats


def test_the_whole_numbers_of_an_artefact_are_those_of_the_layers_bits(bill):
    folder = bill.artefact("onnxruntime", "mixed_int8").folder
    bits = decided_in(bill.reference("mixed_int8").folder)[-1]["layers"]
    held = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "model.onnx").graph.initializer]
    greatest = {array.size: int(np.abs(array.astype(int)).max()) for array in held if array.dtype == np.int8}
    assert len(set(bits.values())) > 1
    for name, count in WEIGHTS.items():
        assert greatest[count] == 2 ** (bits[name] - 1) - 1


def test_the_drop_on_the_training_side_sets_the_size(bill):
    free = replace(recipes.get("mixed_int8"), steps=(Mixed(drop=0.5),))
    recipes.add("freer_int8", Recipe("freer_int8", "int8", "static", steps=free.steps))
    unlimited = Bill(bill._store, bill.source)
    sizes = [
        decided_in(unlimited.reference(precision).folder)[-1]["packed_bytes"]
        for precision in ("mixed_int8", "freer_int8", "own_int8")
    ]
    assert sizes[1] < sizes[0] <= sizes[2]
