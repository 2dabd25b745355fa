"""Claims about saved runs and the tables made of them; data/run.json is a run saved by the harness, shortened."""

import json
import shutil
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import RunFileError
from bench.report import render
from bench.report.markdown import escaped, markdown_table
from bench.runs import Run, frame, read

GOLDEN = Path(__file__).parent / "data" / "run.json"
TABLES = Path(__file__).parents[1] / "reports"


@pytest.fixture
def saved():
    return json.loads(GOLDEN.read_text())


def cells(text, first):
    """The cells of the table row that begins with these cells."""
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split(" | ")]
        if row[: len(first)] == first:
            return row
    raise AssertionError(f"no row begins with {first} in\n{text}")


def test_a_saved_run_is_read_whole():
    run = read(GOLDEN)
    assert [record["id"] for record in run.records] == [
        "resnet20-fp32-torch-b1-t1",
        "resnet20-fp32-onnxruntime-b1-t1",
        "resnet20-int8_static-onnxruntime-b1-t1",
        "resnet20-bf16-onnxruntime-b1-t1",
        "resnet20-int8_dynamic-openvino-b1-t1",
    ]
    assert run.commit == "0123456789abcdef0123456789abcdef01234567"
    assert run.machine["versions"]["onnxruntime"]


def test_a_frame_has_one_row_a_case_and_dotted_columns(saved):
    table = frame(read(GOLDEN))
    first = saved["benchmarks"][0]["extra_info"]
    assert len(table) == 5
    assert table.loc[0, "latency.p50_s"] == first["latency"]["p50_s"]
    assert table.loc[0, "quality.top1"] == 932 / 1017
    assert table.loc[3, "status"] == "unsupported"


def test_the_general_table_gives_paired_speedups_and_ratios_by_way_of_the_baseline(saved):
    told = [entry["extra_info"]["speedup"] for entry in saved["benchmarks"]]
    text = render([read(GOLDEN)])
    row = cells(text, ["resnet20", "int8_static", "onnxruntime"])
    assert row[5] == "91.64%"
    assert row[11] == f"{told[2]['ratio']:.2f} ({told[2]['low']:.2f}-{told[2]['high']:.2f})"
    assert row[12] == row[13] == f"{told[2]['ratio'] / told[1]['ratio']:.2f}"
    assert "Speed-up over torch fp32, sampled in turn, with its 95% interval over 3" in text


def test_a_run_saved_before_there_were_pairs_keeps_its_ratios_of_medians():
    unpaired = GOLDEN.with_name("run_unpaired.json")
    p50_s = [entry["extra_info"]["latency"]["p50_s"] for entry in json.loads(unpaired.read_text())["benchmarks"]]
    row = cells(render([read(unpaired)]), ["resnet20", "int8_static", "onnxruntime"])
    assert row[11:14] == ["-", f"{p50_s[1] / p50_s[2]:.2f}", f"{p50_s[1] / p50_s[2]:.2f}"]


def test_what_makes_a_case_doubtful_is_told_below_the_table(saved):
    record = read(GOLDEN).records[0]
    record["noise"]["why"] = ["other processes used 1.20 cores"]
    record["warnings"] = ["3 threads used the CPU where 1 were asked for"]
    text = render([Run([record])])
    assert f"- {record['id']}: other processes used 1.20 cores; 3 threads used the CPU where 1 were asked for" in text


def test_one_launch_has_a_ratio_without_an_interval(saved):
    record = read(GOLDEN).records[2]
    record["speedup"] |= {"low": None, "high": None, "launches": 1}
    assert cells(render([Run([record])]), ["resnet20"])[11] == f"{record['speedup']['ratio']:.2f} (no interval)"


def test_unsupported_cases_are_notes_with_their_reason():
    text = render([read(GOLDEN)])
    assert "- unsupported: resnet20-bf16-onnxruntime-b1-t1: ONNX Runtime's CPU provider has no bfloat16" in text


