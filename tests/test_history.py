"""Claims about histories: a change of level is marked, scatter is not."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.records.history import changes_of

GOLDEN = Path(__file__).parent / "data" / "run.json"


@pytest.mark.parametrize("seed", range(10))
def test_the_first_value_after_a_change_of_level_is_named(seed):
    chance = np.random.default_rng(seed)
    values = np.exp(chance.normal(0, 0.005, 30))
    values[17:] *= 1.05
    assert changes_of(values) == (17,)


def test_scatter_is_seldom_a_change():
    chance = np.random.default_rng(0)
    found = [changes_of(np.exp(chance.normal(0, 0.01, 30))) for _ in range(100)]
    assert sum(map(bool, found)) <= 5


def test_a_few_equal_values_have_no_change():
    assert changes_of([1.0, 1.0, 1.0]) == ()
    assert changes_of([2.0] * 20) == ()


@pytest.fixture
def weeks(tmp_path):
    """Twelve runs, one a week; from the eighth on, INT8 in ONNX Runtime takes a fifth longer."""
    saved = json.loads(GOLDEN.read_text())
    chance = np.random.default_rng(0)
    for week in range(12):
        run = copy.deepcopy(saved)
        run["datetime"] = f"2026-{1 + week // 4:02}-{1 + 7 * (week % 4):02}T00:00:00+00:00"
        for entry in run["benchmarks"]:
            entry["extra_info"]["latency"]["p50_s"] *= float(np.exp(chance.normal(0, 0.003)))
        if week >= 7:
            run["benchmarks"][2]["extra_info"]["latency"]["p50_s"] *= 1.2
        (tmp_path / f"week{week:02}.json").write_text(json.dumps(run))
    return tmp_path


def test_a_change_is_marked_in_the_history_of_its_case_alone(weeks, capsys, tmp_path):
    assert main(["history", str(weeks), "--plot", str(tmp_path / "history.svg")]) == 0
    text = capsys.readouterr().out
    marked = [line for line in text.splitlines() if "changed, " in line]
    assert [line.split("|")[2].strip() for line in marked] == ["week07"]
    assert (tmp_path / "history.svg").read_text().startswith("<svg")


def test_noisy_runs_are_marked_and_make_no_change(weeks, capsys):
    for week in (3, 4):
        file = weeks / f"week{week:02}.json"
        run = json.loads(file.read_text())
        told = run["benchmarks"][2]["extra_info"]
        told["latency"]["p50_s"] *= 1.4
        told["noise"]["verdict"] = "noisy"
        file.write_text(json.dumps(run))
    assert main(["history", str(weeks), "--case", "resnet20-int8_static-onnxruntime-b1-t1"]) == 0
    text = capsys.readouterr().out
    rows = {line.split("|")[2].strip(): line.split("|")[5].strip() for line in text.splitlines() if "week" in line}
    assert [run for run, told in rows.items() if told == "noisy"] == ["week03", "week04"]
    assert [run for run, told in rows.items() if told.startswith("changed, 1.2")] == ["week07"]


def test_a_case_of_two_tests_has_two_histories(weeks, capsys):
    case = "resnet20-int8_static-onnxruntime-b1-t1"
    for week in range(12):
        file = weeks / f"week{week:02}.json"
        run = json.loads(file.read_text())
        again = copy.deepcopy(run["benchmarks"][2])
        again["fullname"] = f"suites/test_again.py::test_resnet20[{case}]"
        again["extra_info"]["latency"]["p50_s"] = 1.0
        if week > 5:  # it came later: then the case is told apart in the runs before, too
            run["benchmarks"].append(again)
        del run["commit_info"]
        file.write_text(json.dumps(run))
    assert main(["history", str(weeks), "--case", case]) == 0
    text = capsys.readouterr().out
    heads = [line.partition(",")[0] for line in text.splitlines() if line.startswith("###")]
    assert heads == [f"### {case} (suites/test_{test}.py::test_resnet20)" for test in ("document3", "again")]
    assert text.count("1.00 s") == 6
    assert "nan" not in text
    assert main(["history", str(weeks), "--case", heads[1].removeprefix("### ")]) == 0
    assert capsys.readouterr().out.count("###") == 1


def test_a_figure_may_rise_from_nothing(weeks, capsys):
    for week in range(12):
        file = weeks / f"week{week:02}.json"
        run = json.loads(file.read_text())
        run["benchmarks"][2]["extra_info"]["quality"]["top1"] = 0.0 if week < 7 else 0.9
        file.write_text(json.dumps(run))
    case = "resnet20-int8_static-onnxruntime-b1-t1"
    assert main(["history", str(weeks), "--case", case, "--cell", "quality.top1"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "changed, infx" in line]


def test_one_case_and_another_figure_can_be_asked_for(weeks, capsys):
    case = "resnet20-int8_static-onnxruntime-b1-t1"
    assert main(["history", str(weeks), "--case", case, "--cell", "quality.top1"]) == 0
    text = capsys.readouterr().out
    assert text.count("###") == 1
    assert "91.64%" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--case", "vgg"], "no run holds vgg; there are resnet20-fp32-torch-b1-t1"),
        (["--cell", "quality.miou"], "no case of these runs has a figure 'quality.miou'"),
        (["--plot", "history.docx"], "its name must end in .svg, .png, .html"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(weeks, capsys, arguments, told):
    assert main(["history", str(weeks), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_the_history_of_a_users_metric_is_in_the_metrics_own_unit(weeks, capsys):
    for file in weeks.glob("*.json"):
        run = json.loads(file.read_text())
        for entry in run["benchmarks"]:
            entry["extra_info"]["quality"]["hits"] = 0.5
            entry["extra_info"].setdefault("metrics", {})["hits"] = {"name": "hits", "unit": "share"}
        file.write_text(json.dumps(run))
    assert main(["history", str(weeks), "--cell", "quality.hits"]) == 0
    assert "50.00%" in capsys.readouterr().out
