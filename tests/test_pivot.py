"""Claims about pivots and the page: any axes, any figures, and nothing that a file says becomes markup."""

import html
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.records.runs import Run, frame, read, read_all
from bench.report.page import page
from bench.report.pivot import formed, laid_out

GOLDEN = Path(__file__).parent / "data" / "run.json"


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_any_axes_are_laid_out_with_an_interval_beside_each_ratio(capsys):
    told = json.loads(GOLDEN.read_text())["benchmarks"][2]["extra_info"]
    arguments = ["--rows", "precision", "--columns", "engine", "--cell", "latency.p50_s,speedup.ratio"]
    assert main(["report", str(GOLDEN), *arguments]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows[0] == ["precision", "torch", "onnxruntime", "openvino"]
    speedup = told["speedup"]
    cell = (
        f"{told['latency']['p50_s'] * 1e3:.3f} ms, {speedup['ratio']:.2f}x ({speedup['low']:.2f}-{speedup['high']:.2f})"
    )
    assert rows[3] == ["int8_static", "-", cell, "-"]


def test_a_cell_without_figures_has_its_reason_below(capsys):
    assert main(["report", str(GOLDEN), "--table", "pivot"]) == 0
    text = capsys.readouterr().out
    assert "| unsupported [1] " in text
    assert "- [1] unsupported: ONNX Runtime's CPU provider has no bfloat16 kernels for convolutions" in text


def test_axes_that_are_not_named_but_differ_are_rows_too():
    run = read(GOLDEN)
    records = [replace(one, case=replace(one.case, batch=8)) for one in run.records]
    other = Run(records, run.machine, name="other")
    wide, _ = laid_out(frame([run, other]), ["precision"], ["engine"], ["latency.p50_s"])
    assert list(wide.columns[:3]) == ["precision", "batch", "run"]
    assert len(wide) == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rows", "colour"], "no axis is named 'colour'; there are model, precision"),
        (["--cell", "latency.p42_s"], "no case of these runs has a figure 'latency.p42_s'; there are "),
        (["--table", "document9"], "no table is named 'document9'; there are cases, pivot, document1"),
        (["--table", "document2"], "the table 'document2' has nothing to show"),
    ],
)
def test_what_is_not_there_is_named_with_what_there_is(capsys, arguments, told):
    assert main(["report", str(GOLDEN), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_one_table_can_be_asked_for(capsys):
    assert main(["report", str(GOLDEN), "--table", "document3"]) == 0
    text = capsys.readouterr().out
    assert "### ResNet20" in text
    assert "### All cases" not in text


def test_csv_is_read_back_by_pandas(capsys, tmp_path):
    import pandas as pd

    assert main(["report", str(GOLDEN), "--format", "csv", "--output", str(tmp_path / "run.csv")]) == 0
    table = pd.read_csv(tmp_path / "run.csv")
    assert table["id"].tolist() == [record.id for record in read(GOLDEN).records]
    assert table.loc[0, "quality.top1"] == pytest.approx(932 / 1017)


def test_a_pivots_csv_has_numbers_in_it_and_why_where_there_are_none(tmp_path):
    import pandas as pd

    told = {entry["extra_info"]["id"]: entry["extra_info"] for entry in json.loads(GOLDEN.read_text())["benchmarks"]}
    speedup = told["resnet20-int8_static-onnxruntime-b1-t1"]["speedup"]
    arguments = ["--rows", "precision", "--cell", "latency.p50_s,speedup.ratio"]
    assert main(["report", str(GOLDEN), *arguments, "--format", "csv", "--output", str(tmp_path / "wide.csv")]) == 0
    table = pd.read_csv(tmp_path / "wide.csv").set_index("precision")
    assert table["onnxruntime latency.p50_s"].dtype == "float64"
    for end in ("low", "ratio", "high"):
        assert table.loc["int8_static", f"onnxruntime speedup.{end}"] == pytest.approx(speedup[end])
    assert table.loc["bf16", "onnxruntime reason"].startswith("unsupported: ONNX Runtime's CPU provider")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency.p50_s", 0.0015, "1.500 ms"),
        ("load_s", 2.5, "2.50 s"),
        ("throughput_items_per_s", 1234.0, "1234"),
        ("artifact.bytes", 1_500_000, "1.500 MB"),
        ("fidelity.sqnr_db", 30.123, "30.12 dB"),
        ("quality.top1", 0.5, "50.00%"),
        ("speedup.ratio", 2.0, "2.00x"),
        ("quality.top1", float("nan"), "-"),
        ("quality.top1", 10**400, "-"),
        ("status", "<b>", "&lt;b&gt;"),
    ],
)
def test_a_figure_has_the_unit_of_its_name(name, value, text):
    assert formed(name, value) == text


