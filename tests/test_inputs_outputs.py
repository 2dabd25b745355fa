"""Claims about what networks take and give: it reaches every engine whole, and is judged as what it is."""

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bench import Dataset, Model, Samples, Weights, datasets, engines, recipes
from bench.build.artefact import LEFT, calibration_inputs, calibration_of
from bench.build.bill import Bill
from bench.build.networks import architecture
from bench.build.reference import INTERFACE
from bench.errors import BuildError, DataError, Unsupported, WorkerError
from bench.spec.inputs import Inputs
from bench.spec.interface import Interface, Outputs, adapted, interface_of
from bench.spec.model import Source, as_inputs
from bench.spec.outcome import Calibration
from bench.spec.tiling import Tile
from bench.store import Store
from bench.tasks import tasks
from bench.tasks.fidelity import likeness
from bench.tasks.inference import answered, inputs_of_all, load_inputs, preprocessed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # engines' packages warn while they build

ENGINES = ("torch", "torchscript", "onnxruntime", "openvino", "executorch")
CHANCE = np.random.default_rng(0)
EIGHT = CHANCE.normal(size=(16, 8)).astype(np.float32)
Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Scored:
    scores: object
    nothing: object = None
    sums: object = None


def two_outputs(give, outputs=(4, 4)):
    """A network of inputs (n, 8) that gives what `give` makes of the outputs of two linear layers."""
    import torch

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (torch.nn.Linear(8, width) for width in outputs)

        def forward(self, x):
            return give(self.first(x), self.second(x))

    torch.manual_seed(0)
    return Two().eval().requires_grad_(False)


def words(index):
    """A network of word numbers (n, 1) that gives back the highest score for the same word."""
    import torch

    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = torch.nn.Embedding(608, 64), torch.nn.Linear(64, 608, bias=False)
            self.out.weight.data.copy_(self.table.weight.data)

        def forward(self, x):
            return self.out(self.table(index(x)).mean(1))

    torch.manual_seed(0)
    return Words().eval().requires_grad_(False)


def writing(in_place):
    """A network of inputs (n, 8) that normalizes them, in place or not."""
    import torch

    class Normalized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(8, 2)

        def forward(self, x):
            if not in_place:
                return self.out((x - 0.48) / 0.23)
            x.sub_(0.48)
            return self.out(x.div_(0.23))

    torch.manual_seed(0)
    return Normalized().eval().requires_grad_(False)


def source_of(network, items, task="features", targets=None, **more):
    """The source of a model of a network, with items for both splits."""
    targets = np.zeros(len(items), int) if targets is None else targets
    samples = Samples(items, targets)
    dataset = Dataset("items", "items", lambda split, folder: samples)
    datasets.add("items", dataset)
    model = Model("net", task, network, (Weights("as built", "items"),), **more)
    return Source(model, model.weights[0], dataset, None)


def predicted(engine, precision, source, tmp_path, inputs):
    """What an engine's artefact of a source's network makes of inputs, built and loaded as a session does."""
    store, recipe = Store(tmp_path / "cache"), recipes.get(precision)
    built, judged = Bill(store, source).artefact(engine, precision), Bill(store, source).reference()
    interface = Interface.saved(json.loads((judged.folder / INTERFACE).read_text()))
    predict = engines.get(engine).load(
        built.folder, recipe, lambda: adapted(architecture(source), interface), inputs, 1
    )
    return predict(inputs), interface


def supported(engine, precision):
    reason = engines.get(engine).supports(recipes.get(precision), "cpu")
    if reason is not None:
        pytest.skip(reason)


# outputs


