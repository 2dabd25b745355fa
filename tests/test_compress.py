"""Claims about recipes of steps: what they do to a network, that they do it once, and what is judged against what."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench import Case, Dataset, Model, Recipe, Samples, Step, Training, Weights, models, recipes
from bench.build.bill import Bill
from bench.build.keys import class_digest
from bench.build.weights import trained_network
from bench.compress import Channels, Cluster, Quantize, Sparse, Train
from bench.compress.checkpoint import Checkpoint
from bench.compress.finetune import parts_of
from bench.compress.huffman import code_bits, huffman_bytes
from bench.compress.review import context_distance, fusions, reviewed
from bench.errors import BadCase
from bench.spec.model import Source
from bench.spec.step import Context
from bench.store import Store
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    ).eval()


def pictures(split, folder=None):
    rng = np.random.default_rng(len(split))
    return Samples(rng.normal(size=(24, 3, 6, 6)).astype(np.float32), rng.integers(0, 4, 24))


def distance(outputs, wanted):
    return (outputs - wanted).square().mean()


TRAINING = Training(distance, batch=8, rate=0.01)


def context(before=(), training=TRAINING):
    items = torch.from_numpy(pictures("train").inputs)
    return Context(training, network(), len(items), lambda places: (items[places],), before)


def weights_of(net):
    return torch.cat([part.weight.flatten() for part in parts_of(net)])


def zeros(net):
    return int((weights_of(net) == 0).sum()) / len(weights_of(net))


# pruning


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_the_smallest_weights_of_all_layers_are_zero_and_stay_zero(ratio, epochs):
    net = network().requires_grad_(False)
    limit = weights_of(net).abs().sort().values[round(ratio * len(weights_of(net))) - 1]
    small = weights_of(net).abs() <= limit
    _, decided = Sparse(ratio, epochs=epochs).make(net, context())
    assert zeros(net) == decided["zeros"] == pytest.approx(ratio, abs=1 / len(small))
    assert torch.equal(weights_of(net) == 0, small)
    assert not torch.equal(weights_of(net), weights_of(network())), "the kept weights are trained, or others are zero"
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not net.training


def test_zeros_rise_without_compounding():
    net = network().requires_grad_(False)
    Sparse(0.5, rises=(0.2, 0.3), hold=1, epochs=0).make(net, context())
    assert zeros(net) == pytest.approx(0.5, abs=1e-3)


def test_two_of_four_input_channels_are_zero():
    net = network().requires_grad_(False)
    Sparse(0.5, "2:4", epochs=1).make(net, context())
    _, second, linear = parts_of(net)
    for weight in (second.weight.flatten(2), linear.weight[:, :, None]):
        groups = weight.unflatten(1, (-1, 4))
        assert set((groups == 0).sum(2).unique().tolist()) == {2}


def test_two_of_four_keeps_the_largest():
    linear = nn.Linear(4, 1, bias=False).requires_grad_(False)
    linear.weight.copy_(torch.tensor([[1.0, -3.0, 2.0, 0.5]]))
    Sparse(0.5, "2:4", epochs=0).make(linear, context())
    assert linear.weight.tolist() == [[0.0, -3.0, 2.0, 0.0]]


@pytest.mark.parametrize(
    "settings", [{"ratio": 0.0}, {"ratio": 0.5, "rises": (0.6,)}, {"ratio": 0.3, "pattern": "2:4"}, {"ratio": 1.0}]
)
def test_ratios_and_patterns_that_cannot_be_are_refused(settings):
    with pytest.raises(BadCase, match=r"there are|a pattern is"):
        Sparse(**settings)


def test_training_brings_a_pruned_network_nearer_to_its_teacher():
    inputs = torch.from_numpy(pictures("train").inputs)
    nets = [network().requires_grad_(False) for _ in range(2)]
    for net, epochs in zip(nets, (0, 20), strict=True):
        Sparse(0.7, epochs=epochs).make(net, context())
    with torch.inference_mode():
        before, after = (float(distance(net(inputs), network()(inputs))) for net in nets)
    assert after < before


def test_an_epoch_goes_over_few_items_as_often_as_the_training_says():
    visited = []

    def given(places):
        visited.extend(places)
        return (torch.from_numpy(pictures("train").inputs)[places],)

    repeated = replace(context(training=replace(TRAINING, batch=16, repeats=2)), inputs=given)
    Sparse(0.5, epochs=1).make(network().requires_grad_(False), repeated)
    assert len(visited) == 48
    assert {visited.count(place) for place in range(24)} == {2}


def test_gradients_are_scaled_to_the_length_that_the_training_says():
    def moved(clip):
        net = network().requires_grad_(False)
        Sparse(0.5, epochs=0).make(net, context())
        before = weights_of(net).clone()
        torch.manual_seed(0)
        Sparse(0.5, epochs=1).make(net, context(training=replace(TRAINING, batch=24, clip=clip)))
        return float((weights_of(net) - before).norm())

    assert 0 < moved(1e-3) <= 1e-3 * TRAINING.rate * 1.01
    assert moved(None) == pytest.approx(moved(1e9)), "a limit beyond the gradients changes nothing"
    assert moved(None) > moved(1e-3)


def test_training_is_the_same_every_time():
    nets = [network().requires_grad_(False) for _ in range(2)]
    for net in nets:
        Sparse(0.5, epochs=2).make(net, context())
    assert torch.equal(weights_of(nets[0]), weights_of(nets[1]))


# clustering


@pytest.mark.parametrize("epochs", [0, 2])
def test_each_layer_has_so_many_values(epochs):
    pytest.importorskip("sklearn")
    net = network().requires_grad_(False)
    _, decided = Cluster(5, epochs).make(net, context())
    counts = [len(part.weight.unique()) for part in parts_of(net)]
    assert max(counts) == decided["values"] <= 5
    assert min(counts) >= 2


def test_clusters_of_a_pruned_network_leave_its_zeros():
    pytest.importorskip("sklearn")
    net = network().requires_grad_(False)
    sparse = Sparse(0.5, epochs=0)
    sparse.make(net, context())
    known = weights_of(net) == 0
    Cluster(8, 1).make(net, context((sparse,)))
    assert bool((weights_of(net)[known] == 0).all())


# channels


class Block(nn.Module):
    """Two branches that are added, so that what is removed of one must go from the other."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head((x + self.outer(torch.relu(self.inner(x)))).mean((2, 3)))


