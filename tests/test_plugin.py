"""Claims about the face to pytest, each through a pytest of its own."""

import fnmatch
import json
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.special  # noqa: F401 - pytester forgets what a test imports, and numpy cannot be imported twice
from toy import CONFTEST

from bench.records.runs import read
from bench.statistics import speedup_interval

pytest_plugins = "pytester"

SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(Grid("linear", ["fp32", "bf16"], "toy", batch=[1, 16], threads=1, baseline={"engine": "toy"}))
def test_linear(case, measure):
    record = measure(case)
    assert record.quality["top1"] == 1.0
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def session(pytester, monkeypatch, cache):
    """Run pytest in a user's folder that holds the toy conftest and a suite; give its result."""
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(cache))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_linear=SUITE)
    return lambda *arguments: pytester.runpytest_subprocess("-p", "no:cacheprovider", "--bench-quick", *arguments)


def collected(result):
    return [line.split("[")[1].rstrip("]") for line in result.outlines if "::" in line]


def test_the_grid_is_listed_by_readable_ids_with_those_of_one_baseline_together(session):
    differs = "engine=toy,precision=fp32"
    assert collected(session("--collect-only", "-q", "--bench-baseline", differs)) == [
        "linear-fp32-toy-b1-t1",
        "linear-bf16-toy-b1-t1",
        "linear-fp32-toy-b16-t1",
        "linear-bf16-toy-b16-t1",
    ]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["-k", "fp32 and -b1-"], ["linear-fp32-toy-b1-t1"]),
        (["-m", "case(precision='fp32', batch=1)"], ["linear-fp32-toy-b1-t1"]),
        (["-m", "case(batch=16)"], ["linear-fp32-toy-b16-t1", "linear-bf16-toy-b16-t1"]),
        (["--bench-precision", "fp32", "--bench-batch", "2,3"], ["linear-fp32-toy-b2-t1", "linear-fp32-toy-b3-t1"]),
        (
            ["--bench-batch", "1", "--bench-threads", "1,2", "-k", "fp32"],
            ["linear-fp32-toy-b1-t1", "linear-fp32-toy-b1-t2"],
        ),
        (
            ["--bench-precision", "fp32", "--bench-engine", "torch,toy", "--bench-batch", "1"],
            ["linear-fp32-torch-b1-t1", "linear-fp32-toy-b1-t1"],
        ),
    ],
)
def test_options_and_expressions_choose_cases(session, arguments, ids):
    assert collected(session("--collect-only", "-q", *arguments)) == ids


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--bench-engine", "onnx"], "ERROR: no engine is named 'onnx'; registered: torch, *, toy"),
        (["--bench-precision", "int3"], "ERROR: no precision is named 'int3'; registered: fp32, *"),
        (["--bench-model", "vgg"], "ERROR: no model is named 'vgg'; registered: linear"),
        (
            ["--bench-batch", "0"],
            "*error: argument --bench-batch: wants whole numbers >= 1 with commas between, not '0'",
        ),
        (["--bench-threads", "two"], "*error: argument --bench-threads: wants whole numbers*'two'"),
        (["--bench-engine", "torch,"], "*error: argument --bench-engine: wants names*'torch,'"),
    ],
)
def test_bad_options_are_refused_in_one_line(session, arguments, line):
    result = session(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_folder_that_pytest_mistakes_for_the_place_of_the_tests_is_refused(session, pytester, tmp_path_factory):
    pytester.makeini("[pytest]")
    folder = tmp_path_factory.mktemp("elsewhere")
    result = session("--bench-data", str(folder))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: pytest took the folder after --bench-data *; write --bench-data=DIR"])
    assert len(collected(session("--collect-only", "-q", f"--bench-data={folder}"))) > 1


def test_a_cache_that_cannot_be_written_is_refused_in_one_line(session, pytester):
    place = pytester.makefile("", occupied="a file, no folder")
    result = session(f"--bench-cache={place}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: cannot write the cache at *choose another by --bench-cache"])