def test_the_head_says_which_weights_data_machine_and_versions():
    text = render([read(GOLDEN)])
    assert "Model resnet20: weights resnet20-12fca82f, judged on cifar10 (n = 1017)." in text
    assert "avx512_vnni" in text
    assert "onnxruntime 1.31.1" in text
    assert "at commit 0123456789." in text


def test_document_3_has_its_rows_and_says_why_a_cell_is_empty():
    run = read(GOLDEN)
    broken = run.records[2]["case"] | {"engine": "openvino"}
    run.records.append({"id": "broken", "case": broken, "status": "failed", "reason": "it broke"})
    text = render([run], TABLES)
    shown = ["FP32 torch", "INT8 onnxruntime", "INT8 openvino", "int8 unfused", "own int8"]
    assert cells(text, ["", "FP32 torch"]) == ["", *shown]
    assert cells(text, ["accuracy"])[1:] == ["91.64%", "91.64%", "-", "-", "-"]
    assert cells(text, ["size"])[2] == "0.378 MB"
    assert "- INT8 openvino: failed: it broke" in text
    assert (
        "- BF16 torch, INT8 dynamic torch, int2 torch (simulated), int4 torch (simulated), INT8 torch, "
        "INT8 torchscript, INT8 inductor, INT8 executorch: "
        "not among the cases of this run" in text
    )


def test_a_case_that_was_measured_but_failed_its_test_has_a_marked_row_and_its_reason_and_is_no_ones_baseline():
    run = read(GOLDEN)
    for record in run.records[:2]:
        record |= {"status": "failed", "reason": "gate: speed-up misses 1.5"}
    text = render([run])
    failed = cells(text, ["resnet20 (failed)", "fp32", "onnxruntime"])
    assert "ms" not in failed[6]
    assert float(failed[8]) > 0
    assert cells(text, ["resnet20", "int8_static", "onnxruntime"])[12:14] == ["-", "-"]
    names = ", ".join(record["id"] for record in run.records[:2])
    assert f"- failed: {names}: gate: speed-up misses 1.5" in text


def test_a_run_of_one_case_has_its_size(saved):
    size = saved["benchmarks"][2]["extra_info"]["artifact"]["bytes"]
    text = render([Run(read(GOLDEN).records[2:3])], TABLES)
    assert cells(text, ["size"])[1] == f"{size / 1e6:.3f} MB"
    assert f"{size / 1e6:.3f}" in cells(text, ["resnet20"])