def block():
    torch.manual_seed(0)
    return Block().eval().requires_grad_(False)


def removed(ratio, epochs=0, whole=("head",), **more):
    pytest.importorskip("torch_pruning")
    net = block()
    items = torch.from_numpy(pictures("train").inputs)
    training = replace(TRAINING, whole=whole)
    given = Context(training, block(), len(items), lambda places: (items[places],))
    return Channels(ratio, epochs=epochs, **more).make(net, given)


@pytest.mark.parametrize("epochs", [0, 1])
def test_channels_are_gone_and_the_bare_network_is_brought_to_their_counts(epochs):
    net, decided = removed(0.5, epochs)
    assert (net.inner.out_channels, net.outer.in_channels) == (12, 12)
    assert net.first.out_channels == net.outer.out_channels == net.norm.num_features == net.head.in_features == 8
    bare = block()
    Channels(0.5).shape(bare, json.loads(json.dumps(decided)))
    bare.load_state_dict(net.state_dict())
    inputs = torch.from_numpy(pictures("test").inputs)
    torch.testing.assert_close(bare(inputs), net(inputs))
    assert not any(parameter.requires_grad for parameter in bare.parameters())
    assert not bare.training


def test_layers_that_must_stay_whole_keep_their_outputs():
    net, decided = removed(0.5, whole=("first", "outer", "head"))
    assert (net.first.out_channels, net.outer.out_channels, net.inner.out_channels) == (16, 16, 12)
    assert decided["sizes"].keys() == {"inner", "outer"}


def test_counts_are_rounded():
    net, _ = removed(0.4, whole=("first", "outer", "head"), round_to=8)
    assert net.inner.out_channels % 8 == 0


def test_the_channels_of_least_magnitude_go():
    net, _ = removed(0.5, whole=("first", "outer", "head"))
    known = block()
    norms = (known.inner.weight.square().flatten(1).sum(1) + known.outer.weight.square().flatten(2).sum((0, 2))).sqrt()
    kept = {tuple(row.flatten().tolist()) for row in net.inner.weight}
    chosen = [tuple(known.inner.weight[place].flatten().tolist()) in kept for place in range(24)]
    others = torch.tensor([not taken for taken in chosen])
    assert sum(chosen) == 12
    assert float(norms[~others].mean()) > float(norms[others].mean())


# checkpoints


class Stopped(Exception):
    pass