@pytest.mark.parametrize(
    ("give", "gives", "names"),
    [
        (lambda a, b: (a, b), "tuple", (0, 1)),
        (lambda a, b: [a, b], "list", (0, 1)),
        (lambda a, b: OrderedDict(out=a, aux=b), "OrderedDict", ("out", "aux")),
        (lambda a, b: {"out": a, "nothing": None, "aux": b}, "dict", ("out", "aux")),
        (lambda a, b: Pair(a, b), "Pair", ("first", "second")),
        (lambda a, b: Scored(scores=a, sums=b), "Scored", ("scores", "sums")),
    ],
)
def test_outputs_of_any_holder_become_a_tuple_and_keep_their_names(give, gives, names):
    import torch

    network = two_outputs(give)
    interface = interface_of(network, EIGHT[:1])
    assert (interface.gives, interface.names) == (gives, names)
    modules = [name for name, _ in network.named_modules()]
    expected = network.first(torch.from_numpy(EIGHT)), network.second(torch.from_numpy(EIGHT))
    network = adapted(network, interface)
    assert [name for name, _ in network.named_modules()] == modules
    given = network(torch.from_numpy(EIGHT))
    assert isinstance(given, tuple)
    assert all(torch.equal(output, known) for output, known in zip(given, expected, strict=True))
    outputs = Outputs([output.numpy() for output in given], names)
    assert np.array_equal(outputs[names[1]], outputs[1])
    if isinstance(names[0], str):
        assert np.array_equal(getattr(outputs, names[0]), outputs[0])
        assert [name for name, _ in outputs.items()] == list(outputs.keys()) == list(names)
        with pytest.raises(KeyError, match="there are"):
            outputs["no such"]


@pytest.mark.parametrize("give", [lambda a, b: (a,), lambda a, b: [a], lambda a, b: {"out": a}])
def test_a_holder_of_one_output_gives_a_tensor_and_the_answer_a_tuple_of_one(give):
    network = two_outputs(give)
    interface = interface_of(network, EIGHT[:1])
    from bench.engines.torch_modules import predictor

    predict = predictor(adapted(network, interface))
    assert predict(EIGHT).shape == (16, 4)
    model = source_of(None, EIGHT, answer=lambda output, item: output[0]).model
    known = answered(predict, model, EIGHT, 4, interface).answers
    assert np.allclose(known, predict(EIGHT), atol=1e-6)
    assert np.allclose(answered(predict, replace(model, answer=Model.answer), EIGHT, 4, interface).answers, known)


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda a, b: (a, [b]), "the network gives tuple with list inside of it; have it give tensors"),
        (lambda a, b: {"out": a, "count": 3}, "the network gives dict with int inside of it"),
        (lambda a, b: "no tensor", "the network gives str; have it give tensors"),
        (lambda a, b: (), "the network gives tuple with nothing"),
    ],
)
def test_outputs_that_are_nested_or_no_tensors_are_refused_in_one_line(give, told):
    with pytest.raises(BuildError, match=told) as raised:
        interface_of(two_outputs(give), EIGHT[:1])
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_static"])
@pytest.mark.parametrize("give", [lambda a, b: {"out": a, "aux": b.argmax(1)}, lambda a, b: [a, b.argmax(1)]])
def test_several_outputs_reach_every_engine_and_whole_numbers_stay_whole(engine, precision, give, tmp_path):
    supported(engine, precision)
    source = source_of(lambda: two_outputs(give, (4, 3)), EIGHT, answer=lambda output, item: output[0])
    batch = EIGHT[:1] if engine == "executorch" else EIGHT[:3]
    outputs, interface = predicted(engine, precision, source, tmp_path, batch)
    known = [output.numpy() for output in adapted(two_outputs(give, (4, 3)), interface)(as_tensor(batch))]
    assert len(outputs) == 2
    assert outputs[0].dtype == np.float32
    assert outputs[1].dtype.kind == "i"
    least_db = {"fp32": 100, "bf16": 30, "int8_static": 10}[precision]
    assert likeness(outputs[0], known[0], np.zeros(4, bool)).sqnr_db > least_db
    assert np.array_equal(outputs[1], known[1])


def as_tensor(array):
    import torch

    return torch.from_numpy(array.copy())


