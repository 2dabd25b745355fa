"""Claims about the self-test: it holds its trials, here on a model that costs nothing."""

import re

import pytest
import toy  # noqa: F401 - registers the model

from bench.errors import BenchError, UnknownMember
from bench.selftest.coverage import DEVIATIONS
from bench.selftest.trials import TRIALS, loaded, selftest
from bench.timing.sampling import Plan
from bench.timing.settings import Bench

SHORT = Plan(least_launches=3, most_launches=3, pass_s=0.05, slice_s=0.005, budget_s=0.1)
TOLD = {
    "overhead": r"timing a session that does nothing takes \d+ ns a call",
    "coverage": r"sd 1.2% from launch to launch: \d+\.\d\d% of 1000 intervals hold the truth; \d+% end with the first "
    r"stage, \d\.\d\d% and miss; [3-8]\.\d launches, median half-width \d\.\d\d%",
    "same": r"of 1 95% intervals of a case against itself [01] contain 1; median half-width \d+\.\d\d%; called "
    r"(\w+ [01](, )?){4}",
    "slowed": r"a slow-down of 2% put in, 1 times: called .*; mean ratio [01]\.\d{4}",
    "range": r"INT8 over FP32 in 1 runs: .*, a range of 0.00%; by plain pytest-benchmark beside it .* of 0.00%",
    "killed": r"1 sessions killed at random moments: of [0-6] finished cases 0 were lost, 0 workers were left, "
    r"1 of 1 resumed runs were whole",
}


@pytest.mark.parametrize("trial", TOLD)
def test_a_trial_tells_what_was_found(tmp_path, trial):
    lines = []
    selftest("linear", Bench(tmp_path, plan=SHORT), [trial], 1, 1, lines.append)
    assert len(lines) == (1 if trial != "coverage" else len(DEVIATIONS))
    assert re.fullmatch(f"{trial}: {TOLD[trial]}", lines[-1])


def test_each_fault_of_a_worker_is_a_failed_case_with_its_reason(tmp_path):
    lines = []
    selftest("linear", Bench(tmp_path), ["broken"], 1, 0, lines.append)
    assert lines[-1] == "broken: 6 of 6 faults are failed cases with their reason; the next: ok", lines


def test_a_trial_or_model_that_is_not_there_or_one_launch_is_refused(tmp_path):
    with pytest.raises(UnknownMember, match=f"no trial on cpu is named 'sane'; there are: {', '.join(TRIALS)}"):
        selftest("linear", Bench(tmp_path), ["sane"], 1, 0, print)
    with pytest.raises(UnknownMember, match="no trial on cuda is named 'range'; there are: same, slowed"):
        selftest("linear", Bench(tmp_path), ["range"], 1, 0, print, "cuda")
    with pytest.raises(BenchError, match="linear-fp32-torch-b1-t1-fake could not be measured: torch runs on cpu, "):
        selftest("linear", Bench(tmp_path), ["same"], 1, 0, print, "fake")
    with pytest.raises(UnknownMember, match="no model is named 'vgg'"):
        selftest("vgg", Bench(tmp_path), ["same"], 1, 0, print)
    quick = Plan(least_launches=1, most_launches=1, pass_s=0.01)
    with pytest.raises(BenchError, match="linear-fp32-onnxruntime-b1-t1 could not be measured: a single launch"):
        selftest("linear", Bench(tmp_path, plan=quick), ["same"], 1, 0, print)


def test_what_keeps_the_machine_busy_ends_with_the_test():
    import psutil

    before = set(psutil.Process().children())
    with loaded(2):
        assert len(set(psutil.Process().children()) - before) == 2
    assert not set(psutil.Process().children()) - before
