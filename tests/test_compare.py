"""Claims about comparing saved runs: what is called a change, and what is not."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drafts import Draft

from bench.cli import main
from bench.errors import BadLimit
from bench.records import compare as module
from bench.records.runs import read
from bench.report.comparison import limits_of
from bench.statistics import change, change_of_levels, holm, level_of

GOLDEN = Path(__file__).parent / "data" / "run.json"
CASES = [f"mine-int8_static-{engine}-b{batch}-t1" for engine in ("onnxruntime", "openvino") for batch in (1, 2, 4, 8)]


def compare(base, others, **more):
    return module.compare(base.run(), [other.run() for other in others], **more)


def record(case, ratios, chance, **more):
    """A record of launches with these speed-ups, each of 20 rounds that scatter by a tenth of a per cent."""
    medians = []
    for ratio in ratios:
        baseline_s = 1e-3 * np.exp(chance.normal(0, 0.001, 20))
        medians.append({"case_s": (baseline_s / ratio).tolist(), "baseline_s": baseline_s.tolist()})
    model, precision, engine, batch, threads = case.split("-")
    axes = {"model": model, "precision": precision, "engine": engine, "device": "cpu"}
    axes |= {"batch": int(batch[1:]), "threads": int(threads[1:])}
    speedup = {"baseline": {"case": axes | {"precision": "fp32"}}, "medians": medians, "ratio": float(np.mean(ratios))}
    known = {
        "id": case,
        "case": axes,
        "status": "ok",
        "reason": None,
        "speedup": speedup,
        "quality": {"top1": 0.9, "n": 1000},
    }
    return known | {"latency": {"p50_s": 1e-3 / ratios[0]}, "artifact": {"digest": "d"}} | more


def run_of(seed, slowed=None, by=1.0, name="run"):
    """A run of eight cases, each in four launches that differ by three tenths of a per cent, as runs do too."""
    chance = np.random.default_rng(seed)
    records = [
        record(
            case,
            2.0 * np.exp(chance.normal(0, 0.003) + chance.normal(0, 0.003, 4)) * (by if case == slowed else 1.0),
            chance,
        )
        for case in CASES
    ]
    return Draft(records, {"cpu": "a"}, name=name)


def test_the_change_of_launches_is_welchs():
    from scipy.stats import ttest_ind

    chance = np.random.default_rng(0)
    before, after = np.exp(chance.normal(0, 0.01, 5)), np.exp(chance.normal(0.02, 0.03, 4))
    found = change(before, after)
    theirs = ttest_ind(np.log(after), np.log(before), equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue / 2)  # in the direction that was seen
    ends = np.exp(theirs.confidence_interval(0.95))
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(ends))
    assert found.interval.low < found.interval.ratio < found.interval.high


@pytest.mark.parametrize("by", [1.02, 1 / 1.02])
def test_a_change_of_just_the_margin_is_as_likely_beyond_it_as_not(by):
    before = np.exp(np.random.default_rng(0).normal(0, 0.001, 6))
    assert change(before, before * by, 0.02).p == pytest.approx(0.5)
    assert change(before, before * by, 0.01).p < 1e-3
    assert change(before, before * by, 0.03).p > 0.999


def test_one_launch_tells_no_interval():
    assert change([2.0], [2.1]).interval.low is None
    assert change([2.0], [2.1]).p is None


def test_holms_correction_is_that_of_the_table_in_his_paper():
    # Holm 1979 multiplies the smallest of m by m, the next by m - 1, and never lets one fall below the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("none", [None, float("nan"), float("inf"), -1.0])
def test_what_is_no_p_value_counts_for_no_test(none):
    assert holm([none, 0.01, 0.04, 0.03]) == pytest.approx([1.0, 0.03, 0.06, 0.06])
    assert holm([none]) == [1.0]


def test_one_case_that_cannot_be_judged_hides_no_other(monkeypatch):
    def broken(before, after, margin, first):
        found = change(before, after, margin, first)
        return replace(found, p=float("nan")) if before == launch_ratios[0] else found

    base, other = run_of(0), run_of(1, slowed=CASES[3], by=0.9)
    launch_ratios = [module._ratios(module._launches(base.run().records[0]))]
    monkeypatch.setattr(module, "change", broken)
    found = compare(base, [other])[0]
    assert [one.case for one in found if one.verdict == "slower"] == [CASES[3]]
    assert found[0].verdict in ("same", "unclear")


@pytest.mark.parametrize("count", [5, 40])
def test_the_level_of_samples_has_the_error_that_medians_scatter_by(count):
    chance = np.random.default_rng(0)
    levels = [level_of(np.exp(chance.normal(0, 0.1, count))) for _ in range(1000)]
    scatter = np.std([level.log for level in levels])
    assert 0.95 < np.sqrt(np.mean([level.error**2 for level in levels])) / scatter < 1.3
    assert level_of([2.0]).error is None


def test_a_change_of_levels_covers_what_runs_differ_by():
    chance = np.random.default_rng(0)

    def level():
        return level_of(np.exp(chance.normal(0, 0.05, 9) + chance.normal(0, 0.02)))

    found = [change_of_levels(level(), level(), 0.0, 0.02, 0.16) for _ in range(1000)]
    assert 0.94 < np.mean([one.interval.low < 1 < one.interval.high for one in found]) < 0.99
    assert 0.01 < np.mean([one.p < 0.05 for one in found]) < 0.1  # one-sided in the direction seen, as `change`'s


def test_a_run_is_the_same_as_itself():
    base = run_of(0)
    one_launch = base.records[0]["case"] | {"batch": 16}
    base.records.append(base.records[0] | {"case": one_launch, "speedup": {}})
    assert {one.verdict for one in compare(base, [copy.deepcopy(base)])[0]} == {"same"}


def test_two_runs_of_the_same_code_give_no_false_alarm_in_20_repeats():
    for seed in range(20):
        found = compare(run_of(2 * seed), [run_of(2 * seed + 1)])[0]
        assert not {one.verdict for one in found} & {"slower", "faster"}, seed


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_down_of_3_percent_in_one_case_is_named_alone(seed):
    found = compare(run_of(seed), [run_of(100 + seed, slowed=CASES[3], by=0.97)])[0]
    assert [one.case for one in found if one.verdict == "slower"] == [CASES[3]]
    assert not [one.case for one in found if one.verdict == "faster"]


def probed(run, share, best=1000.0, version="1.0"):
    """The run with control probes of so much of its best."""
    probes = [{"int8_gops": share * best}] * 3
    noise = {"verdict": "steady", "why": [], "probes": probes, "best": {"int8_gops": best}}
    return Draft([one | {"noise": noise} for one in run.records], {"cpu": "a", "versions": {"onnxruntime": version}})


@pytest.mark.parametrize(("before", "after", "called"), [(1.0, 0.95, True), (1.0, 0.8, False), (0.8, 1.0, False)])
def test_a_change_while_the_machine_itself_was_slower_is_unclear(before, after, called):
    found = compare(probed(run_of(0), before), [probed(run_of(1, slowed=CASES[3], by=0.7), after)])[0]
    slowed = found[3]
    assert slowed.verdict == ("slower" if called else "unclear")
    doubt = "slower by its figures, but in this run control probe int8_gops fell to 80% of its best"
    assert slowed.notes == (() if called else (doubt,))


@pytest.mark.parametrize(("version", "verdict"), [("1.0", "unclear"), ("2.0", "slower")])
def test_a_session_that_knew_nothing_better_is_held_against_the_other_runs_best(version, verdict):
    slow = probed(run_of(1, slowed=CASES[3], by=0.7), 1.0, best=800.0, version=version)
    assert compare(probed(run_of(0), 1.0), [slow])[0][3].verdict == verdict


@pytest.mark.parametrize(
    "noise", [{}, {"probes": 3, "best": []}, {"probes": [3, {"int8_gops": "x"}], "best": {"int8_gops": "y"}}]
)
def test_what_is_no_record_of_probes_makes_no_doubt(noise):
    other = run_of(1, slowed=CASES[3], by=0.7)
    other = Draft([one | {"noise": noise} for one in other.records], other.machine)
    assert compare(run_of(0), [other])[0][3].verdict == "slower"


def plain(path, factor=1.0, **drop):
    """A run as plain pytest-benchmark saves it: three tests of 30 rounds, all so many times as long."""
    chance = np.random.default_rng(round(100 * factor))
    entries = []
    for name, typical_s in (("a", 1e-3), ("b", 2e-3), ("c", 5e-6)):
        data = factor * typical_s * np.exp(chance.normal(0, 0.03, 30))
        q1, median, q3 = np.percentile(data, [25, 50, 75])
        stats = {"median": median, "iqr": q3 - q1, "stddev": data.std(ddof=1), "rounds": 30, "data": data.tolist()}
        stats = {part: value for part, value in stats.items() if part not in drop.get("without", ())}
        entries.append({"fullname": f"test_it.py::test_{name}", "stats": stats, "extra_info": {}})
    info = {"cpu": {"brand_raw": drop.get("cpu", "A CPU"), "count": 4}}
    path.write_text(json.dumps({"benchmarks": entries, "machine_info": info}))
    return str(path)


@pytest.mark.parametrize("without", [(), ("data",), ("data", "iqr"), ("data", "iqr", "stddev", "rounds")])
@pytest.mark.parametrize(("factor", "status"), [(2.0, 1), (1.0001, 0), (0.5, 0)])
def test_plain_runs_are_compared_by_their_own_times(tmp_path, capsys, without, factor, status):
    files = [plain(tmp_path / "was.json", without=without), plain(tmp_path / "now.json", factor, without=without)]
    assert main(["compare", *files, "--fail-on", "slower:10%"]) == status
    text = capsys.readouterr().out
    assert text.count("| slower") == (3 if status else 0)
    assert text.count("| faster") == (3 if factor == 0.5 else 0)
    assert "judged by its own times, for want of a speed-up" in text


def test_plain_runs_of_other_machines_are_compared_only_where_that_is_asked_for(tmp_path, capsys):
    files = [plain(tmp_path / "was.json"), plain(tmp_path / "now.json", 2.0, cpu="Another")]
    assert main(["compare", *files, "--fail-on", "slower:10%"]) == 0
    assert "3 unclear" in capsys.readouterr().out
    assert main(["compare", *files, "--fail-on", "slower:10%", "--absolute"]) == 1
    assert "3 slower" in capsys.readouterr().out


def test_a_single_round_tells_no_scatter_and_wants_a_larger_change(tmp_path):
    def run(factor):
        calls = {"median_s": 1e-3 * factor, "error": None, "count": 1}
        case = dict(zip(("model", "precision", "engine"), "a--", strict=False)) | {"batch": 1, "threads": 1}
        return Draft([{"case": case | {"device": "cpu"}, "status": "ok", "calls": calls}])

    assert [compare(run(1), [run(factor)])[0][0].verdict for factor in (2.0, 1.3, 0.5)] == [
        "slower",
        "unclear",
        "faster",
    ]


def test_the_baseline_itself_is_compared_by_its_own_times():
    chance = np.random.default_rng(0)

    def run(factor):
        own = record("mine-fp32-torch-b1-t1", [1.0, 1.001, 0.999, 1.0], chance)
        for launch in own["speedup"]["medians"]:
            for side in ("case_s", "baseline_s"):
                launch[side] = [factor * time_s for time_s in launch[side]]
        own["latency"] = {"p50_s": factor * 1e-3}
        return Draft([own], {"cpu": "a"})

    slower = compare(run(1.0), [run(2.0)])[0][0]
    assert (slower.verdict, slower.speedup) == ("slower", None), "over itself its speed-up is 1 for ever"
    assert slower.times.low < 0.5 < slower.times.high
    assert compare(run(1.0), [run(1.02)])[0][0].verdict == "unclear"


def test_a_disturbed_run_calls_no_change_of_own_times():
    chance = np.random.default_rng(0)
    was = record("mine-fp32-torch-b1-t1", [1.0] * 4, chance)
    now = record("mine-fp32-torch-b1-t1", [1.0] * 4, chance, noise={"why": ["other processes used 1.20 cores"]})
    for launch in now["speedup"]["medians"]:
        launch["case_s"] = [2 * time_s for time_s in launch["case_s"]]
    found = compare(Draft([was]), [Draft([now])])[0][0]
    assert found.verdict == "unclear"
    assert found.doubt == "slower by its figures, but in this run other processes used 1.20 cores"
    quiet, loud = now | {"noise": {}}, was | {"noise": now["noise"]}
    assert compare(Draft([loud]), [Draft([quiet])])[0][0].verdict == "slower", "what was disturbed was the faster run"


def test_quick_runs_of_one_launch_are_compared_with_what_launches_differ_by():
    def run(ratio):
        return Draft([record(CASES[0], [ratio], np.random.default_rng(int(ratio * 100)))], {"cpu": str(ratio)})

    halved, nearly = compare(run(2.0), [run(1.0), run(1.96)])
    assert halved[0].verdict == "slower"
    assert halved[0].speedup.low < 0.5 < halved[0].speedup.high
    assert nearly[0].verdict == "unclear"


@pytest.mark.parametrize("limit", ["missing", "failed"])
def test_a_case_that_became_unsupported_is_lost(slower, tmp_path, capsys, limit):
    saved = json.loads(Path(slower[0]).read_text())
    lost = saved["benchmarks"].pop(2)["extra_info"]
    reason = "onnxruntime is not installed"
    saved["bench"]["cases"].append({"id": lost["id"], "case": lost["case"], "status": "unsupported", "reason": reason})
    (tmp_path / "lost.json").write_text(json.dumps(saved))
    runs = [slower[0], str(tmp_path / "lost.json")]
    assert main(["compare", *runs, "--fail-on", limit]) == 1
    assert f"beyond the limit: {lost['id']}: ok -> unsupported" in capsys.readouterr().out
    assert main(["compare", *runs, "--fail-on", f"{limit}:1"]) == 0


def test_a_metric_that_is_no_longer_told_is_beyond_any_limit_of_it(slower, capsys):
    saved = json.loads(Path(slower[1]).read_text())
    saved["benchmarks"][2]["extra_info"]["quality"]["top1"] = None
    Path(slower[1]).write_text(json.dumps(saved))
    assert main(["compare", *slower, "--fail-on", "top1:50%"]) == 1
    assert "beyond the limit: resnet20-int8_static-onnxruntime-b1-t1: top1 is lost" in capsys.readouterr().out


def test_a_case_that_two_tests_measure_has_two_rows(slower, capsys):
    for file in slower:
        saved = json.loads(Path(file).read_text())
        twice = copy.deepcopy(saved["benchmarks"][2])
        twice["fullname"] = twice["fullname"].replace("document3", "again")
        twice["extra_info"]["test"] = twice["fullname"]
        if file == slower[1]:
            for one in twice["extra_info"]["speedup"]["medians"]:
                one["case_s"] = [2 * time_s for time_s in one["case_s"]]
        saved["benchmarks"].append(twice)
        Path(file).write_text(json.dumps(saved))
    assert main(["compare", *slower, "--fail-on", "slower:20%"]) == 1
    text = capsys.readouterr().out
    name = "resnet20-int8_static-onnxruntime-b1-t1"
    assert f"| {name} (suites/test_document3.py::test_resnet20) | slower" in text
    assert f"beyond the limit: {name} (suites/test_again.py::test_resnet20): slower, 0.45" in text
    assert text.count("beyond the limit") == 1


def told(**more):
    return Draft([record(CASES[0], [2.0, 2.0], np.random.default_rng(0), **more)], {"cpu": "a"})


def test_kernels_and_shares_that_changed_are_told_first():
    def run(decibel, share):
        macs = {"int8": share, "fp32": 1 - share}
        return told(kernel={"kernel_db": decibel, "by": "x"}, lowered={"macs": macs}, artifact={"digest": str(share)})

    found = compare(run(45.1, 0.98), [run(12.3, 0.03)])[0][0]
    assert found.computed == ("kernel_db 45.1 -> 12.3 dB", "in INT8: 98.0% -> 3.0% of the multiply-accumulates")
    assert found.notes[:2] == found.computed
    assert compare(run(45.1, 0.98), [run(45.3, 0.98)])[0][0].computed == ()
    without = told(kernel={"kernel_db": None, "reason": "no reference"}, lowered={})
    assert compare(run(45.1, 0.98), [without])[0][0].computed == ("kernel_db 45.1 dB -> none (no reference)",)
    assert compare(told(), [run(45.1, 0.98)])[0][0].computed == (), "a run of before it was counted tells no change"


def test_new_missing_and_changed_cases_are_told():
    base, other = run_of(0), run_of(0)
    gone = base.records[0]["id"]
    del other.records[0]
    other.records.append(base.records[1] | {"case": base.records[1]["case"] | {"model": "new"}})
    other.records[1] = other.records[1] | {"status": "failed", "reason": "it broke"}
    found = {one.case: one for one in compare(base, [other])[0]}
    assert found[gone].verdict == "missing"
    assert found["new-int8_static-onnxruntime-b2-t1"].verdict == "new"
    assert found[other.records[1]["id"]].verdict == "ok -> failed"
    assert found[other.records[1]["id"]].notes == ("failed: it broke",)


def test_times_are_compared_on_one_machine_only_unless_asked():
    base = run_of(0)
    elsewhere = Draft(run_of(0).records, {"cpu": "b"})
    assert all(one.absolute is None for one in compare(base, [elsewhere])[0])
    assert all(one.absolute == pytest.approx(1) for one in compare(base, [elsewhere], absolute=True)[0])


def test_other_answers_of_the_same_artefact_are_told_with_the_instruction_sets():
    chance = np.random.default_rng(0)
    one = record(CASES[0], [2.0, 2.0], chance, answers="aaaabbbbcccc")
    base = Draft([one], {"isa": ["avx512_vnni"]})
    other = Draft([one | {"answers": "aaaabbbbdddd", "quality": {"top1": 0.8, "n": 1000}}], {"isa": ["avx2"]})
    found = compare(base, [other])[0][0]
    assert found.answers == (1, 3)
    assert found.notes == ("same artefact, other answers: 1 of 3; avx512_vnni against avx2",)
    assert found.quality == {"top1": pytest.approx(-0.1)}


def test_limits_read_shares_and_numbers_and_refuse_rubbish():
    assert limits_of("slower:2%,top1:0.5%,missing,psnr:0.1") == {
        "slower": 0.02,
        "top1": pytest.approx(0.005),
        "missing": 0,
        "psnr": 0.1,
    }
    for text in ("slower:fast", ":2%", "slower:-1", "slower:inf"):
        with pytest.raises(BadLimit):
            limits_of(text)


@pytest.fixture
def slower(tmp_path):
    """The golden run, and one whose INT8 case is 10% slower and has lost a point of accuracy."""
    saved = json.loads(GOLDEN.read_text())
    lost = saved["benchmarks"][2]["extra_info"]
    for one in lost["speedup"]["medians"]:
        one["case_s"] = [1.1 * time_s for time_s in one["case_s"]]
    lost["quality"]["top1"] -= 0.01
    (tmp_path / "now.json").write_text(json.dumps(saved))
    shutil.copy(GOLDEN, tmp_path / "was.json")
    return [str(tmp_path / name) for name in ("was.json", "now.json")]


@pytest.mark.parametrize(
    ("limits", "status"),
    [(None, 0), ("slower:2%", 1), ("slower:20%", 0), ("top1:0.5%", 1), ("top1:2%", 0), ("missing,failed", 0)],
)
def test_the_exit_status_says_whether_a_limit_was_broken(slower, capsys, limits, status):
    assert main(["compare", *slower, *([] if limits is None else ["--fail-on", limits])]) == status
    text = capsys.readouterr().out
    assert "| resnet20-int8_static-onnxruntime-b1-t1 | slower" in text
    assert ("beyond the limit: resnet20-int8_static-onnxruntime-b1-t1" in text) == bool(status)


def test_a_limit_on_what_nothing_measures_is_refused(slower, capsys):
    assert main(["compare", *slower, "--fail-on", "miou:1%"]) == 2
    assert (
        "nothing is named 'miou' that could be limited; there are slower, missing, failed, top1"
        in capsys.readouterr().err
    )


def test_one_run_is_compared_with_nothing(capsys):
    assert main(["compare", str(GOLDEN)]) == 2
    assert "name two or more" in capsys.readouterr().err


def test_what_differs_between_the_machines_comes_first(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    saved["machine_info"]["bench"] |= {"cpu": "Another", "isa": ["avx2"]}
    saved["machine_info"]["bench"]["versions"]["onnxruntime"] = "9.9.9"
    (tmp_path / "other.json").write_text(json.dumps(saved))
    assert main(["compare", str(GOLDEN), str(tmp_path / "other.json")]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[:5]] == ["", "machine", "cpu", "isa", "onnxruntime"]


def test_shards_of_one_run_are_put_together_without_loss(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    one, other = copy.deepcopy(saved), copy.deepcopy(saved)
    one["benchmarks"], other["benchmarks"] = saved["benchmarks"][:1], saved["benchmarks"][1:]
    other["bench"]["cases"] = []
    for name, part in (("a", one), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    assert (
        main(["merge", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--output", str(tmp_path / "whole.json")])
        == 0
    )
    assert "3 measured and 2 other cases of 2 files" in capsys.readouterr().out
    assert [record.id for record in read(tmp_path / "whole.json").records] == [
        record.id for record in read(GOLDEN).records
    ]


def test_shards_that_contradict_each_other_are_refused_by_name(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    saved["benchmarks"][0]["stats"]["median"] = 99.0
    (tmp_path / "other.json").write_text(json.dumps(saved))
    assert main(["merge", str(GOLDEN), str(tmp_path / "other.json"), "--output", str(tmp_path / "whole.json")]) == 2
    assert "with other figures" in capsys.readouterr().err
    assert not (tmp_path / "whole.json").exists()


def shards(tmp_path, *parts):
    """Files that hold the golden run with so much of it replaced; their names."""
    names = []
    for place, part in enumerate(parts):
        (tmp_path / f"shard{place}.json").write_text(json.dumps(json.loads(GOLDEN.read_text()) | part))
        names.append(str(tmp_path / f"shard{place}.json"))
    return names


@pytest.mark.parametrize(
    "part",
    [
        {"bench": None},
        {"bench": []},
        {"bench": {"cases": None}},
        {"bench": {"cases": [None, "x", {"id": []}]}},
        {"datetime": None},
        {"datetime": 3},
    ],
)
def test_odd_files_are_put_together_too(tmp_path, part):
    whole = tmp_path / "whole.json"
    assert main(["merge", *shards(tmp_path, part, {}), "--output", str(whole)]) == 0
    assert {record.id for record in read(whole).records} >= {record.id for record in read(GOLDEN).records}
    assert json.loads(whole.read_text())["datetime"] == json.loads(GOLDEN.read_text())["datetime"]


def test_entries_that_are_none_are_left_out(tmp_path):
    entries = json.loads(GOLDEN.read_text())["benchmarks"]
    odd = {"benchmarks": [None, 3, *entries, {"fullname": ["x"], "extra_info": None}]}
    assert main(["merge", *shards(tmp_path, odd, {}), "--output", str(tmp_path / "whole.json")]) == 0
    assert len(read(tmp_path / "whole.json").records) == 5


def test_infinities_of_a_shard_become_null(tmp_path):
    entries = json.loads(GOLDEN.read_text())["benchmarks"]
    entries[0]["extra_info"]["load_s"] = float("inf")
    assert main(["merge", *shards(tmp_path, {"benchmarks": entries}), "--output", str(tmp_path / "whole.json")]) == 0
    assert "Infinity" not in (tmp_path / "whole.json").read_text()


def test_a_case_of_two_tests_is_in_two_shards(tmp_path):
    case = json.loads(GOLDEN.read_text())["bench"]["cases"][0]
    lost = [case | {"test": f"test_{name}.py::test_it[{case['id']}]"} for name in "ab"]
    measured = json.loads(GOLDEN.read_text())["benchmarks"][0]
    measured["fullname"] = measured["extra_info"]["test"] = lost[0]["test"]
    measured["extra_info"] |= {"id": case["id"], "case": case["case"]}
    parts = [{"benchmarks": [measured], "bench": {"cases": []}}, {"benchmarks": [], "bench": {"cases": lost}}]
    assert main(["merge", *shards(tmp_path, *parts), "--output", str(tmp_path / "whole.json")]) == 0
    found = read(tmp_path / "whole.json").records
    assert [(one.test, one.status) for one in found] == [
        (lost[0]["test"], "ok"),
        (lost[1]["test"], "unsupported"),
    ]


def test_runs_of_other_machines_are_no_shards(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    saved["machine_info"]["bench"]["cpu"] = "Another"
    (tmp_path / "other.json").write_text(json.dumps(saved))
    assert main(["merge", str(GOLDEN), str(tmp_path / "other.json"), "--output", str(tmp_path / "whole.json")]) == 2
    assert "no shards of one run: other machines" in capsys.readouterr().err