def test_outputs_of_unequal_shapes_without_an_answer_ask_for_one():
    from bench.engines.torch_modules import predictor

    network = two_outputs(lambda a, b: (a, b), (4, 5))
    with pytest.raises(DataError, match=r"2 outputs.*shapes \(4,\), \(5,\); give the Model an 'answer'"):
        answered(predictor(network), source_of(None, EIGHT).model, EIGHT, 4)


def test_an_answer_takes_an_output_by_its_name_on_every_engine(tmp_path):
    def both():
        return two_outputs(lambda a, b: {"out": a, "aux": b})

    source = source_of(both, EIGHT, answer=lambda output, item: output["aux"])
    reference = Bill(Store(tmp_path), source).reference()
    known = both()(as_tensor(EIGHT))["aux"].numpy()
    with np.load(reference.folder / "answers.npz") as kept:
        assert np.allclose(kept["values"].reshape(16, 4), known, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "given"),
    [("float64", "float32"), ("float32", "float32"), ("uint8", "float32"), ("int64", "int64"), ("int32", "int32")],
)
def test_a_lone_array_of_words_stays_whole_and_one_of_a_picture_becomes_float32(kind, given):
    inputs = as_inputs(np.arange(12).reshape(3, 4).T.astype(kind))
    assert inputs.dtype == given
    assert inputs.flags.c_contiguous
    assert inputs.tolist() == np.arange(12).reshape(3, 4).T.tolist()


def test_several_outputs_for_tiles_are_each_put_together():
    picture = CHANCE.normal(size=(2, 40, 50)).astype(np.float32)
    model = source_of(None, [picture], tile=Tile(16, 4), answer=lambda output, item: output[1]).model
    interface = Interface(gives="tuple", names=(0, 1))

    def predict(inputs):
        return inputs * 2, (inputs.sum(axis=1) > 0).astype(np.int64)

    found = answered(predict, model, [picture], 3, interface).answers
    assert np.array_equal(found[0], picture.sum(axis=0) > 0)
    assert found[0].dtype == np.int64


def test_an_output_of_another_size_than_its_tile_is_refused_in_one_line():
    picture = CHANCE.normal(size=(2, 40, 50)).astype(np.float32)
    model = source_of(None, [picture], tile=Tile(16, 4)).model
    with pytest.raises(DataError, match=r"for a tile of 16 pixels is of shape \(2, 8, 8\); at scale 1 it must end in"):
        answered(lambda inputs: inputs[..., ::2, ::2], model, [picture], 1)


# inputs


@pytest.mark.parametrize("engine", ["torch", "torchscript", "openvino"])
@pytest.mark.parametrize(
    ("index", "dtype"),
    [
        (lambda x: x.long(), np.float32),
        (lambda x: (x + 0.25).round().int(), np.float32),
        (lambda x: x, np.int64),
        (lambda x: x.long(), np.int32),
    ],
)
def test_word_numbers_stay_themselves_in_bfloat16(engine, index, dtype, tmp_path):
    supported(engine, "bf16")
    ids = np.arange(300, 600)
    source = source_of(lambda: words(index), ids[:, None], preprocess=lambda x: x.astype(dtype))
    scores, interface = predicted(engine, "bf16", source, tmp_path, ids[:, None].astype(dtype))
    assert interface.exact_input == (dtype == np.float32)  # else its whole numbers come as such
    assert scores.dtype == np.float32
    assert np.array_equal(scores.argmax(axis=1), ids)  # bfloat16 has steps of 2 and 4 there
    assert (
        30
        < likeness(scores, words(index)(as_tensor(ids[:, None].astype(dtype))).numpy(), np.zeros(608, bool)).sqnr_db
        < 70
    )


