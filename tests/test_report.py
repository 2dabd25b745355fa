"""Claims about saved runs and the tables made of them; data/run.json is a run saved by the harness, shortened."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
from drafts import Draft

from bench.cli import main
from bench.errors import RunFileError
from bench.records.runs import Run, frame, read
from bench.report.markdown import escaped, markdown_table
from bench.report.page import page
from bench.report.pivot import laid_out, numbers, pivot
from bench.report.plots import rows_of
from bench.report.summary import plain, render

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
    assert [record.id for record in run.records] == [
        "resnet20-fp32-torch-b1-t1",
        "resnet20-fp32-onnxruntime-b1-t1",
        "resnet20-int8_static-onnxruntime-b1-t1",
        "resnet20-bf16-onnxruntime-b1-t1",
        "resnet20-int8_dynamic-openvino-b1-t1",
    ]
    assert run.commit == "0123456789abcdef0123456789abcdef01234567"
    assert run.machine.versions["onnxruntime"]


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
    record = Draft.of(GOLDEN).records[0]
    record["noise"]["why"] = ["other processes used 1.20 cores"]
    record["warnings"] = ["3 threads used the CPU where 1 were asked for"]
    text = render([Draft([record]).run()])
    assert f"- {record['id']}: other processes used 1.20 cores; 3 threads used the CPU where 1 were asked for" in text


def test_one_launch_has_a_ratio_without_an_interval(saved):
    record = Draft.of(GOLDEN).records[2]
    record["speedup"] |= {"low": None, "high": None, "launches": 1}
    assert cells(render([Draft([record]).run()]), ["resnet20"])[11] == f"{record['speedup']['ratio']:.2f} (no interval)"


@pytest.mark.parametrize(
    ("speedup", "size", "coded", "gained"),
    [
        ((1.5, 1.6), 1.0, 0.5, "speed, size as compressed"),
        ((0.9, 1.6), 0.4, 0.3, "size"),
        ((0.9, 1.6), 1.0, 0.99, "quality only"),
        ((1.5, 1.6), 0.5, 0.5, "speed, size"),
    ],
)
def test_a_case_with_steps_says_what_it_gains_over_fp32_on_its_engine(speedup, size, coded, gained):
    fp32 = Draft.of(GOLDEN).records[0]
    record = copy.deepcopy(fp32)
    record["case"]["precision"] = "sparse50_fp32"
    whole = fp32["artifact"]["bytes"]
    fp32["speedup"] |= {"low": 0.99, "high": 1.01}
    record["speedup"] |= {"low": speedup[0], "high": speedup[1]}
    held = {"bytes": size, "gzip_bytes": coded, "huffman_bytes": coded}
    record["artifact"] |= {name: round(share * whole) for name, share in held.items()}
    text = render([Draft([fp32, record]).run()])
    place = cells(text, ["model", "precision", "engine", "batch"]).index("gains")
    assert cells(text, ["resnet20", "sparse50_fp32"])[place] == gained
    assert cells(text, ["resnet20", "fp32"])[place] == "-"


def test_layers_of_a_mixed_network_are_named_by_their_bits():
    fp32 = Draft.of(GOLDEN).records[0]
    record = copy.deepcopy(fp32)
    record["case"]["precision"] = "mixed_int8"
    layers = {"2": ["a", "b", "c", "d"], "8": ["e"]}
    record["artifact"] |= {"huffman_bytes": 70_000, "packed_bytes": 51_240, "layers_by_bits": layers}
    text = render([Draft([fp32, record]).run()])
    assert "weights take 51.2 KB packed: 4 layers in 2 bits (a, b, c and 1 more), 1 layer in 8 bits (e)" in text
    place = cells(text, ["model", "precision", "engine", "batch"]).index("packed MB")
    assert cells(text, ["resnet20", "mixed_int8"])[place] == "0.051"
    record["artifact"]["layers_by_bits"] = {"8": ["a", "b"]}
    assert "KB packed" not in render([Draft([fp32, record]).run()])


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
    run = Draft.of(GOLDEN)
    broken = run.records[2]["case"] | {"engine": "openvino"}
    run.records.append({"case": broken, "status": "failed", "reason": "it broke"})
    text = render([run.run()], TABLES)
    fp32, bf16, dynamic = ["FP32 torch", "FP32 onnxruntime"], ["BF16 onnxruntime"], ["INT8 dynamic openvino"]
    shown = [*fp32, *bf16, *dynamic, "INT8 onnxruntime", "INT8 openvino"]
    assert cells(text, ["", "FP32 torch"]) == ["", *shown]
    assert cells(text, ["accuracy"])[1:] == ["91.64%", "91.64%", "-", "-", "91.64%", "-"]
    assert cells(text, ["size"])[5] == "0.378 MB"
    assert "- INT8 openvino: failed: it broke" in text
    assert "- BF16 onnxruntime: unsupported: ONNX Runtime's CPU provider has no bfloat16" in text


def test_a_case_that_was_measured_but_failed_its_test_has_a_marked_row_and_its_reason_and_is_no_ones_baseline():
    run = Draft.of(GOLDEN)
    for record in run.records[:2]:
        record |= {"status": "failed", "reason": "gate: speed-up misses 1.5"}
    text = render([run.run()])
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
    text = render([Draft(saved["bench"]["cases"]).run()], TABLES)
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


def test_rows_are_what_the_run_has_in_the_order_of_names_and_then_of_registration(tmp_path):
    definition = """
        title = "by axes"
        rows = [
            { axes = ["precision", "engine"], label = "{engine}: {precision}", names = { int8_static = "INT8" } },
            { label = "GPU", absent = "no engine runs there" },
        ]
        columns = [
            { label = "size", figure = "artifact.bytes", ratio = { precision = "fp32", engine = "onnxruntime" } },
            { label = "speed-up", figure = "speedup.ratio", interval = ["speedup.low", "speedup.high"] },
        ]
        """
    (tmp_path / "own.toml").write_text(definition)
    text = render([read(GOLDEN)], tmp_path).partition("by axes")[2]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "onnxruntime: INT8",
        "torch: fp32",
        "onnxruntime: fp32",
        "onnxruntime: bf16",
        "openvino: int8_dynamic",
        "GPU",
    ]
    told = json.loads(GOLDEN.read_text())["benchmarks"]
    size = [entry["extra_info"]["artifact"]["bytes"] for entry in told]
    assert cells(text, ["onnxruntime: INT8"])[1] == f"{size[2] / 1e6:.3f} MB ({size[1] / size[2]:.2f}x)"
    speedup = told[2]["extra_info"]["speedup"]
    ends = f"{speedup['low']:.2f}-{speedup['high']:.2f}"
    assert cells(text, ["onnxruntime: INT8"])[2] == f"{speedup['ratio']:.2f}x ({ends})"


def lowered(share, promised=None, layers=5):
    """What a record says of an artefact of so many layers that are not in INT8."""
    left = [
        {"name": f"layer{place}", "kind": "linear", "format": "fp32", "macs": 0.2 - place / 100, "reason": "not seen"}
        for place in range(layers)
    ]
    told = {
        "macs": {"fp32": 1 - share, "int8": share},
        "weights": {"int8": 1.0, "fp32": 0.0},
        "left": left,
        "layers": 9,
    }
    return told | ({} if promised is None else {"promised": promised})


def test_the_share_that_was_lowered_is_counted_apart_from_the_time_in_int8():
    run = Draft.of(GOLDEN)
    run.records[2] |= {"lowered": lowered(0.031), "explained": {"time": {"int8": 0.5}, "diagnosis": "half of it"}}
    run.records[1]["lowered"] = {"macs": {"fp32": 1.0}}  # nothing of FP32 is to be lowered
    text = render([run.run()])
    head = cells(text, ["model", "precision"])
    row = cells(text, ["resnet20", "int8_static"])
    assert row[head.index("lowered")] == "3.1%"
    assert row[head.index("time in INT8")] == "50%"
    assert "in INT8" not in head
    assert cells(text, ["resnet20", "fp32", "onnxruntime"])[head.index("lowered")] == "-"
    assert frame(run.run()).loc[2, "lowered.share"] == 0.031
    assert "lowered" not in cells(render([read(GOLDEN)]), ["model", "precision"]), "a run of before it was counted"


def test_bf16_has_the_share_of_bf16():
    run = Draft.of(GOLDEN)
    run.records[2]["case"]["precision"] = "bf16"
    run.records[2]["lowered"] = {"macs": {"fp32": 0.25, "bf16": 0.75}}
    text = render([run.run()])
    assert cells(text, ["resnet20", "bf16"])[cells(text, ["model", "precision"]).index("lowered")] == "75.0%"


@pytest.mark.parametrize(
    ("told", "note"),
    [
        (lowered(1.0, layers=0), None),
        (lowered(0.6, promised=0.6), None),
        (
            lowered(0.5, promised=0.6, layers=1),
            "50.0% of its multiply-accumulates are in INT8, of 60.0% promised; not so: ",
        ),
        (lowered(0.9951, layers=2), "99.5% of its multiply-accumulates are in INT8; not so: layer0 (not seen), layer1"),
        (lowered(0.03), "layer0 (not seen), layer1 (not seen), layer2 (not seen) and 2 more"),
    ],
)
def test_what_is_below_its_recipes_promise_is_named_with_the_layers_and_reasons(told, note):
    run = Draft.of(GOLDEN)
    run.records[2]["lowered"] = told
    lines = [line for line in render([run.run()]).splitlines() if line.startswith("- resnet20-int8_static")]
    assert [note in line for line in lines] == ([] if note is None else [True])


def doubtful():
    """The golden run with a case of each kind of doubt: disturbed, erring, unlike."""
    run = Draft.of(GOLDEN)
    run.records[0]["noise"] = {"why": ["other processes used 1.20 cores"]}
    run.records[1] |= {"kernel": {"kernel_db": 12.3, "quantized_db": 38.0}, "warnings": ["kernels give 12.3 dB"]}
    run.records[2]["fidelity"] = {"sqnr_db": -3.0, "agreement": 0.1}
    return run


def test_broken_cases_come_first_in_the_notes_of_every_view(tmp_path):
    table = frame(doubtful().run())
    names = [record["id"] for record in doubtful().records]
    wanted = [
        f"{names[1]}: kernels give 12.3 dB",
        f"{names[2]}: broken: its outputs keep no likeness of FP32's, -3.0 dB",
        f"{names[0]}: other processes used 1.20 cores",
    ]
    for text in (render([doubtful().run()]), pivot(table, ["precision"], ["engine"], ["latency.p50_s"])):
        places = [text.index(f"- {line}") for line in wanted]
        assert places == sorted(places)
    text = render([doubtful().run()], TABLES, "document3")
    assert f"- {wanted[1]}" in text
    assert wanted[2] not in text
    assert plain(table)["warnings"].tolist()[1] == "kernels give 12.3 dB"
    assert numbers(table, ["precision"], ["engine"], ["latency.p50_s"])["onnxruntime notes"].tolist()[0] == (
        "kernels give 12.3 dB"
    )
    (tmp_path / "page.html").write_text(page([doubtful().run()], None))
    assert "kernels give 12.3 dB" in (tmp_path / "page.html").read_text()


def test_labels_that_agree_are_no_lost_likeness():
    run = doubtful()
    run.records[2]["fidelity"]["agreement"] = 0.99
    assert "broken" not in render([run.run()])


def test_data_without_truth_and_layers_that_were_left_are_told():
    run = Draft.of(GOLDEN)
    run.records[2]["quality"] = {"top1": None}
    run.records[2]["judged"] |= {"reason": "the test side of cifar10 has no truth to judge by"}
    run.records[2]["artifact"] |= {"left_in_fp32": ["a", "b"], "left_by": "agreement with FP32"}
    text = render([run.run()])
    assert "no quality: the test side of cifar10 has no truth to judge by" in text
    assert "2 layers were left in FP32, by agreement with FP32 on the training side" in text
    assert cells(text, ["resnet20", "int8_static"])[5] == "-"


@pytest.fixture
def twice(saved, tmp_path):
    """The golden run with its INT8 case in a second test too, where it is twice as slow."""
    again = copy.deepcopy(saved["benchmarks"][2])
    again["fullname"] = again["fullname"].replace("document3", "again")
    again["extra_info"]["test"] = again["fullname"]
    again["extra_info"]["latency"]["p50_s"] *= 2
    lost = {"case": again["extra_info"]["case"] | {"model": "x"}, "status": "unsupported", "reason": "not here"}
    name = "x-int8_static-onnxruntime-b1-t1"
    saved["bench"]["cases"] += [lost | {"test": f"test_{test}.py::test_x[{name}]"} for test in "ab"]
    (tmp_path / "run.json").write_text(json.dumps(saved | {"benchmarks": [*saved["benchmarks"], again]}))
    return tmp_path / "run.json"


def test_a_case_of_two_tests_is_two_in_every_view(twice, capsys):
    name = "resnet20-int8_static-onnxruntime-b1-t1"
    both = [f"{name} (suites/test_{test}.py::test_resnet20)" for test in ("document3", "again")]
    table = frame(read(twice))
    assert [called for called in table["name"] if called.startswith(name)] == both
    assert table["name"].tolist()[0] == "resnet20-fp32-torch-b1-t1", "what is unique keeps its id"
    text = render([read(twice)])
    assert {"suites/test_document3.py::test_resnet20", "suites/test_again.py::test_resnet20"} < {
        row.split(" | ")[5].strip() for row in text.splitlines() if row.startswith("| resnet20")
    }
    lost = "x-int8_static-onnxruntime-b1-t1"
    assert f"unsupported: {lost} (test_a.py::test_x), {lost} (test_b.py::test_x): not here" in text
    wide, _ = laid_out(table, ["precision"], ["engine"], ["latency.p50_s"])
    assert len([one for one in wide["name"] if one in both]) == 2
    assert f"- {both[1]}: not shown, since {both[0]} fits its cell too" in render([read(twice)], TABLES, "document3")
    assert all(one in page([read(twice)], None) for one in both)
    assert [row.case for row in rows_of(table)][2:] == both
    assert main(["report", str(twice), "--format", "csv"]) == 0
    assert "run,machine,when,name,id,test," in capsys.readouterr().out


def test_where_ids_are_unique_nothing_else_is_shown(capsys):
    assert main(["report", str(GOLDEN), "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("run,machine,when,id,model,")
    assert "suites/" not in render([read(GOLDEN)], TABLES)


def test_two_cases_that_nothing_tells_apart_are_numbered():
    run = read(GOLDEN)
    assert frame(Run([run.records[3], run.records[3]]))["name"].tolist() == [
        "resnet20-bf16-onnxruntime-b1-t1",
        "resnet20-bf16-onnxruntime-b1-t1 (2)",
    ]


FP32, FIGURE = 'label = "a"\ncase = {precision = "fp32"}\n', 'label = "b"\nfigure = "load_s"\nform = "s"\n'
CELL = 'cell = {figure = "load_s", form = "s"}\n'


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ("rows = []\ncolumns = []", "it has no rows"),
        (f"[[rows]]\n{FIGURE}[[columns]]\n{FIGURE}", "must be figures, or both cases with a 'cell'"),
        (f"[[rows]]\n{FP32}[[columns]]\n{FP32}", "must be figures, or both cases with a 'cell'"),
        (f"[[rows]]\n{FP32}[[rows]]\n{FIGURE}[[columns]]\n{FP32}", "its rows are cases and figures"),
        (f"{CELL}[[rows]]\n{FP32}[[columns]]\n{FP32}[[columns]]\n{FIGURE}", "its columns are cases and figures"),
        (f"[[rows]]\n{FP32}[[columns]]\n{FIGURE}[[columns]]\n{FIGURE}", "two of its columns have one label"),
        (f"rows = 3\n[[columns]]\n{FIGURE}", "defines no table"),
        (f"rows = [3]\n[[columns]]\n{FIGURE}", "defines no table"),
        (f"where = 3\n[[rows]]\n{FP32}[[columns]]\n{FIGURE}", "where a table of what the cases have in common"),
        (f"[[rows]]\nlabel = 3\ncase = {{}}\n[[columns]]\n{FIGURE}", "a label is a text"),
        (f"[[rows]]\n{FP32}[[columns]]\nlabel = 'b'\nfigure = []\nform = 's'", "a figure is the name of one"),
        (
            f"[[rows]]\n{FP32}[[columns]]\nlabel = 'b'\nfigure = 'x'\nform = 'euro'",
            "'euro' is no form; there are percent",
        ),
        (f"[[rows]]\n{FP32}[[columns]]\n{FIGURE}interval = 'low'", "an interval a list of such names"),
        (
            f"[[rows]]\n{FP32}[[columns]]\nlabel = 'b'\nfigure = 'latency.p42_s'",
            "no record has a figure 'latency.p42_s'",
        ),
        (f"[[rows]]\n{FP32}[[columns]]\nlabel = 'b'\nfigure = 'quality.n'", "no record has a figure 'quality.n'"),
        (f"[[rows]]\n{FP32}[[columns]]\n{FIGURE}ratio = 3", "a ratio is true, or a table"),
        (f"[[rows]]\naxes = ['colour']\n[[columns]]\n{FIGURE}", "axes is a list of some of model, precision"),
        (f"[[rows]]\naxes = ['engine']\nlabel = '{{batch}}'\n[[columns]]\n{FIGURE}", "may name its axes alone, engine"),
    ],
)
def test_a_definition_that_makes_no_table_is_refused_with_the_reason(tmp_path, capsys, definition, told):
    (tmp_path / "own.toml").write_text(f"title = 'own'\n{definition}")
    assert main(["report", str(GOLDEN), "--tables", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_condition_may_name_any_column(tmp_path):
    (tmp_path / "own.toml").write_text(
        f"title = 'own'\nwhere = {{warnings = 'x', nothing = 1}}\n[[rows]]\n{FP32}[[columns]]\n{FIGURE}"
    )
    with pytest.raises(RunFileError, match="has nothing to show"):
        render([read(GOLDEN)], tmp_path, "own")


ODD = (None, "x", [1], [], {"a": 1}, float("nan"), float("inf"), 10**400, 1e300, -5, True, 0, ["x", None, {}])


def places_of(value, place=()):
    """The places of all fields of a saved run, of lists the first alone."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places_of(part, (*place, name))