def test_a_run_is_an_ordinary_pytest_benchmark_run_with_everything_on_record(session, pytester):
    result = session("--benchmark-json", "run.json", "--benchmark-autosave", "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * unsupported: the toy engine computes in FP32 only"])
    run = json.loads(Path("run.json").read_text(), parse_constant=pytest.fail)
    first = run["benchmarks"][0]
    assert first["params"] == {
        "model": "linear",
        "precision": "fp32",
        "engine": "toy",
        "batch": 1,
        "threads": 1,
        "device": "cpu",
    }
    assert first["stats"]["rounds"] == len(first["stats"]["data"]) >= 30
    assert set(first["extra_info"]) == {
        "id", "case", "status", "reason", "quality", "judged", "metrics", "fidelity", "drop", "speedup", "latency",
        "throughput_items_per_s", "load_s", "first_call_s", "steady", "peak_rss_bytes", "artifact", "process",
        "on_device", "efficiency",
        "noise", "energy_j_per_call", "spent", "answers", "explained", "pictures", "warnings", "lowered", "kernel",
        "calibration", "resumed", "test", "first_call_cold_s",
    }  # fmt: skip
    assert first["extra_info"]["test"] == first["fullname"] == "test_linear.py::test_linear[linear-fp32-toy-b1-t1]"
    assert first["extra_info"]["resumed"] == {}
    assert first["extra_info"]["latency"]["p50_s"] == pytest.approx(first["stats"]["median"])
    assert run["machine_info"]["bench"]["versions"]["numpy"]
    assert [place.name for place in Path(".benchmarks").iterdir()] == [run["machine_info"]["bench"]["fingerprint"]]
    assert [(case["id"], case["status"], case["test"]) for case in run["bench"]["cases"]] == [
        ("linear-bf16-toy-b1-t1", "unsupported", "test_linear.py::test_linear[linear-bf16-toy-b1-t1]"),
        ("linear-bf16-toy-b16-t1", "unsupported", "test_linear.py::test_linear[linear-bf16-toy-b16-t1]"),
    ]
    compared = subprocess.run(
        [Path(sys.executable).with_name("pytest-benchmark"), "compare", "--group-by", "param:batch"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "test_linear[linear-fp32-toy-b16-t1]" in compared.stdout


def test_the_run_ends_with_its_table_on_the_terminal_and_in_a_file(session):
    result = session()
    result.stdout.fnmatch_lines(
        ["*| linear *| fp32 *| toy *", "*the toy engine computes in FP32 only*", "written to *"]
    )
    path = Path(
        next(line for line in result.outlines if line.startswith("written to")).removeprefix("written to ").strip()
    )
    assert path.parent == Path.cwd() / "reports" / "out"
    assert path.read_text().strip() in result.stdout.str()


def test_a_case_that_breaks_fails_with_its_reason_and_the_others_are_measured(session, monkeypatch):
    session("-k", "fp32").assert_outcomes(passed=2)
    monkeypatch.setenv("TOY_FAULT", "raise")
    result = session("--benchmark-json", "run.json", "-k", "fp32")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["open: RuntimeError: the toy is broken"])
    assert "Traceback" not in result.stdout.str()
    assert "was not used at all" not in result.stdout.str()


def test_what_an_engine_cannot_do_for_a_network_is_unsupported_not_failed(session, pytester, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "unsupported")
    place = f"--bench-cache={pytester.path / 'cache'}"
    result = session(place, "-k", "fp32 and b16", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["- unsupported: linear-fp32-toy-b16-t1: the toy has no kernel for this network"])
    result.stdout.fnmatch_lines(["SKIPPED * unsupported: the toy has no kernel for this network"])


def test_a_test_without_a_grid_is_left_alone(pytester):
    pytester.makepyfile("def test_plain(benchmark): benchmark(int)")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "benchmarks of" not in result.stdout.str()


def test_the_speedup_has_an_interval_over_launches_and_the_medians_to_work_it_out_again(session, pytester):
    pytester.runpytest_subprocess(
        "-k", "fp32 and b16", "--bench-budget=2", "--benchmark-json=run.json"
    ).assert_outcomes(passed=1)
    told = json.loads(Path("run.json").read_text())["benchmarks"][0]["extra_info"]["speedup"]
    assert told["baseline"]["case"]["engine"] == "toy"
    assert told["baseline"]["versions"]["numpy"]
    assert told["launches"] == len(told["medians"]) >= 3
    assert told["low"] < told["ratio"] < told["high"]
    again = speedup_interval([(launch["case_s"], launch["baseline_s"]) for launch in told["medians"]])
    assert (again.low, again.ratio, again.high) == pytest.approx((told["low"], told["ratio"], told["high"]))
    assert told["rounds"] == sum(len(launch["case_s"]) for launch in told["medians"])


def test_the_baseline_runs_in_another_interpreter_where_one_is_named(session):
    result = session("-k", "fp32 and b16", f"--bench-baseline-python={sys.executable}", "--benchmark-json=run.json")
    result.assert_outcomes(passed=1)
    told = json.loads(Path("run.json").read_text())["benchmarks"][0]["extra_info"]["speedup"]
    assert told["baseline"]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_baseline_that_cannot_be_leaves_the_case_its_figures_and_says_why(session):
    result = session("-k", "fp32 and b16", "--bench-baseline=precision=bf16")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*no speed-up: unsupported: the toy engine computes in FP32 only"])


@pytest.mark.parametrize(
    ("gate", "line"),
    [
        ("speedup=1.5", "gate: ambiguous: speed-up * has no interval (one launch), wanted 1.5"),
        ("top1=0.01", "gate: ambiguous: drop of top1 0 (95% interval -0.03* to 0.03*) may or may not reach 0.01"),
        ("psnr=0.01", "gate: ambiguous: no drop of 'psnr' is measured for this task; there are: top1"),
    ],
)
def test_a_gate_that_is_not_surely_reached_fails_and_is_no_baseline_later(session, gate, line):
    result = session("-k", "fp32 and b16", f"--bench-gate={gate}", "--benchmark-json=run.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    saved = json.loads(Path("run.json").read_text())["benchmarks"][0]["extra_info"]
    assert (saved["status"], saved["reason"]) == (
        "failed",
        next(told for told in result.outlines if told[:5] == "gate:"),
    )
    result.stdout.fnmatch_lines(["| linear (failed) | fp32 *"])


def test_each_grid_of_a_test_has_a_baseline_of_its_own(session, pytester):
    pytester.makepyfile(
        test_linear=SUITE.replace(
            'batch=[1, 16], threads=1, baseline={"engine": "toy"})',
            'batch=2, baseline={"engine": "toy"}), Grid("linear", "fp32", "toy", 4, baseline={"batch": 1})',
        )
    )
    session("-k", "fp32", "--benchmark-json=run.json").assert_outcomes(passed=2)
    saved = [one["extra_info"] for one in json.loads(Path("run.json").read_text())["benchmarks"]]
    compared = {one["case"]["batch"]: one["speedup"]["baseline"]["case"]["batch"] for one in saved}
    assert compared == {2: 2, 4: 1}


def test_a_gate_in_the_suite_is_passed_by_what_surely_reaches_it(session, pytester):
    suite = SUITE.replace("@pytest.mark.grid", '@pytest.mark.gate(max_drop={"top1": 0.2})\n@pytest.mark.grid')
    pytester.makepyfile(test_linear=suite)
    session("-k", "fp32 and b16").assert_outcomes(passed=1)


def test_a_case_whose_test_fails_its_assertion_is_failed_on_record(session, pytester):
    pytester.makepyfile(test_linear=SUITE.replace("== 1.0", '> 2, "not good enough"'))
    session("-k", "fp32 and b16", "--benchmark-json=run.json").assert_outcomes(failed=1)
    saved = json.loads(Path("run.json").read_text())["benchmarks"][0]["extra_info"]
    assert saved["status"] == "failed"
    assert "not good enough" in saved["reason"]


def test_an_interrupted_run_is_resumed_and_saved_whole(session, pytester, monkeypatch):
    die = "import os, signal\n    if case.batch == 16: os.kill(os.getpid(), signal.SIGKILL)\n    record = measure(case)"
    pytester.makepyfile(test_linear=SUITE.replace("record = measure(case)", die))
    assert session("-k", "fp32").ret == -9
    pytester.makepyfile(test_linear=SUITE)
    monkeypatch.setenv("TOY_FAULT", "raise")  # whoever measured the finished case again would fail
    other = session("-k", "fp32 and -b1-", "--bench-resume", "--bench-baseline=engine=toy,batch=2", "-x")
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(["nothing was resumed: no interrupted run *"])
    resumed = session("-k", "fp32 and -b1-", "--bench-resume", "--benchmark-json=run.json")
    resumed.assert_outcomes(passed=1)
    saved = json.loads(Path("run.json").read_text())["benchmarks"]
    assert [len(entry["stats"]["data"]) for entry in saved] == [saved[0]["stats"]["rounds"]]
    since = saved[0]["extra_info"]["resumed"]["from"]
    resumed.stdout.fnmatch_lines([f"- Resumed this run: 1 of 1 records were measured before, {since}."])
    session("-k", "fp32 and -b1-", "--bench-resume").assert_outcomes(failed=1)  # the resumed run has come to its end


HABITS = """
import pytest
from bench import Grid

SMALL = Grid("linear", ["fp32", "bf16"], "toy", baseline={"engine": "toy"})

@pytest.fixture
def shared():
    return 0.5

@pytest.fixture
def bench(shared):
    return 2 * shared

@pytest.fixture
def supported():
    return True

@pytest.mark.benchmark(group="nightly")
@pytest.mark.grid(SMALL)
class TestLinear:
    @pytest.mark.parametrize("start", ["cold", "warm"])
    def test_speed(self, case, measure, bench, supported, start):
        assert measure(case).quality["top1"] == bench

    def test_name(self, shared):
        assert shared == 0.5

@pytest.mark.benchmark(min_rounds=5, timer=sum)
@pytest.mark.grid(SMALL)
def test_own_words(case, measure):
    measure(case)
    with pytest.raises(pytest.fail.Exception, match="a test measures one case once"):
        measure(case)

def test_plain(benchmark):
    benchmark(int)
"""


def test_marks_classes_and_fixtures_of_a_users_own_stay_theirs_and_two_tests_of_one_case_are_two(session, pytester):
    pytester.makepyfile(test_linear=HABITS)
    result = session("--benchmark-json=run.json")
    result.assert_outcomes(passed=5, skipped=3)
    result.stdout.fnmatch_lines(
        ["bench: of @pytest.mark.benchmark only group has an effect on a case, not min_rounds, timer (*test_own_words)"]
    )
    run = json.loads(Path("run.json").read_text())
    groups = {entry["name"]: entry["group"] for entry in run["benchmarks"]}
    case, other = "linear-fp32-toy-b1-t1", "linear-bf16-toy-b1-t1"
    assert groups == {
        f"test_speed[{case}-cold]": "nightly",
        f"test_speed[{case}-warm]": "nightly",
        f"test_own_words[{case}]": "linear b1 t1",
        "test_plain": None,
    }
    starts = {entry["name"]: entry["params"].get("start") for entry in run["benchmarks"] if entry["extra_info"]}
    assert sorted(starts.values(), key=str) == [None, "cold", "warm"]
    tests = [entry["extra_info"]["test"] for entry in run["benchmarks"] if entry["extra_info"]]
    assert sorted(tests) == sorted(entry["fullname"] for entry in run["benchmarks"] if entry["extra_info"])
    assert {lost["test"].partition("::")[2] for lost in run["bench"]["cases"]} == {
        f"TestLinear::test_speed[{other}-cold]",
        f"TestLinear::test_speed[{other}-warm]",
        f"test_own_words[{other}]",
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--benchmark-disable"], "benchmarks are disabled (--benchmark-disable)"),
        (["--benchmark-skip"], "Skipping benchmark (--benchmark-skip active)."),
        (["--benchmark-disable", "-n2"], "benchmarks are disabled (--benchmark-disable)"),
    ],
)
def test_benchmarks_that_are_switched_off_are_skipped_at_once_and_nothing_is_built(session, tmp_path, options, reason):
    if "-n2" in options:
        pytest.importorskip("xdist")
    result = session(f"--bench-cache={tmp_path / 'cache'}", "-rs", *options)
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines([f"SKIPPED * {reason}"])
    assert not (tmp_path / "cache").exists()


def test_without_pytest_benchmark_cases_are_refused_in_one_line_and_other_tests_run(session, pytester):
    pytester.makepyfile(test_plain="def test_plain(): pass")
    result = session("-p", "no:benchmark")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: bench measures through pytest-benchmark, which is switched off here: take '-p no:benchmark' away, or "
        'leave the cases out by -m "not grid"'
    ]
    session("-p", "no:benchmark", "-m", "not grid").assert_outcomes(passed=1, deselected=4)