def test_bfloat16_of_a_network_that_indexes_and_multiplies_by_its_input_keeps_both_or_says_why(tmp_path):
    import torch

    class Both(torch.nn.Module):
        def __init__(self, within):
            super().__init__()
            self.table, self.scale = torch.nn.Embedding(608, 4), torch.nn.Linear(1, 4)
            self.within = within

        def forward(self, x):
            scaled = self.scale(x) if self.within else torch.nn.functional.linear(x, self.scale.weight)
            return self.table(x.long()).mean(1) + scaled

    ids = np.arange(300, 332, dtype=np.float32)[:, None]
    torch.manual_seed(0)
    outputs, _ = predicted("torch", "bf16", source_of(lambda: Both(True).eval(), ids), tmp_path / "a", ids)
    assert np.isfinite(outputs).all()
    with pytest.raises(Unsupported, match=r"round the network's input \(float32\).*outside of its modules"):
        Bill(Store(tmp_path / "b"), source_of(lambda: Both(False).eval(), ids)).artefact("torch", "bf16")


@pytest.mark.parametrize("engine", ["torch", "torchscript", "openvino"])
def test_bytes_that_a_network_makes_floats_of_are_cast_to_bfloat16_inside_of_it(engine, tmp_path):
    import torch

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x / 255)

    def network():
        torch.manual_seed(0)
        return Scaled().eval().requires_grad_(False)

    supported(engine, "bf16")
    pictures = CHANCE.integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
    source = source_of(network, pictures, preprocess=lambda x: x)
    outputs, interface = predicted(engine, "bf16", source, tmp_path, pictures)
    assert interface.exact_input
    known = network()(as_tensor(pictures)).numpy().ravel()
    assert likeness(outputs.ravel(), known, np.zeros(known.size, bool)).sqnr_db > 35


def test_a_network_that_does_not_index_by_its_input_is_given_bfloat16_at_its_door():
    import torch

    seen = []

    class Seen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            seen.append(x.dtype)
            return self.conv((x - 0.5) / 2).argmax(1)

    network = Seen().eval()
    picture = CHANCE.random((1, 3, 4, 4), np.float32)
    interface = interface_of(network, picture)
    assert not interface.exact_input
    from bench.engines.torch_modules import predictor
    from bench.engines.torch_quantization import lowered

    labels = predictor(lowered(adapted(network, interface), recipes.get("bf16"), picture))(picture)
    assert seen[-1] == torch.bfloat16
    assert labels.dtype == np.int64


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "int8_static"])
def test_a_network_that_writes_into_its_input_gives_what_one_that_copies_gives(engine, precision, tmp_path):
    items = CHANCE.random((16, 8), np.float32)
    kept = items.copy()
    batch = items[:1].copy()
    found = {}
    for in_place in (True, False):
        source = source_of(lambda in_place=in_place: writing(in_place), items)
        outputs, interface = predicted(engine, precision, source, tmp_path / str(in_place), batch)
        assert interface.writes_input is in_place
        assert np.array_equal(items, kept)
        assert np.array_equal(batch, kept[:1])
        found[in_place] = outputs
        (stored,) = (tmp_path / str(in_place)).rglob("inputs.npz")
        assert np.array_equal(load_inputs(stored.parent).batch(), kept)
    assert isinstance(found[True], np.ndarray)  # what is written into is no output
    assert np.allclose(found[True], found[False], atol=1e-5)