def test_a_run_with_nothing_measured_still_gives_its_reasons(saved):
    text = render([Run(saved["bench"]["cases"])], TABLES)
    assert "no bfloat16" in text
    assert "ResNet20: accuracy" not in text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read"),
        (b"", "no whole JSON file"),
        (GOLDEN.read_bytes()[:1000], "no whole JSON file"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"[]", "no list of 'benchmarks'"),
        (b'{"benchmarks": 3}', "no list of 'benchmarks'"),
        (b'{"benchmarks": [{"name": "test_plain", "extra_info": {}}]}', "holds no benchmark"),
        (b'{"benchmarks": [{"extra_info": {"case": {"model": "m", "batch": "many"}}}]}', "holds no benchmark"),
        (b"[" * 100_000, "no whole JSON file"),
    ],
)
def test_a_file_that_is_not_a_run_is_refused_in_one_line(tmp_path, capsys, content, told):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFileError, match=told):
        read(path)
    assert main(["report", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bench: ")
    assert printed.err.count("\n") == 1


def test_a_table_file_that_defines_none_is_refused_in_one_line(tmp_path, capsys):
    shutil.copy(GOLDEN, tmp_path / "run.json")
    (tmp_path / "broken.toml").write_text("title = 'no columns'")
    assert main(["report", str(tmp_path / "run.json"), "--tables", str(tmp_path)]) == 2
    assert "broken.toml defines no table" in capsys.readouterr().err


def test_a_report_can_go_to_a_file(tmp_path, capsys):
    assert main(["report", str(GOLDEN), "--tables", str(TABLES), "--output", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text() == render([read(GOLDEN)], TABLES) + "\n"
    assert capsys.readouterr().out == ""


def test_nothing_in_a_file_becomes_markup(saved, tmp_path):
    hostile = "<script>alert(1)</script>|x\n# head"
    saved["benchmarks"][0]["extra_info"]["case"]["model"] = hostile
    saved["bench"]["cases"][0]["reason"] = hostile
    (tmp_path / "run.json").write_text(json.dumps(saved))
    text = render([read(tmp_path / "run.json")], TABLES)
    assert "<script" not in text
    assert "\n# head" not in text
    assert "alert(1)&lt;/script&gt;\\|x # head" in text


def test_numbers_that_are_none_are_shown_as_a_dash(saved, tmp_path):
    record = saved["benchmarks"][0]["extra_info"]
    record["fidelity"]["sqnr_db"] = float("nan")
    record["latency"]["p50_s"] = None
    record["throughput_items_per_s"] = float("inf")
    (tmp_path / "run.json").write_text(json.dumps(saved))
    row = cells(render([read(tmp_path / "run.json")]), ["resnet20", "fp32", "torch"])
    assert [row[7], row[8], row[10]] == ["-"] * 3


def test_text_is_escaped_for_a_cell():
    assert escaped("a|b\n<i>&") == "a\\|b &lt;i&gt;&amp;"
    assert markdown_table([{"n": "1"}, {"n": "-"}]).splitlines()[1] == "|----:|"


def test_cases_may_be_rows_and_figures_columns(tmp_path):
    (tmp_path / "own.toml").write_text(
        """
        title = "turned"
        where = { model = ["resnet20", "another"] }
        [[rows]]
        label = "FP32"
        case = { precision = "fp32", engine = "torch" }
        [[rows]]
        label = "INT8"
        case = { precision = "int8_static", engine = "onnxruntime" }
        [[columns]]
        label = "accuracy"
        figure = ["quality.none_such", "quality.top1"]
        form = "percent"
        [[columns]]
        label = "size"
        figure = "artifact.bytes"
        form = "MB"
        ratio = true
        """
    )
    text = render([read(GOLDEN)], tmp_path)
    assert cells(text, ["", "accuracy"]) == ["", "accuracy", "size"]
    assert cells(text, ["FP32", "91.64%"])[2] == "1.115 MB"
    assert cells(text, ["INT8", "91.64%"])[2] == "0.378 MB (2.95x)"
    assert "resnet20: weights resnet20-12fca82f, cifar10, n = 1017" in text


def test_a_row_that_there_is_none_of_is_shown_with_the_reason(tmp_path):
    (tmp_path / "own.toml").write_text(
        """
        title = "with a gap"
        where = { model = "resnet20" }
        [[rows]]
        label = "GPU"
        absent = "no engine runs there"
        [[rows]]
        label = "FP32"
        case = { precision = "fp32", engine = "torch" }
        [[columns]]
        label = "size"
        figure = "artifact.bytes"
        form = "MB"
        """
    )
    text = render([read(GOLDEN)], tmp_path).partition("with a gap")[2]
    assert cells(text, ["GPU"])[1] == "-"
    assert cells(text, ["FP32"])[1] == "1.115 MB"
    assert "- GPU: no engine runs there" in text


def test_cases_may_go_both_ways_with_one_figure_in_the_cells(tmp_path):
    run = read(GOLDEN)
    (tmp_path / "own.toml").write_text(
        """
        title = "both ways"
        cell = { figure = "artifact.bytes", form = "MB" }
        [[rows]]
        label = "fp32"
        case = { precision = "fp32" }
        [[rows]]
        label = "bf16"
        case = { precision = "bf16" }
        [[columns]]
        label = "torch"
        case = { engine = "torch" }
        [[columns]]
        label = "onnxruntime"
        case = { engine = "onnxruntime" }
        """
    )
    text = render([run], tmp_path).partition("both ways")[2]
    assert cells(text, ["", "torch"])[1] == "torch"
    assert cells(text, ["fp32"])[1] == "1.115 MB"
    assert "bf16 torch" in text, "a cell that has no case says so below"