STEPS = [
    (Sparse(0.5, rises=(0.2, 0.3), hold=2, epochs=2), 13),  # in the second epoch of the third training
    (Train(epochs=5), 10),
    (Quantize(epochs=4), 7),
]


@pytest.mark.parametrize(("step", "calls"), STEPS, ids=[type(step).__name__ for step, _ in STEPS])
def test_an_interrupted_training_goes_on_to_the_same_bits(step, calls, tmp_path):
    items = torch.from_numpy(pictures("train").inputs)
    made = []

    def trained(stop_after):
        def augment(inputs, generator):
            made.append(1)
            if len(made) > stop_after:
                raise Stopped
            return (inputs[0] + 0.1 * torch.randn(inputs[0].shape, generator=generator),)

        made.clear()
        files = (tmp_path / f"{place}.pt" for place in range(9))
        training = replace(TRAINING, loss=cross_entropy, augment=augment)
        more = (lambda places: (items[places],), (), LABELS.__getitem__, rebuilt, None, files)
        net = step.make(network().requires_grad_(False), Context(training, network(), len(items), *more))[0]
        return net, len(made)

    with pytest.raises(Stopped):
        trained(calls)
    assert list(tmp_path.iterdir())
    resumed, calls_after = trained(99)
    for file in tmp_path.iterdir():
        file.unlink()
    whole, calls_in_all = trained(99)
    assert calls_after < calls_in_all - calls + 4
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_left_alone(tmp_path):
    file = tmp_path / "0.pt"
    Checkpoint(file, rebuilt(1), {}, {}).keep(3)
    assert Checkpoint(file, rebuilt(1), {}, {}).restored() == 3
    assert Checkpoint(file, rebuilt(2), {}, {}).restored() == 0
    file.write_bytes(file.read_bytes()[:100])
    assert Checkpoint(file, rebuilt(1), {}, {}).restored() == 0
    assert Checkpoint(None, rebuilt(1), {}, {}).restored() == 0


def test_a_finished_stage_leaves_no_checkpoint(registered, tmp_path):
    bill_of(tmp_path).stage((Sparse(0.5, epochs=1),))
    assert not list((tmp_path / "training").glob("*"))


# knowledge review


def test_fusions_and_their_distance_are_torchdistills():
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    wrapper = pytest.importorskip("torchdistill.models.wrapper")
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 16, 16), (2, 8, 8, 8), (2, 12, 4, 4)]
    student, teacher = (
        [torch.randn(n, channels + more, h, w, generator=generator) for n, channels, h, w in shapes] for more in (0, 4)
    )
    made = fusions(student, teacher)
    total, passed = torch.zeros(()), None
    for place, (fusion, given, wanted) in enumerate(zip(made, student[::-1], teacher[::-1], strict=True)):
        known = wrapper.AttentionBasedFusion(given.shape[1], 12, wanted.shape[1], place > 0)
        known.load_state_dict(dict(zip(known.state_dict(), fusion.state_dict().values(), strict=True)))
        fused, passed = known(given, passed, given.shape[2])
        hcl = losses.HierarchicalContextLoss("student", "output", "teacher", "output")
        total = total + hcl({"student": {"output": (fused, None)}}, {"teacher": {"output": wanted}})
    torch.testing.assert_close(reviewed(made, student, teacher), total, rtol=1e-6, atol=1e-6)


def test_the_distance_of_features_is_that_of_their_means_at_each_size():
    fused, wanted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    parts = [((fused - wanted) ** 2).mean()]
    for size in (2, 1):  # 4 is no smaller
        cut = (each.unflatten(3, (size, -1)).unflatten(2, (size, -1)).mean((3, 5)) for each in (fused, wanted))
        parts.append((next(cut) - next(cut)).square().mean())
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    torch.testing.assert_close(context_distance(fused, wanted), expected)


def test_a_review_changes_what_is_learned_and_leaves_no_hooks():
    tutor = rebuilt(5).requires_grad_(False)
    nets = [anew(Train(review=weight, epochs=20), tutor) for weight in (0.0, 5.0)]
    assert not torch.equal(weights_of(nets[0]), weights_of(nets[1]))
    assert all(not part._forward_hooks for net in (*nets, tutor) for part in net.modules())


# sizes