def test_cases_are_refused_beside_others_under_xdist_and_other_tests_run(session, pytester):
    pytest.importorskip("xdist")
    pytester.makepyfile(test_plain="def test_plain(): pass")
    result = session("-n2")
    result.assert_outcomes()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*bench measures one case at a time: run its 4 cases without pytest-xdist (-n0), *"])
    session("-n2", "-m", "not grid").assert_outcomes(passed=1)


def test_a_run_without_any_success_is_saved_with_its_cases(session, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "raise")
    session("-k", "b16", "--benchmark-json=run.json", "--benchmark-autosave").assert_outcomes(failed=1, skipped=1)
    (saved,) = Path(".benchmarks").rglob("*.json")
    for file in (Path("run.json"), saved):
        assert json.loads(file.read_text())["benchmarks"] == []
        assert [(record.id, record.status, record.reason) for record in read(file).records] == [
            ("linear-fp32-toy-b16-t1", "failed", "open: RuntimeError: the toy is broken"),
            ("linear-bf16-toy-b16-t1", "unsupported", "the toy engine computes in FP32 only"),
        ]


def test_pytest_benchmark_compares_with_what_this_machine_saved(session):
    session("-k", "fp32 and b16", "--benchmark-autosave").assert_outcomes(passed=1)
    result = session("-k", "fp32 and b16", "--benchmark-compare", "--benchmark-compare-fail=min:100000%")
    result.assert_outcomes(passed=1)
    name = "test_linear[[]linear-fp32-toy-b16-t1[]]"
    result.stdout.fnmatch_lines_random([f"{name} (0001_*", f"{name} (NOW)*"])
    assert "Can't compare" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("marks", "arguments", "line"),
    [
        ("grid()", "case, measure", "@pytest.mark.grid takes Grids alone, one at least, not ()"),
        ("grid", "case, measure", "@pytest.mark.grid takes Grids alone, one at least, not ()"),
        ("grid('linear')", "case, measure", "@pytest.mark.grid takes Grids alone, one at least, not ('linear')"),
        ("grid(TOY, threads=2)", "case, measure", "@pytest.mark.grid takes Grids alone, *, threads=...)"),
        ("grid(TOY)", "", "it has a grid, but no argument 'case'; write def test(case, measure)"),
        ("grid(TOY, TORCH)", "case, measure", "two of its grids hold linear-fp32-toy-b1-t1 with different baselines*"),
        ("gate(1.5)\n@pytest.mark.grid(TOY)", "case, measure", "a gate reads gate(speedup=1.5, *, not gate(1.5)"),
        ("gate(top1=0.1)\n@pytest.mark.grid(TOY)", "case, measure", "a gate reads *, not gate(top1=0.1)"),
        ("gate(speedup='2')\n@pytest.mark.grid(TOY)", "case, measure", "a gate reads *, not gate(speedup='2')"),
        ("baseline(color='red')\n@pytest.mark.grid(TOY)", "case, measure", "a baseline has no axis color; *"),
    ],
)
def test_a_mark_that_cannot_be_is_refused_in_one_line(pytester, marks, arguments, line):
    pytester.makeconftest(CONFTEST)
    grids = 'TOY, TORCH = Grid("linear", "fp32", "toy", baseline={"engine": "toy"}), Grid("linear", "fp32", "toy")'
    pytester.makepyfile(
        f"import pytest\nfrom bench import Grid\n{grids}\n@pytest.mark.{marks}\ndef test_it({arguments}): pass"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--collect-only")
    assert result.ret != 0
    told = result.outlines + result.errlines
    assert any(fnmatch.fnmatch(text, f"*{line.replace('[', '[[]')}") for text in told), told
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_grid_that_the_chosen_models_leave_without_a_case_is_skipped_with_that_reason(session, pytester):
    pytester.makepyfile(test_linear=SUITE.replace('Grid("linear"', 'Grid("other"'))
    result = session("--bench-model=linear", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * no case is left: --bench-model names none of this grid's models (other)"])


def test_a_suite_that_has_nothing_to_do_with_cases_does_not_notice(pytester):
    pytester.makeini("[pytest]\nmarkers = grid: a kind of layout")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def measure():
            return 3

        @pytest.mark.grid("two columns")
        @pytest.mark.parametrize("case", ["upper", "lower"])
        def test_plain(case, measure):
            assert measure == 3

        @pytest.mark.grid("two columns")
        def test_other(benchmark):
            benchmark(int)
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)
    assert "bench:" not in result.stdout.str()
    assert not Path("reports").exists()


def test_a_place_where_the_report_cannot_be_written_is_refused_before_anything_is_measured(session, pytester):
    pytester.makefile("", occupied="a file, no folder")
    result = session("--bench-reports=occupied")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: cannot write reports to */occupied/out; choose another folder by *"])
