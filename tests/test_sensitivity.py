"""Claims about which layers cost the quality, on networks in which one layer does."""

from dataclasses import replace

import numpy as np
import pytest
from networks import closed_attention

from bench import Dataset, Model, Samples, Weights, engines, recipes
from bench.build.sensitivity import Trial, layers_of, ranked, settled
from bench.cli import main
from bench.errors import BadCase, BuildError
from bench.report.ranking import rendered
from bench.spec.case import Case
from bench.spec.model import Source
from bench.tasks.detection import Objects

CHANNELS, SIDE, COUNT = 8, 8, 64


def network():
    """Three convolutions of inputs (n, 3, 8, 8), the first of which ignores their first channel."""
    import torch
    from torch import nn

    class Outlier(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, CHANNELS, 1, bias=False)
            self.middle = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
            self.last = nn.Conv2d(CHANNELS, 2, SIDE, bias=False)

        def forward(self, x):
            return self.last(self.middle(torch.relu(self.first(x)))).flatten(1)

    torch.manual_seed(0)
    net = Outlier().eval().requires_grad_(False)
    net.first.weight[:, 0] = 0
    return net


def inputs(seed):
    """Noise whose first channel is a thousand times as large: one scale for all leaves nothing of the others."""
    x = np.random.default_rng(seed).normal(size=(COUNT, 3, SIDE, SIDE)).astype(np.float32)
    x[:, 0] *= 1000
    return x


def trial(engine="torch"):
    return Trial(engines.get(engine), network, inputs(0), 1)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_the_layer_whose_input_has_an_outlier_costs_most(engine):
    found = ranked(trial(engine), recipes.get("int8_static"))
    assert {layer.name for layer in found} == set(layers_of(network())) == {"first", "middle", "last"}
    assert found[0].name == "first"
    assert found[0].sqnr_db < 15
    assert found[1].sqnr_db > found[0].sqnr_db + 10


def test_layers_in_a_closed_box_are_named_and_not_ranked():
    given = np.random.default_rng(0).normal(size=(8, 12, 16)).astype(np.float32)
    found = ranked(Trial(engines.get("torch"), closed_attention, given, 1), recipes.get("int8_static"))
    assert [layer.name for layer in found if layer.sqnr_db is not None] == ["head"]
    boxed = {layer.name: layer.reason for layer in found if layer.sqnr_db is None}
    assert boxed == {"attention.out_proj": "inside MultiheadAttention, which FX takes for one operation"}
    lines = rendered(found).splitlines()
    assert f"- not lowered: attention.out_proj: {boxed['attention.out_proj']}" in lines


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3])
def test_layers_are_ranked_by_fewer_samples_than_a_batch(engine, count):
    found = ranked(replace(trial(engine), samples=inputs(0)[:count]), recipes.get("int8_static"))
    assert {layer.name for layer in found} == {"first", "middle", "last"}
    assert found[0].name == "first"


def judged(targets=None):
    """The source and the training side of a model whose classes are FP32's own answers."""
    import torch

    items = inputs(1)
    labels = network()(torch.from_numpy(items)).argmax(dim=1).tolist() if targets is None else targets
    data = Samples(items, labels)
    dataset = Dataset("answers", "FP32's own", lambda split, folder: data)
    model = Model("outlier", "classification", network, (Weights("as made", "answers"),))
    return Source(model, model.weights[0], dataset, None), data


def test_the_fewest_layers_that_keep_the_quality_stay_in_fp32():
    recipe = replace(recipes.get("int8_auto"), most_drop=0.02)
    assert settled(trial(), recipe, *judged()).left == ("first",)


def test_no_layer_stays_where_quality_may_fall_as_it_likes():
    recipe = replace(recipes.get("int8_auto"), most_drop=1.0)
    assert settled(trial(), recipe, *judged()).left == ()


def test_an_artefact_remembers_what_stayed(tmp_path):
    from bench.build.artefact import LEFT, as_built

    (tmp_path / LEFT).parent.mkdir()
    (tmp_path / LEFT).write_text('["middle"]')
    recipe = as_built(recipes.get("int8_auto"), tmp_path)
    assert recipe.left_alone(network()) == ["middle"]
    (tmp_path / LEFT).write_text('{"left": ["last"], "by": "top1"}')
    recipe = as_built(recipes.get("int8_auto"), tmp_path)
    assert recipe.left_alone(network()) == ["last"]
    assert recipe.left_by == "top1"


def test_a_training_side_without_targets_is_refused():
    class Nothing:
        def quality(self, answers, targets):
            return {"ap": float("nan")}

        def fidelity(self, answers, reference):
            return {"agreement": float("nan")}

    from bench.tasks import tasks

    tasks.add("nothing", Nothing(), __name__)
    source, data = judged()
    source = replace(source, model=replace(source.model, task="nothing"))
    with pytest.raises(BuildError, match="no targets on its training side"):
        settled(trial(), recipes.get("int8_auto"), source, data)


def test_a_training_side_without_truth_is_judged_by_agreement_with_fp32():
    recipe = replace(recipes.get("int8_auto"), most_drop=0.02)
    found = settled(trial(), recipe, *judged(targets=[None] * COUNT))
    assert found.left == ("first",)
    assert found.left_by == "agreement with FP32"
    assert settled(trial(), recipe, *judged()).left_by == "top1"


def test_faces_without_truth_leave_in_fp32_what_their_agreement_needs():
    def boxes(output, item):
        """A box of one pixel, as far from FP32's as the output is."""
        left = 10.0 * float(output[0])
        return np.array([[left, 0.0, left + 1, 1.0, 0.9]])

    source, data = judged([Objects(np.zeros((0, 4)))] * COUNT)
    source = replace(source, model=replace(source.model, task="detection", answer=boxes))
    found = settled(trial(), replace(recipes.get("int8_auto"), most_drop=0.02), source, data)
    assert "first" in found.left, "a map of -1 for both would have left nothing in FP32"
    assert found.left_by == "agreement with FP32"


def test_the_figure_is_the_same_before_and_after():
    class Other:
        """Tells one figure of the right network, and another of all others."""

        def quality(self, answers, targets):
            right = [int(np.argmax(answer)) for answer in answers] == list(targets)
            return {"a": 0.5 if right else float("nan"), "b": 1.0}

    from bench.tasks import tasks

    tasks.add("other", Other(), __name__)
    source, data = judged()
    source = replace(source, model=replace(source.model, task="other"))
    found = settled(trial(), replace(recipes.get("int8_auto"), most_drop=0.5), source, data)
    assert found.left, "b did not fall, but a is what was judged"


def test_engines_that_lower_whole_networks_say_so():
    for name in ("inductor", "executorch"):
        assert "whole networks" in engines.get(name).supports(recipes.get("int8_auto"), "cpu")


def test_a_case_is_read_from_its_id():
    for case in (Case("a-b", "int8_static", "torch", 4, 2), Case("m", "fp32", "x", device="gpu")):
        assert Case.named(case.id) == case
    with pytest.raises(BadCase, match="is no case; one reads MODEL-PRECISION-ENGINE"):
        Case.named("resnet20")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet20", "is no case"),
        ("resnet20-fp32-torch-b1-t1", "is in fp32"),
        ("resnet20-int8_static-inductor-b1-t1", "cannot be ranked"),
        ("vgg-int8_static-torch-b1-t1", "no model is named 'vgg'"),
    ],
)
def test_what_cannot_be_ranked_is_told_in_one_line(capsys, monkeypatch, name, told):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    assert main(["sensitivity", name]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
