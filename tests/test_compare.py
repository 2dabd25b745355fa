"""Claims about comparing saved runs: what is called a change, and what is not."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.compare import compare, limits_of
from bench.errors import BadLimit
from bench.runs import Run, read
from bench.statistics import change, holm

GOLDEN = Path(__file__).parent / "data" / "run.json"
CASES = [f"mine-int8_static-{engine}-b{batch}-t1" for engine in ("onnxruntime", "openvino") for batch in (1, 2, 4, 8)]


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
    return Run(records, {"cpu": "a"}, name=name)


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


def test_a_run_is_the_same_as_itself():
    base = run_of(0)
    base.records.append(base.records[0] | {"id": "one launch", "speedup": {}})
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
    return Run([one | {"noise": noise} for one in run.records], {"cpu": "a", "versions": {"onnxruntime": version}})


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
    other = Run([one | {"noise": noise} for one in other.records], other.machine)
    assert compare(run_of(0), [other])[0][3].verdict == "slower"


def test_new_missing_and_changed_cases_are_told():
    base, other = run_of(0), run_of(0)
    gone = base.records[0]["id"]
    del other.records[0]
    other.records.append(base.records[1] | {"id": "new one"})
    other.records[1] = other.records[1] | {"status": "failed", "reason": "it broke"}
    found = {one.case: one for one in compare(base, [other])[0]}
    assert found[gone].verdict == "missing"
    assert found["new one"].verdict == "new"
    assert found[other.records[1]["id"]].verdict == "ok -> failed"
    assert found[other.records[1]["id"]].notes == ("failed: it broke",)


def test_times_are_compared_on_one_machine_only_unless_asked():
    base = run_of(0)
    elsewhere = Run(run_of(0).records, {"cpu": "b"})
    assert all(one.absolute is None for one in compare(base, [elsewhere])[0])
    assert all(one.absolute == pytest.approx(1) for one in compare(base, [elsewhere], absolute=True)[0])


def test_other_answers_of_the_same_artefact_are_told_with_the_instruction_sets():
    chance = np.random.default_rng(0)
    one = record(CASES[0], [2.0, 2.0], chance, answers="aaaabbbbcccc")
    base = Run([one], {"isa": ["avx512_vnni"]})
    other = Run([one | {"answers": "aaaabbbbdddd", "quality": {"top1": 0.8, "n": 1000}}], {"isa": ["avx2"]})
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
    assert [record["id"] for record in read(tmp_path / "whole.json").records] == [
        record["id"] for record in read(GOLDEN).records
    ]


def test_shards_that_contradict_each_other_are_refused_by_name(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    saved["benchmarks"][0]["stats"]["median"] = 99.0
    (tmp_path / "other.json").write_text(json.dumps(saved))
    assert main(["merge", str(GOLDEN), str(tmp_path / "other.json"), "--output", str(tmp_path / "whole.json")]) == 2
    assert "with other figures" in capsys.readouterr().err
    assert not (tmp_path / "whole.json").exists()


def test_runs_of_other_machines_are_no_shards(tmp_path, capsys):
    saved = json.loads(GOLDEN.read_text())
    saved["machine_info"]["bench"]["cpu"] = "Another"
    (tmp_path / "other.json").write_text(json.dumps(saved))
    assert main(["merge", str(GOLDEN), str(tmp_path / "other.json"), "--output", str(tmp_path / "whole.json")]) == 2
    assert "no shards of one run: other machines" in capsys.readouterr().err