@pytest.mark.parametrize("way", ["method", "out", "module"])
def test_int8_of_a_network_that_writes_takes_what_was_written(way, tmp_path):
    import torch

    class Written(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = (
                torch.nn.Linear(8, 8),
                torch.nn.Linear(8, 4),
                torch.nn.ReLU(inplace=True),
            )

        def forward(self, x):
            y = self.first(x)
            if way == "method":
                y.sub_(0.5)
            elif way == "out":
                torch.sub(y, 0.5, out=y)
            else:
                self.act(y)
            return self.second(y)

    torch.manual_seed(0)
    network = Written().eval().requires_grad_(False)
    known = network(as_tensor(EIGHT)).numpy()
    engine, recipe = engines.get("torch"), recipes.get("int8_static")
    engine.build(network, recipe, EIGHT, tmp_path)
    outputs = engine.load(tmp_path, recipe, lambda: network, EIGHT, 1)(EIGHT)
    assert likeness(outputs, known, np.zeros(4, bool)).sqnr_db > 25  # FX alone takes what was there before: 2 to 6


def test_int8_of_a_network_that_writes_into_a_part_of_a_tensor_is_unsupported_in_torch_ao(tmp_path):
    import torch

    class Written(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

        def forward(self, x):
            y = self.first(x)
            y.view(-1).sub_(0.5)
            return self.second(y)

    with pytest.raises(Unsupported, match="writes into a part of a tensor"):
        engines.get("torch").build(Written().eval(), recipes.get("int8_static"), EIGHT, tmp_path)


def test_a_traced_network_is_adapted_in_its_graph_and_stays_so_in_a_copy():
    import copy

    import torch

    def give(first, second):
        return [first, second]

    class Written(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = two_outputs(give)

        def forward(self, x):
            return self.inner(x.mul_(2))

    traced = torch.fx.symbolic_trace(Written()).eval()
    interface = interface_of(traced, EIGHT[:1])
    assert (interface.writes_input, interface.gives) == (True, "list")
    given = as_tensor(EIGHT)
    outputs = copy.deepcopy(adapted(traced, interface))(given)
    assert isinstance(outputs, tuple)
    assert np.array_equal(given.numpy(), EIGHT)


def test_a_write_that_changes_nothing_this_time_is_seen_too():
    import torch

    class Clamped(torch.nn.Module):
        def forward(self, x):
            return x.clamp_(0, 1) * 2

    assert interface_of(Clamped(), CHANCE.random((1, 8), np.float32)).writes_input


def test_a_preprocess_that_writes_leaves_the_data_set_as_it_is():
    def halved(inputs):
        inputs /= 2
        return inputs

    items = EIGHT.copy()
    model = source_of(None, items, preprocess=halved).model
    assert np.array_equal(Inputs.joined(list(inputs_of_all(model, items))).batch(), EIGHT / 2)
    assert np.array_equal(items, EIGHT)


def test_turned_pictures_reach_engines_in_c_order():
    photos = CHANCE.integers(0, 255, (8, 6, 6, 3)).astype(np.uint8)
    model = source_of(None, photos, preprocess=lambda x: x.transpose(0, 3, 1, 2).astype(np.float64) / 255).model
    seen = []

    def predict(inputs):
        seen.append(inputs)
        return inputs

    answered(predict, model, photos, 3)
    seen.append(preprocessed(model, photos[0]).batch())
    seen.append(Inputs.joined([Inputs.of(photo.transpose(2, 0, 1)[None]) for photo in photos]).copy().batch())
    source = source_of(None, photos, preprocess=model.preprocess)
    seen.append(calibration_inputs(source).batch())
    assert all(inputs.flags.c_contiguous for inputs in seen)
    assert seen[0].dtype == np.float32  # what a float64 would become is an error of the first linear layer
    assert np.array_equal(seen[0][0], photos[0].transpose(2, 0, 1).astype(np.float32) / 255)


def test_executorch_builds_the_same_program_of_turned_pictures_as_of_copied_ones(tmp_path):
    import torch

    def doubler():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))

    photos = CHANCE.integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)

    def turned(inputs):
        return inputs.transpose(0, 3, 1, 2).astype(np.float32) / 255

    sizes = []
    for name, way in (("turned", turned), ("copied", lambda inputs: np.ascontiguousarray(turned(inputs)))):
        source = source_of(doubler, photos, preprocess=way)
        sizes.append(Bill(Store(tmp_path / name), source).artefact("executorch", "fp32").bytes)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (
            [(np.zeros((3, 4)), np.zeros(5))] * 4,
            r"takes input; the model gives it input0, input1: have the model's pre",
        ),
        (
            [{"a": np.zeros((3, 4)), "b": np.zeros(5)}] * 4,
            r"takes input; the model gives it a, b: have the model's pre",
        ),
    ],
)
def test_inputs_that_a_network_does_not_take_are_refused_in_one_line(items, told, tmp_path):
    import torch

    with pytest.raises(BuildError, match=told) as raised:
        Bill(Store(tmp_path), source_of(torch.nn.Identity, items)).reference()
    assert len(str(raised.value).splitlines()) == 1


