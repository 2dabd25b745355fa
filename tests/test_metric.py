"""Claims about metrics: what they are measured in, which way is better, and that a saved run tells it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from drafts import Draft

from bench.errors import RunFileError
from bench.records.compare import compare
from bench.records.figures import figure_text
from bench.records.runs import frame, read, record_of
from bench.records.schema import SCHEMA
from bench.report.comparison import broken
from bench.report.plots import rows_of
from bench.report.summary import render
from bench.spec.metric import DECIBEL, SHARE, Metric, metric_named
from bench.spec.outcome import Judged
from bench.tasks import tasks

GOLDEN = Path(__file__).parent / "data" / "run.json"


@pytest.mark.parametrize(
    ("task", "name", "unit", "better"),
    [
        ("classification", "top5", SHARE, "higher"),
        ("detection", "ap_hard", SHARE, "higher"),
        ("detection", "map50", SHARE, "higher"),
        ("segmentation", "iou.7", SHARE, "higher"),
        ("restoration_ycbcr", "psnr_y_shave4_db", DECIBEL, "higher"),
        ("restoration_rgb", "ssim_rgb_shave0", "", "higher"),
        ("features", "max_error", SHARE, "lower"),
        ("features", "never heard of", "", "higher"),
    ],
)
def test_a_task_says_what_its_metrics_are_measured_in(task, name, unit, better):
    assert metric_named(name, tasks.get(task).metrics) == Metric(name, unit, better)


def test_structural_similarity_is_no_percentage():
    assert figure_text("quality.ssim_rgb_shave0", 0.98) == "0.98"
    assert figure_text("fidelity.degradation.ssim", 0.98) == "0.98"


def saved(**more):
    run = Draft.of(GOLDEN)
    run.records[2] |= more
    return run


def test_a_metric_that_nobody_here_knows_is_shown_as_its_run_tells():
    metrics = {"wer": {"unit": "share", "better": "lower"}, "perplexity": {"unit": "", "better": "lower"}}
    metrics = {name: {"name": name} | told for name, told in metrics.items()}
    run = saved(quality={"wer": 0.125, "perplexity": 12.5}, metrics=metrics).run()
    text = render([run])
    assert "12.50%" in text
    assert "| 12.5 |" in text.replace("  ", "")


def test_of_a_metric_that_is_better_lower_a_rise_is_what_a_limit_catches_and_less_is_on_the_front():
    told = {"wer": {"name": "wer", "unit": "share", "better": "lower"}}
    was, now = (saved(quality={"wer": wer}, metrics=told).run() for wer in (0.10, 0.15))
    found = compare(was, [now])
    assert broken([was, now], found, {"wer": 0.01}) == ["resnet20-int8_static-onnxruntime-b1-t1: wer +5.00%"]
    assert broken([was, now], compare(now, [was]), {"wer": 0.01}) == []
    run = Draft.of(GOLDEN)
    for record, wer in zip(run.records[:3], (0.10, 0.20, 0.30), strict=True):
        record |= {"quality": {"wer": wer}, "metrics": told, "latency": {"p50_s": 0.01}}
    assert [row.front for row in rows_of(frame(run.run()))] == [True, False, False]


def test_what_a_run_of_schema_1_had_among_its_metrics_is_what_it_was_judged_on():
    record = read(GOLDEN).records[0]
    assert set(record.quality) == {"top1"}
    assert record.judged == replace(record.judged, n=1017, dataset="cifar10", weights="resnet20-12fca82f")
    assert frame(read(GOLDEN)).loc[0, "judged.n"] == 1017


def test_a_record_is_read_back_as_it_was_saved():
    for record in read(GOLDEN).records:
        again = record_of(json.loads(json.dumps(record.facts())))
        assert replace(again, calls=record.calls) == record


def test_a_record_without_data_is_judged_on_nothing():
    assert record_of({"case": read(GOLDEN).records[0].case.axes(), "status": "failed"}).judged is None
    assert Judged() == Judged(None, None, None, None, None)


def test_a_run_of_a_newer_schema_is_refused_in_one_line(tmp_path):
    told = json.loads(GOLDEN.read_text())
    told["bench"] = told.get("bench", {}) | {"schema": SCHEMA + 1}
    (tmp_path / "new.json").write_text(json.dumps(told))
    with pytest.raises(RunFileError, match=f"saved by a newer version .schema {SCHEMA + 1}, this one reads up to"):
        read(tmp_path / "new.json")


@dataclass
class Part:
    name: str
    values: tuple[float, ...] = ()
    share: float | None = None


@dataclass
class Whole:
    parts: tuple[Part, ...] = ()
    names: tuple[str, ...] = ()
    shares: dict[str, float] | None = None


def test_what_is_not_of_its_type_is_absent_and_numbers_are_whole_or_absent():
    from bench.records.json_values import Unfit, tolerant

    told = {
        "parts": [
            {"name": "a", "values": [1, 2.5], "share": "x"},
            {"values": [1]},
            3,
            {"name": "b", "values": [1, None]},
        ],
        "names": ["a", None, "b"],
        "shares": {"x": 0.5, "y": "no", "z": True},
        "unknown": 1,
    }
    assert tolerant(Whole, told) == Whole((Part("a", (1.0, 2.5)), Part("b")), ("a", "b"), {"x": 0.5})
    for rubbish in (None, 3, "x", [], {}):
        with pytest.raises(Unfit):
            tolerant(Whole, rubbish)


def test_a_task_whose_figure_is_no_number_fails_in_one_line(tmp_path, monkeypatch):
    import toy  # noqa: F401 - registers the toy engine, model and data

    from bench import Case
    from bench.measure import measure
    from bench.timing.sampling import Plan
    from bench.timing.settings import Bench

    (tmp_path / "wordy.py").write_text(
        "from bench.tasks import tasks\n"
        "from bench.tasks.classification import Classification\n"
        "class Wordy(Classification):\n"
        "    def quality(self, answers, targets):\n"
        "        return {'top1': 'good'}\n"
        "tasks.add('classification', Wordy(), __name__)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "_members", dict(tasks._members))
    monkeypatch.setattr(tasks, "_origins", dict(tasks._origins))
    monkeypatch.setattr(tasks, "_order", dict(tasks._order))
    __import__("wordy")
    plan = Plan(least_launches=1, most_launches=1, pass_s=0.03, slice_s=0.001)
    record = measure(Case("linear", "fp32", "toy"), Bench(tmp_path / "cache", plan=plan))
    assert record.status == "failed"
    assert record.reason == "task classification gives 'top1' as 'good'; a figure is a number, details a dict"