def replaced(saved, place, value):
    """A saved run with one field replaced."""
    whole = part = copy.deepcopy(saved)
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    return whole


def whole(saved):
    """The golden run, shortened, with all that a record may say."""
    told = saved["benchmarks"][2]["extra_info"]
    told |= {"test": "t", "answers": "aaaabbbb", "warnings": ["w"], "pictures": ["p.png"], "lowered": lowered(0.5, 0.9)}
    told |= {"kernel": {"kernel_db": 45.0, "quantized_db": 40.0}, "calibration": {"asked": 100, "used": 8}}
    operation = {"kind": "Conv", "format": "int8", "share": 0.5, "count": 1, "kernel": "k"}
    told["explained"] = {"time": {"int8": 0.5}, "operations": [operation], "diagnosis": "d"}
    told["noise"]["best"] = {"int8_gops": 900.0}
    return saved | {"benchmarks": [saved["benchmarks"][0], saved["benchmarks"][2]]}


def asked(command, run, base, folder):
    """The arguments of one command over a saved run."""
    return {
        "cases": ["report", run, "--table", "cases"],
        "csv": ["report", run, "--format", "csv"],
        "pivot": ["report", run, "--rows", "precision", "--cell", "latency.p50_s,speedup.ratio"],
        "pivot csv": ["report", run, "--table", "pivot", "--format", "csv"],
        "defined": ["report", run, "--table", "document3"],
        "compare": ["compare", base, run, "--fail-on", "slower:5%,missing,failed"],
        "compare back": ["compare", run, base, "--absolute"],
        "merge": ["merge", run, base, "--output", str(folder / "merged.json")],
        "merge alone": ["merge", run, "--output", str(folder / "merged.json")],
        "history": ["history", run, base],
    }[command]