def test_inputs_of_several_shapes_are_refused_in_one_line(tmp_path):
    import torch

    source = source_of(torch.nn.Identity, [np.ones((2, 12 + place), np.float32) for place in range(4)])
    for build_it in (lambda: Bill(Store(tmp_path), source).reference(), lambda: calibration_inputs(source)):
        with pytest.raises(DataError, match=r"\(2, 12\) and \(2, 13\).*pad them.*a tile") as raised:
            build_it()
        assert len(str(raised.value).splitlines()) == 1


def test_inputs_that_differ_only_late_in_the_data_are_refused_too():
    items = [np.ones(3, np.float32)] * 5 + [np.ones(4, np.float32)]
    with pytest.raises(DataError, match=r"\(3,\) and \(4,\)"):
        answered(lambda inputs: inputs, source_of(None, items).model, items, 1)


def pair(split, count=8):
    chance = np.random.default_rng(len(split))
    return [{"words": chance.integers(0, 9, 5), "marks": chance.random((2, 3), np.float32)} for _ in range(count)]


def two_inputs():
    """A network of word numbers (n, 5) and marks (n, 2, 3), with an optional third input."""
    import torch

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.seen, self.out = torch.nn.Embedding(9, 8), torch.nn.Linear(6, 8), torch.nn.Linear(16, 3)

        def forward(self, words, marks, scale=None):
            both = torch.cat([self.table(words).mean(1), self.seen(marks.flatten(1))], 1)
            return self.out(torch.relu(both)) if scale is None else self.out(both) * scale

    torch.manual_seed(0)
    return Two().eval().requires_grad_(False)