def code_lengths(counts):
    """The lengths of a Huffman code's words, by building its tree."""
    trees = [(count, place, [place]) for place, count in enumerate(counts)]
    lengths, tie = [0] * len(counts), len(counts)
    while len(trees) > 1:
        trees.sort()
        (first, _, left), (second, _, right), *rest = trees
        for place in left + right:
            lengths[place] += 1
        trees, tie = [*rest, (first + second, tie, left + right)], tie + 1
    return lengths


@pytest.mark.parametrize("counts", [[5, 9, 12, 13, 16, 45], [1, 1, 1, 1], [100, 1], list(range(1, 40))])
def test_bits_in_huffmans_code_are_those_of_its_words(counts):
    lengths = code_lengths(counts)
    assert code_bits(np.array(counts)) == sum(count * length for count, length in zip(counts, lengths, strict=True))
    entropy = -sum(count * np.log2(count / sum(counts)) for count in counts)
    assert entropy <= code_bits(np.array(counts)) < entropy + sum(counts)


def test_the_size_in_huffmans_code_counts_the_table_and_no_tensor_above_its_size():
    values = torch.tensor([0.0, 1.0, 1.0, 2.0] * 100)
    assert huffman_bytes({"weight": values}) == (600 + 3 * (32 + 8) + 7) // 8
    assert huffman_bytes({"weight": torch.randn(500)}) == 2000
    assert huffman_bytes({"a": values, "b": torch.randn(500)}) == (600 + 120) // 8 + 2000


# training from chance

LABELS = torch.from_numpy(pictures("train").targets)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)


def rebuilt(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    ).eval()


def anew(step, tutor=None, before=()):
    items = torch.from_numpy(pictures("train").inputs)
    given = Context(
        replace(TRAINING, loss=cross_entropy, features=("0", "3")),
        network(),
        len(items),
        lambda places: (items[places],),
        before,
        LABELS.__getitem__,
        rebuilt,
        tutor,
    )
    return step.make(network().requires_grad_(False), given)[0]


def test_training_from_chance_learns_the_targets_and_does_not_begin_with_the_weights_that_are_there():
    items = torch.from_numpy(pictures("train").inputs)
    net = anew(Train(epochs=40))
    with torch.inference_mode():
        assert float(cross_entropy(net(items), LABELS)) < 0.5 * float(cross_entropy(rebuilt(0)(items), LABELS))
    first = anew(Train(epochs=1, rate=1e-9))
    torch.testing.assert_close(weights_of(first), weights_of(rebuilt(0)))
    assert not torch.equal(weights_of(anew(Train(epochs=2))), weights_of(anew(Train(epochs=2, seed=1))))
    assert torch.equal(weights_of(anew(Train(epochs=2, seed=1))), weights_of(anew(Train(epochs=2, seed=1))))


def test_a_teacher_draws_outputs_to_its_own():
    items = torch.from_numpy(pictures("train").inputs)
    tutor = rebuilt(5).requires_grad_(False)
    steps = Train(distill=0.0, epochs=30), Train(distill=1.0, temperature=1.0, epochs=30)
    alone, taught = (float(distance(anew(step, tutor)(items), tutor(items))) for step in steps)
    assert taught < 0.5 * alone


def test_without_distilling_no_teacher_is_asked():
    assert not Train().taught
    assert torch.equal(weights_of(anew(Train(epochs=2))), weights_of(anew(Train(epochs=2), None)))


def test_zeros_stay_through_training_from_chance():
    sparse = Sparse(0.5, epochs=0)
    net, _ = sparse.make(network().requires_grad_(False), context())
    zero = weights_of(net) == 0
    items = torch.from_numpy(pictures("train").inputs)
    more = (lambda places: (items[places],), (sparse,), LABELS.__getitem__, rebuilt)
    net, _ = Train(epochs=2).make(net, Context(replace(TRAINING, loss=cross_entropy), network(), len(items), *more))
    assert bool((weights_of(net)[zero] == 0).all())


@pytest.mark.parametrize("settings", [{"distill": 1.1}, {"review": -1}, {"temperature": 0}, {"epochs": 0}])
def test_settings_of_training_that_cannot_be_are_refused(settings):
    with pytest.raises(BadCase, match="distill is 0 to 1, review not below 0, temperature above 0, epochs from 1"):
        Train(**settings)


# stages