@pytest.mark.parametrize(
    "command",
    ["cases", "csv", "pivot", "pivot csv", "defined", "compare", "compare back", "merge", "merge alone", "history"],
)
def test_any_one_field_may_be_anything_and_no_command_breaks(saved, tmp_path, capsys, command):
    saved = whole(saved)
    (tmp_path / "base.json").write_text(json.dumps(saved))
    file = tmp_path / "run.json"
    trials = [(place, value) for place in places_of(saved) if place for value in ODD]
    for place, value in trials[sum(map(ord, command)) % 71 :: 71]:  # another choice of them for each command
        file.write_text(json.dumps(replaced(saved, place, value)))
        status = main(asked(command, str(file), str(tmp_path / "base.json"), tmp_path))
        printed = capsys.readouterr()
        where = f"{command} where {'.'.join(map(str, place))} is {str(value)[:20]}"
        assert status in (0, 1) or printed.err.count("\n") == 1, where
        assert not re.search(r"\bnan\b", printed.out), where


@pytest.mark.parametrize("value", [float("nan"), "x", [1], {"a": 1}, pytest.param(10**400, id="huge")])
def test_a_page_is_made_of_figures_that_are_none(saved, tmp_path, value):
    names = ("latency", "p50_s"), ("quality", "n"), ("quality", "top1"), ("speedup", "low"), ("artifact", "bytes")
    saved = whole(saved)
    for place in (*names, ("kernel", "kernel_db"), ("lowered", "left"), ("explained", "operations"), ("noise", "why")):
        saved = replaced(saved, ("benchmarks", 1, "extra_info", *place), value)
    (tmp_path / "run.json").write_text(json.dumps(saved))
    text = page([read(tmp_path / "run.json")], None)
    rows = re.search(r'id="rows">(.*?)</script>', text).group(1)
    assert "NaN" not in rows
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_a_baseline_that_is_not_told_has_no_name():
    run = Draft(Draft.of(GOLDEN).records[2:3])
    run.records[0]["speedup"]["baseline"]["case"]["precision"] = None
    assert "Speed-up over a baseline that is not on record, sampled in turn" in render([run.run()])


def test_infinity_and_nan_are_read_and_shown_as_a_dash(saved, tmp_path):
    saved["benchmarks"][0]["extra_info"]["load_s"] = float("inf")
    saved["benchmarks"][0]["extra_info"]["fidelity"]["sqnr_db"] = float("nan")
    (tmp_path / "run.json").write_text(json.dumps(saved))
    assert "Infinity" in (tmp_path / "run.json").read_text()
    row = cells(render([read(tmp_path / "run.json")]), ["resnet20", "fp32", "torch"])
    assert row[7] == row[17] == "-"