@pytest.mark.parametrize("precision", ["fp32", "int8_static"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_of_word_numbers_and_marks_runs_on_every_engine(engine, precision, tmp_path):
    import torch

    items = pair("test")
    source = source_of(two_inputs, items)
    built = Bill(Store(tmp_path), source).artefact(engine, precision)
    example = Inputs.joined([preprocessed(source.model, item) for item in items[:3]])
    interface = interface_of(two_inputs(), example[:1])

    def bare():
        return adapted(two_inputs(), interface, 2)

    predict = engines.get(engine).load(built.folder, recipes.get(precision), bare, example, 1)
    known = two_inputs()(
        torch.from_numpy(np.stack([item["words"] for item in items[:3]])),
        torch.from_numpy(np.stack([item["marks"] for item in items[:3]])),
    ).numpy()
    error = np.abs(predict(example.batch()) - known).max() / np.abs(known).max()
    assert error < (1e-4 if precision == "fp32" else 0.25)


def test_inputs_in_another_order_than_forwards_are_refused_in_one_line():
    given = {"marks": np.zeros((1, 2, 3), np.float32), "words": np.zeros((1, 5), np.int64)}
    with pytest.raises(
        BuildError, match=r"takes words, marks, scale; the model gives it marks, words: .* forward's ord"
    ):
        interface_of(two_inputs(), Inputs(given))
    with pytest.raises(BuildError, match=r"the model gives it words, scale: .* without a gap"):
        interface_of(two_inputs(), Inputs({"words": given["words"], "scale": given["marks"]}))


def test_a_lone_input_has_no_name_that_forward_could_know():
    import torch

    class Later(torch.nn.Module):
        def forward(self, x, input=None):
            return x

    assert interface_of(Later(), EIGHT[:1]) == Interface()


def test_items_lie_along_the_axis_that_the_network_has_for_them():
    arrays = {"x": np.arange(6.0).reshape(3, 2), "state": np.arange(12.0).reshape(3, 2, 2), "rate": np.full(3, 7)}
    inputs = Inputs(arrays, {"x": 0, "state": 1, "rate": None})
    batch = inputs.batch()
    assert {name: array.shape for name, array in batch.items()} == {"x": (3, 2), "state": (2, 3, 2), "rate": ()}
    assert np.array_equal(batch["state"][:, 1], arrays["state"][1])
    assert batch["rate"] == 7
    assert batch["state"].flags.c_contiguous
    with pytest.raises(DataError, match="items differ in rate, which the network takes once"):
        Inputs(arrays | {"rate": np.arange(3)}, inputs.batch_axes).batch()
    unknown = Inputs({"x": arrays["x"][:1], "rate": np.full(1, np.nan)}, {"rate": None})
    assert np.isnan(unknown.batch()["rate"])
    alone = inputs.one_a_call()
    assert {name: array.shape for name, array in alone[1:2].batch().items()} == {
        "x": (1, 2),
        "state": (2, 1, 2),
        "rate": (),
    }
    with pytest.raises(Unsupported, match="takes one item in a call"):
        alone.batch()


def test_outputs_come_with_the_items_first_whatever_axis_the_network_has_for_them():
    interface = Interface(gives="dict", names=("y", "state"), batch_axes=(0, 1))
    y, state = interface.items((np.zeros((3, 4)), np.arange(12).reshape(2, 3, 2)))
    assert (y.shape, state.shape) == ((3, 4), (3, 2, 2))
    (whole,) = Interface(batch_axes=(None,)).items(np.zeros((5, 2)))
    assert whole.shape == (1, 5, 2)


# few samples


@pytest.mark.parametrize("engine", ENGINES)
def test_one_sample_is_enough_to_calibrate_with(engine, tmp_path):
    def network():
        return two_outputs(lambda a, b: a)

    source = source_of(network, EIGHT[:1])
    batch = EIGHT[:1] if engine == "executorch" else EIGHT[:3]
    outputs, _ = predicted(engine, "int8_static", source, tmp_path, batch)
    assert outputs.shape == (len(batch), 4)
    built = Bill(Store(tmp_path / "cache"), source, build=False).artefact(engine, "int8_static")
    assert calibration_of(built.folder) == Calibration(asked=256, used=1)
    files = [path for path in built.folder.iterdir() if path.is_file() and path.name != "manifest.json"]
    assert built.bytes == sum(path.stat().st_size for path in files)


def test_what_is_not_calibrated_has_no_count_of_inputs(tmp_path):
    built = Bill(Store(tmp_path), source_of(lambda: two_outputs(lambda a, b: a), EIGHT)).artefact("torch", "fp32")
    assert calibration_of(built.folder) is None


def test_layers_left_in_fp32_are_found_with_one_sample(tmp_path):
    source = source_of(lambda: two_outputs(lambda a, b: a + b), EIGHT[:1], "classification")
    built = Bill(Store(tmp_path), source).artefact("torch", "int8_auto")
    assert set(json.loads((built.folder / LEFT).read_text())["left"]) <= {"first", "second"}


# what is judged


def test_outputs_that_are_classes_are_judged_by_agreement_and_others_by_their_noise():
    reference = np.array([[1.0, 2.0, 7, 8], [3.0, 4.0, 9, 1]])
    outputs = reference + np.array([[0.01, 0, 0, 0], [0, 0, 0, 1]])
    whole = np.array([False, False, True, True])
    both = likeness(outputs, reference, whole)
    assert both.sqnr_db == pytest.approx(10 * np.log10(30 / 0.01**2))
    assert (both.whole, both.agreement, both.finite) == (False, 0.75, True)
    classes = likeness(outputs[:, 2:], reference[:1, 2:], whole[2:])
    assert np.isnan(classes.sqnr_db)
    assert (classes.whole, classes.agreement) == (True, 1.0)
    with pytest.raises(WorkerError, match="3 values for an input here, and 4"):
        likeness(outputs[:, :3], reference, whole)


def test_outputs_that_are_not_numbers_are_told_from_masks_that_fp32_gives_too():
    reference = np.array([[1.0, -np.inf, 2.0]])
    nothing = np.zeros(3, bool)
    masked = likeness(np.array([[1.0, -np.inf, 2.0]]), reference, nothing)
    assert (masked.finite, masked.sqnr_db) == (True, np.inf)
    assert not likeness(np.array([[1.0, -np.inf, np.nan]]), reference, nothing).finite
    assert not likeness(np.array([[np.inf, -np.inf, 2.0]]), reference, nothing).finite


@pytest.mark.parametrize(
    ("outputs", "whole"),
    [
        (CHANCE.integers(0, 5, (16, 9)), True),
        (CHANCE.integers(0, 5, (16, 9)).astype(np.float32), True),
        (CHANCE.integers(0, 3, (16, 99)).astype(np.float32) / 255, True),
        (CHANCE.random((16, 9)) > 0.5, True),
        (CHANCE.normal(size=(16, 9)).astype(np.float32), False),
        (CHANCE.integers(0, 10**6, (16, 99)).astype(np.float32), False),
        (np.full((16, 9), np.nan, np.float32), False),
    ],
)
def test_outputs_of_whole_numbers_or_few_values_are_known_as_classes(outputs, whole):
    found = answered(
        lambda inputs: outputs[inputs[:, 0].astype(int)], source_of(None, []).model, np.arange(16)[:, None], 4
    )
    assert found.whole.tolist() == [whole] * outputs.shape[1]


def test_class_numbers_out_of_the_network_are_judged_as_scores_are():
    task, targets = tasks.get("classification"), [0, 1, 2, 2]
    classes, scores = np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 0]]
    assert task.quality(classes, targets) == task.quality(scores, targets) == {"top1": 0.75}
    assert task.fidelity(list(classes), [0, 1, 1, 1]) == {"agreement": 0.5}
    assert [task.decided(answer).tolist() for answer in classes] == [task.decided(answer).tolist() for answer in scores]


