"""Claims about the self-test: it measures its known truths, here on a model that costs nothing."""

import re

import pytest
import toy  # noqa: F401 - registers the model

from bench.errors import BenchError, UnknownMember
from bench.measure import Bench
from bench.sampling import Plan
from bench.selftest import loaded, selftest

SHORT = Plan(least_launches=3, most_launches=3, pass_s=0.05, slice_s=0.005, budget_s=0.1)


def test_each_truth_is_told_with_what_was_found(tmp_path):
    lines = []
    selftest("linear", Bench(tmp_path, plan=SHORT), 1, 1, lines.append)
    said = "\n".join(lines)
    assert re.search(r"interval contains 1 in [01] of 1", said)
    assert re.search(r"median half-width \d+\.\d\d%; called (\w+ [01](, )?){4}", said)
    assert re.search(r"a slow-down of 2%: called .*; mean ratio [01]\.\d{4}", said)
    assert re.search(r"INT8 over FP32: .* in 1 runs, a range of 0.00%", said)


def test_a_model_that_is_not_there_or_one_launch_is_refused(tmp_path):
    with pytest.raises(UnknownMember, match="no model is named 'vgg'"):
        selftest("vgg", Bench(tmp_path), 1, 0, print)
    with pytest.raises(BenchError, match="linear-fp32-onnxruntime-b1-t1 could not be measured"):
        selftest("linear", Bench(tmp_path, plan=Plan(least_launches=1, most_launches=1, pass_s=0.01)), 1, 0, print)


def test_what_keeps_the_machine_busy_ends_with_the_test():
    import psutil

    before = set(psutil.Process().children())
    with loaded(2):
        assert len(set(psutil.Process().children()) - before) == 2
    assert not set(psutil.Process().children()) - before