@dataclass(frozen=True)
class Narrow(Step):
    """Removes hidden units of a network of two linear layers, the least first."""

    units: int

    def make(self, network, context):
        first, second = network[0], network[2]
        kept = sorted(first.weight.abs().sum(1).topk(first.out_features - self.units).indices.tolist())
        weights = first.weight[kept].clone(), first.bias[kept].clone(), second.weight[:, kept].clone()
        network = self.shape(network, {"kept": kept})
        for given, weight in zip((network[0].weight, network[0].bias, network[2].weight), weights, strict=True):
            given.data.copy_(weight)
        network[2].bias.data.copy_(second.bias)
        return network, {"kept": kept}

    def shape(self, network, decided):
        inputs, outputs = network[0].in_features, network[2].out_features
        network[0] = nn.Linear(inputs, len(decided["kept"])).requires_grad_(False)
        network[2] = nn.Linear(len(decided["kept"]), outputs).requires_grad_(False)
        return network


def two_layers():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))


def rows(split, folder=None):
    rng = np.random.default_rng(len(split))
    return Samples(rng.normal(size=(20, 5)).astype(np.float32), rng.integers(0, 3, 20))


def bill_of(tmp_path, training=TRAINING, build=network, data=pictures):
    model = Model("staged", "classification", build, (Weights("as built", "staged"),), training=training)
    models.add("staged", model)
    return Bill(Store(tmp_path), Source(model, model.weights[0], Dataset("staged", "", data), None))


@pytest.fixture
def registered():
    from bench import datasets

    datasets.add("staged", Dataset("staged", "", pictures))


def count(tmp_path, kind):
    return len([folder for folder in (tmp_path / kind).iterdir() if folder.is_dir()])


def test_recipes_that_begin_alike_share_their_stages(registered, tmp_path):
    bill = bill_of(tmp_path)
    half = Sparse(0.5, epochs=1)
    first, longer = bill.stage((half,)), bill.stage((half, Sparse(0.7, epochs=1)))
    assert bill.stage((half,)).digest == first.digest
    assert count(tmp_path, "stage") == 2
    net = trained_network(bill.source, longer, (half, Sparse(0.7, epochs=1)))
    assert zeros(net) == pytest.approx(0.7, abs=1e-3)
    steps = json.loads((longer.folder / "steps.json").read_text())
    assert [round(step["zeros"], 2) for step in steps] == [0.5, 0.7]
    assert steps[1]["huffman_bytes"] < steps[0]["huffman_bytes"] < 4 * len(weights_of(net))


def test_the_key_of_a_stage_covers_its_settings_and_the_models_training(registered, tmp_path):
    bill = bill_of(tmp_path)
    other = bill_of(tmp_path, replace(TRAINING, rate=0.02))
    digests = {
        bill.stage((Sparse(0.5, epochs=1),)).digest,
        bill.stage((Sparse(0.5, epochs=2),)).digest,
        other.stage((Sparse(0.5, epochs=1),)).digest,
    }
    assert len(digests) == 3
    assert count(tmp_path, "stage") == 3