# pictures


@pytest.mark.parametrize(
    "item",
    [
        np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        CHANCE.normal(size=(3, 4, 4)).astype(np.float32),
        CHANCE.normal(size=(1, 4, 4)),
        CHANCE.normal(size=(4, 4)),
    ],
)
def test_items_of_several_layouts_are_shown_as_pictures(item):
    from bench.tasks.pictures import picture_of

    picture = picture_of(item)
    assert (picture.shape, picture.dtype) == ((4, 4, 3), np.uint8)
    if item.dtype == np.uint8:
        assert np.array_equal(picture, item)
    elif item.ndim == 3:
        assert np.array_equal(picture.argmax(axis=0)[..., 0], item[0].argmax(axis=0))
    assert int(picture.max()) == (255 if item.dtype != np.uint8 else 47)


def test_what_is_no_picture_is_left_out_of_a_strip():
    from bench.tasks.pictures import picture_of

    assert picture_of(np.zeros((5, 4, 4))) is None
    assert picture_of({"a": 1}) is None
    labels = np.zeros((4, 4), int)
    shown = tasks.get("segmentation").shown(np.zeros((5, 4, 4)), labels, labels, labels)
    assert list(shown) == ["truth", "FP32", "this case", "difference"]


def test_strips_of_two_runs_that_differ_lie_beside_each_other(tmp_path):
    from bench.tasks.pictures import panels_of, write

    task, item, labels = tasks.get("segmentation"), np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), int)
    first, again, other = (
        write(tmp_path, "case", task, [item], [labels], [answer], [labels]) for answer in (labels, labels, labels + 1)
    )
    assert first == again != other
    assert len(list(tmp_path.iterdir())) == 2
    panels = panels_of(Path(tmp_path, other[0]))
    assert list(panels) == ["original", "truth", "FP32", "this case", "difference"]
    assert panels["difference"].getpixel((1, 1)) == (255, 255, 255)  # columns are of one width, whatever panels are