def test_a_run_of_plain_pytest_benchmark_is_read_by_its_names_and_medians(tmp_path):
    entries = [{"fullname": f"test_it[{n}]", "stats": {"median": n / 1e3}, "extra_info": {}} for n in (1, 2)]
    saved = {"benchmarks": entries, "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 4}}, "datetime": "2026"}
    (tmp_path / "plain.json").write_text(json.dumps(saved))
    run = read(tmp_path / "plain.json")
    assert frame(run)["latency.p50_s"].tolist() == [0.001, 0.002]
    assert run.machine.cpu == "A CPU"


def test_folders_and_patterns_stand_for_the_runs_in_them(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text(GOLDEN.read_text())
    assert len(read_all([str(tmp_path)])) == 2
    names = [run.name for run in read_all([str(tmp_path / "*" / "run.json")])]
    assert len(set(names)) == 2


def test_a_report_is_appended_to_the_summary_of_a_workflow_step(tmp_path, monkeypatch, capsys):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert main(["report", str(GOLDEN)]) == 0
    assert summary.read_text() == f"before\n{capsys.readouterr().out}\n"


def strip(folder, name, value):
    """A strip of pictures as the harness writes it, FP32's grey and the case's of one value."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_text("panels", "FP32|this case")
    picture = np.full((30, 8, 3), 128, np.uint8)
    picture[:, 4:] = value
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name, pnginfo=told)


def pictured(name, when, *pictures):
    run = read(GOLDEN)
    run.records[0] = replace(run.records[0], pictures=pictures)
    return Run(run.records, run.machine, when, run.commit, name)


def figures_of(text):
    return [html.unescape(line) for line in re.findall(r"<figcaption>(.*png.*)</figcaption>", text)]


def test_each_runs_own_pictures_are_shown_of_two_runs(tmp_path):
    for name, value in (("a-1-11.png", 0), ("a-1-22.png", 255)):
        strip(tmp_path / "out" / "pictures", name, value)
    text = page([pictured("was", "2026-01", "a-1-11.png"), pictured("now", "2026-02", "a-1-22.png")], tmp_path)
    assert figures_of(text) == ["a-1-11.png, was", "a-1-22.png, now"]
    assert len(set(re.findall(r'src="(data:image[^"]*)" alt="by resnet20', text))) == 2
    axes = [json.loads(html.unescape(one)) for one in re.findall(r'<figure data-axes="([^"]*)"', text)]
    assert [one["run"] for one in axes] == ["was", "now"], "the filter by run hides pictures too"


def test_a_picture_that_a_later_run_wrote_over_is_not_shown_as_the_earlier_ones(tmp_path):
    strip(tmp_path / "out" / "pictures", "a-1.png", 0)
    runs = [pictured("now", "2026-02", "a-1.png"), pictured("was", "2026-01", "a-1.png")]
    assert figures_of(page(runs, tmp_path)) == ["a-1.png, now"]
    assert figures_of(page(runs[1:], tmp_path)) == ["a-1.png"]


def test_a_folder_in_place_of_a_picture_is_passed_over(tmp_path):
    (tmp_path / "out" / "pictures" / "a-1.png").mkdir(parents=True)
    assert figures_of(page([pictured("now", "2026-02", "a-1.png", "")], tmp_path)) == []


def hostile():
    """The golden run with markup and figures out of all bounds in it."""
    saved = json.loads(GOLDEN.read_text())
    evil = "</script><script>document.title='evil'</script><img src=x onerror=alert(1)>"
    for entry in saved["benchmarks"]:
        told = entry["extra_info"]
        told["id"], told["case"]["model"], told["reason"] = evil, evil, evil
        told["quality"] |= {"dataset": evil, "weights": evil, evil: 0.5, "top1": 10**300}
        told["latency"] = {"p50_s": float("nan"), "p90_s": 10**400}
        told["pictures"] = ["../../../etc/passwd", evil]
        told["warnings"] = [evil, 3]
        told["speedup"] = "fast"
    saved["machine_info"]["bench"] |= {"cpu": evil, "isa": evil, "ram_bytes": evil, "versions": evil}
    return saved


def test_nothing_that_a_file_says_becomes_script_or_markup_in_the_page(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(hostile()))
    text = page([read(tmp_path / "run.json")], tmp_path)
    bare = re.sub(r"<script>.*?</script>", "", page([read(GOLDEN)], None), flags=re.DOTALL)
    for tag in ("<script", "<img"):
        found = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
        assert found.count(tag) == bare.count(tag)
    assert "onerror=alert(1)>" not in text


@pytest.mark.parametrize("arguments", [[], ["--format", "csv"], ["--table", "pivot"]])
def test_hostile_files_are_shown_as_text(tmp_path, capsys, arguments):
    (tmp_path / "run.json").write_text(json.dumps(hostile()))
    assert main(["report", str(tmp_path / "run.json"), *arguments, "--tables", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    if arguments != ["--format", "csv"]:
        assert "<script>" not in text


def test_ten_thousand_records_of_50_files_are_read_whole(tmp_path):
    saved = json.loads(GOLDEN.read_text())
    entries = [json.loads(json.dumps(saved["benchmarks"][0])) for _ in range(200)]
    for number, entry in enumerate(entries):
        entry["extra_info"]["case"]["batch"] = number + 1
    for number in range(50):
        (tmp_path / f"{number:02}.json").write_text(json.dumps(saved | {"benchmarks": entries, "bench": {"cases": []}}))
    began = time.perf_counter()
    table = frame(read_all([str(tmp_path)]))
    wide, _ = laid_out(table, ["model", "batch"], ["run"], ["latency.p50_s"])
    print(f"10,000 records in {time.perf_counter() - began:.2f} s")  # shown by -s, not asserted: machines are shared
    assert len(table) == 10_000
    assert wide.shape == (200, 52)


@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_the_plots_are_drawn_as_files_for_markdown(tmp_path, capsys, kind, begins):
    arguments = ["--table", "cases", "--plots", str(tmp_path / "plots"), "--plots-as", kind]
    assert main(["report", str(GOLDEN), *arguments]) == 0
    files = re.findall(r"!\[[^]]+\]\((.*)\)", capsys.readouterr().out)
    assert len(files) >= 5
    for file in files:
        assert Path(file).read_bytes().startswith(begins)