def test_a_stage_is_judged_against_itself_and_its_drop_against_the_original(registered, tmp_path):
    from bench.build.reference import original_answers
    from bench.tasks.inference import load_answers

    bill, steps = bill_of(tmp_path), (Sparse(0.7, epochs=0),)
    stage, original = bill.reference_after(steps).folder, bill.reference().folder
    kept = trained_network(bill.source, bill.stage(steps), steps)
    with torch.inference_mode():
        known = kept(torch.from_numpy(pictures("test").inputs)).numpy()
    np.testing.assert_allclose(np.stack(load_answers(stage / "answers.npz")), known, atol=1e-5)
    assert original_answers(original) is None
    before = np.stack(original_answers(stage))
    np.testing.assert_array_equal(before, np.stack(load_answers(original / "answers.npz")))
    assert np.abs(before - known).max() > 0.01


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "inductor"])
def test_a_step_that_changes_structure_reaches_the_engine(engine, registered, tmp_path):
    from bench import engines
    from bench.build.networks import architecture, shaped

    bill, steps = bill_of(tmp_path, None, two_layers, rows), (Narrow(6),)

    def bare():
        return shaped(architecture(bill.source), steps, reference).eval()

    recipes.add("narrow_fp32", Recipe("narrow_fp32", "fp32", steps=steps))
    artefact, reference = bill.artefact(engine, "narrow_fp32"), bill.reference_after(steps).folder
    assert json.loads((reference / "macs.json").read_text())["macs_per_item"] == 10 * (5 + 3)
    inputs = rows("test").inputs[:1]
    session = engines.get(engine).load(artefact.folder, recipes.get("narrow_fp32"), bare, inputs, 1)
    known = trained_network(bill.source, bill.stage(steps), steps)(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(session.predict(inputs), known, atol=1e-5)


def test_a_model_that_does_not_say_how_it_trains_makes_such_cases_unsupported(registered, tmp_path):
    bill_of(tmp_path, None)
    bench = Bench(tmp_path)
    reason = unsupported(Case("staged", "sparse50_fp32", "torch"), bench)
    assert reason == ("sparse50_fp32 trains the network, and staged does not say how: give the Model a 'training'")
    recipes.add("cut", Recipe("cut", "fp32", steps=(Sparse(0.5, epochs=0),)))
    assert unsupported(Case("staged", "cut", "torch"), bench) is None


def test_training_from_chance_and_teaching_need_what_they_need(registered, tmp_path):
    case, bench = Case("staged", "kd_fp32", "torch"), Bench(tmp_path)
    bill_of(tmp_path)
    assert unsupported(case, bench) == "kd_fp32 trains from chance, and staged's training has no 'loss'"
    bill_of(tmp_path, replace(TRAINING, loss=cross_entropy))
    assert unsupported(case, bench) == "kd_fp32 needs a teacher, and staged's training names none"
    assert unsupported(replace(case, precision="scratch_fp32"), bench) is None
    reason = unsupported(replace(case, precision="review_fp32"), bench)
    assert reason == "review_fp32 compares features, and staged's training names none"
    tutor = Model("tutor", "classification", network, (Weights("filed", "staged", file="tutor.th"),))
    models.add("tutor", tutor)
    bill_of(tmp_path, replace(TRAINING, loss=cross_entropy, teacher="tutor"))
    assert unsupported(case, bench).startswith("kd_fp32 needs a teacher: tutor needs tutor.th")


def test_the_teacher_is_in_the_key_of_a_step_that_is_taught(registered, tmp_path):
    training = replace(TRAINING, loss=cross_entropy, teacher="tutor")
    bills = []
    for build in (network, lambda: rebuilt(3)):
        models.add("tutor", Model("tutor", "classification", build, (Weights("as built", "staged"),)))
        bills.append(bill_of(tmp_path, training))
        bills[-1].stage((Train(distill=0.5, epochs=1),))
        bills[-1].stage((Train(epochs=1),))
    assert count(tmp_path, "stage") == 3


@dataclass(frozen=True)
class Leaky(Step):
    """Another activation: the structure alone tells two of them apart, weights and what is decided do not."""

    slope: float

    def make(self, network, context):
        return self.shape(network, {}), {}

    def shape(self, network, decided):
        network[2] = nn.LeakyReLU(self.slope)
        return network


def test_steps_that_lead_to_equal_weights_and_other_networks_share_nothing(registered, tmp_path):
    bill = bill_of(tmp_path)
    known, artefacts = [], []
    for slope in (0.1, 0.9):
        steps = (Leaky(slope), Sparse(0.5, epochs=0))
        recipes.add("leaky_fp32", Recipe("leaky_fp32", "fp32", steps=steps))
        known.append(np.load(bill.reference_after(steps).folder / "outputs.npy"))
        artefacts.append(bill.artefact("onnxruntime", "leaky_fp32").digest)
    assert np.abs(known[0] - known[1]).max() > 0.01
    assert artefacts[0] != artefacts[1]


def test_a_package_that_a_step_needs_is_named(registered, tmp_path, monkeypatch):
    bill_of(tmp_path)
    monkeypatch.setattr(Cluster, "packages", ("no-such-package",))
    reason = unsupported(Case("staged", "cluster32_fp32", "torch"), Bench(tmp_path))
    assert reason == "package no-such-package is not installed; pip install no-such-package"


def test_the_code_of_steps_is_in_their_digest():
    assert class_digest(Sparse(0.5)) == class_digest(Sparse(0.7))
    assert len({class_digest(step) for step in (Sparse(0.5), Cluster(), Narrow(1))}) == 3


def test_a_step_leaves_structure_and_parameters_unless_it_says_so():
    class Nothing(Step):
        def make(self, network, context):
            return network, {}

    net = network()
    step = Nothing()
    assert step.make(net, SimpleNamespace()) == (net, {})
    assert step.shape(net, {}) is net
    step.keeper(net)()
    assert torch.equal(weights_of(net), weights_of(network()))
    assert not step.trains
