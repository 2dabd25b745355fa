"""Claims about what one more of each kind costs: one file, and one word in the conftest that imports it."""

import json

import pytest

pytest_plugins = ["pytester"]

ENGINE = """
import json
import numpy as np
from bench import Engine, engines
from bench.engines.engine import Session
from bench.engines.lowered import Layer

class Own(Engine):
    packages, format, formats = ("numpy",), "json", ("fp32", "int8")
    activations = ("static",)

    def supports(self, recipe, device):
        return None

    def build(self, network, recipe, samples, folder):
        weight = network.weight.detach().numpy()
        if recipe.number_format == "int8":
            scale = np.abs(weight).max() / 127
            weight = np.round(weight / scale) * scale
        (folder / "own.json").write_text(json.dumps({"weight": weight.tolist()}))

    def load(self, folder, recipe, network, example, threads):
        weight = np.float32(json.loads((folder / "own.json").read_text())["weight"])
        return Session(lambda inputs: inputs @ weight.T, lambda: {"own_pool": threads})

    def layers(self, folder, recipe, network, example, threads):
        return [Layer("", "linear", recipe.number_format, recipe.number_format, 6, 6)]

engines.add("own", Own(), __name__)
"""
DATA = """
import numpy as np
from bench import Dataset, Samples, datasets

def load(split, folder):
    inputs = np.random.default_rng(len(split)).normal(size=(40, 3)).astype(np.float32)
    return Samples(inputs, inputs.sum(axis=1))

datasets.add("sums", Dataset("sums", "three numbers and their sum", load), __name__)
"""
TASK = """
import numpy as np
from bench.spec.metric import Metric
from bench.tasks import tasks

class Regression:
    metrics = (Metric("mae_mm", "", better="lower"), Metric("nearness", "share"))

    def quality(self, answers, targets):
        return {"mae_mm": float(self.scores(answers, targets)["mae_mm"].mean())}

    def scores(self, answers, targets):
        return {"mae_mm": np.array([abs(float(answer[0]) - target) for answer, target in zip(answers, targets)])}

    def fidelity(self, answers, reference):
        return {"nearness": 1 - float(np.mean([abs(a - b).max() for a, b in zip(answers, reference)]))}

    def decided(self, answer):
        return np.round(answer * 1000).astype(np.int32)

    def shown(self, item, target, answer, known):
        return {}

tasks.add("sum", Regression(), __name__)
"""
MODEL = """
from bench import Model, Weights, models

def network():
    import torch
    linear = torch.nn.Linear(3, 1, bias=False)
    linear.weight.data = torch.tensor([[1.0, 1.03, 0.9]])
    return linear

models.add("adder", Model("adder", "sum", network, (Weights("as made", "sums"),)), __name__)
"""
PRECISION = """
from bench import Recipe, recipes

recipes.add("int8_own", Recipe("int8_own", "int8", "static"), __name__)
"""
SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(
    Grid("adder", ["fp32", "int8_own"], "own", baseline=dict(engine="own", precision="fp32"))
)
def test_adder(case, measure):
    measure(case)
"""
TABLE = """
title = "One more table"
rows = [{ axes = ["precision"] }]
columns = [
    { label = "error", figure = "quality.mae_mm" },
    { label = "near FP32", figure = "fidelity.nearness" },
    { label = "lowered", figure = "lowered.share" },
]
"""
FILES = {"own_engine": ENGINE, "own_data": DATA, "own_task": TASK, "own_model": MODEL, "own_precision": PRECISION}


@pytest.fixture
def project(pytester, monkeypatch):
    """A user's folder with one file of each kind, and a conftest with one word for each."""
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(pytester.path / "cache"))
    pytester.makepyfile(**FILES)
    pytester.makeconftest(f"import {', '.join(FILES)}")
    pytester.makepyfile(test_adder=SUITE)
    (pytester.path / "reports").mkdir()
    (pytester.path / "reports" / "own.toml").write_text(TABLE)
    return pytester


def test_one_more_engine_model_data_set_task_metric_precision_and_table_are_a_file_and_a_word_each(project):
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--bench-quick", "--benchmark-json=run.json")
    result.assert_outcomes(passed=2)
    saved = json.loads((project.path / "run.json").read_text())
    records = {one["extra_info"]["case"]["precision"]: one["extra_info"] for one in saved["benchmarks"]}
    assert records["fp32"]["metrics"]["mae_mm"] == {"name": "mae_mm", "unit": "", "better": "lower"}
    assert records["fp32"]["process"]["pool"]["own_pool"] == 1
    assert records["fp32"]["judged"]["dataset"] == "sums"
    assert records["int8_own"]["lowered"]["macs"] == {"int8": 1.0}
    low, value, high = (records["int8_own"]["drop"]["mae_mm"][name] for name in ("low", "value", "high"))
    assert low <= value <= high
    worse = records["int8_own"]["quality"]["mae_mm"] - records["fp32"]["quality"]["mae_mm"]
    assert value == pytest.approx(worse, rel=1e-3), "of a metric that is better lower, a drop is a rise"
    text = result.stdout.str()
    assert "One more table" in text
    row = next(line for line in text.splitlines() if line.startswith("| int8_own"))
    error, near, lowered = (cell.strip() for cell in row.strip("|").split("|")[1:])
    assert error == f"{records['int8_own']['quality']['mae_mm']:.4g}"
    assert near.endswith("%")
    assert lowered == "100.00%"


OTHER_ENGINE = """
import own_engine
import numpy as np
from bench import Device, Recipe, devices, engines, recipes

class Npu(Device):
    name = "npu"

class Elsewhere(own_engine.Own):
    formats, activations, devices = ("fp32", "tenths"), (), ("cpu", "npu")

    def build(self, network, recipe, samples, folder):
        super().build(network, recipes.get("fp32"), samples, folder)
        if recipe.number_format == "tenths":
            text = own_engine.json.loads((folder / "own.json").read_text())["weight"]
            (folder / "own.json").write_text(own_engine.json.dumps({"weight": np.round(text, 1).tolist()}))

engines.add("elsewhere", Elsewhere(), __name__)
devices.add("npu", Npu(), __name__)
recipes.add("tenths", Recipe("tenths", "tenths"), __name__)
"""
OTHER_SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(
    Grid(
        "adder", ["fp32", "tenths"], ["elsewhere", "own"], device=["cpu", "npu"],
        baseline=dict(engine="own", precision="fp32", device="cpu"),
    )
)
def test_elsewhere(case, measure):
    measure(case)
"""


def test_one_more_number_format_and_device_are_what_an_engine_states(project):
    (project.path / "test_adder.py").unlink()
    project.makepyfile(own_elsewhere=OTHER_ENGINE, test_elsewhere=OTHER_SUITE)
    project.makeconftest(f"import {', '.join(FILES)}, own_elsewhere")
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--bench-quick", "--benchmark-json=run.json")
    result.assert_outcomes(passed=5, skipped=3)
    saved = json.loads((project.path / "run.json").read_text())
    records = [one["extra_info"] for one in saved["benchmarks"]]
    shares = {(one["case"]["precision"], one["case"]["device"]): one["lowered"]["macs"] for one in records}
    assert shares[("tenths", "npu")] == shares[("tenths", "cpu")] == {"tenths": 1.0}
    text = result.stdout.str()
    assert "own runs on cpu here, not on npu" in text
    assert "own computes in fp32, int8 here, not in tenths" in text
    assert "adder-tenths-elsewhere-b1-t1-npu" in (project.path / "run.json").read_text()


STEP = """
from dataclasses import dataclass
from bench import Recipe, Step, recipes

@dataclass(frozen=True)
class Rounded(Step):
    digits: int

    def make(self, network, context):
        network.weight.copy_((network.weight * 10**self.digits).round() / 10**self.digits)
        return network, {"digits": self.digits}

recipes.add("rounded_fp32", Recipe("rounded_fp32", "fp32", steps=(Rounded(1),)), __name__)
"""


def test_one_more_step_is_a_file_and_a_word_and_its_drop_is_from_the_original(project):
    project.makepyfile(own_step=STEP, test_adder=SUITE.replace("int8_own", "rounded_fp32"))
    project.makeconftest(f"import {', '.join(FILES)}, own_step")
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--bench-quick", "--benchmark-json=run.json")
    result.assert_outcomes(passed=2)
    saved = json.loads((project.path / "run.json").read_text())
    records = {one["extra_info"]["case"]["precision"]: one["extra_info"] for one in saved["benchmarks"]}
    rounded, fp32 = records["rounded_fp32"], records["fp32"]
    assert rounded["artifact"]["steps"] == ["Rounded(digits=1)"]
    assert fp32["artifact"]["steps"] == []
    assert rounded["fidelity"]["nearness"] == pytest.approx(1), "to the rounded network in FP32"
    worse = rounded["quality"]["mae_mm"] - fp32["quality"]["mae_mm"]
    assert abs(worse) > 0.001
    assert rounded["drop"]["mae_mm"]["value"] == pytest.approx(worse, rel=1e-3), "from the original network"
