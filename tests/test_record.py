"""Claims about what is saved of a case."""

import json

from bench import Case
from bench.records.record import Record, finite
from bench.statistics import Latency

CASE = Case("m", "fp32", "torch")


def test_numbers_that_json_cannot_hold_are_saved_as_null():
    assert finite({"a": [1.0, float("nan"), (float("inf"), 2)], "b": {"c": float("-inf")}}) == {
        "a": [1.0, None, [None, 2]],
        "b": {"c": None},
    }


def test_a_measured_record_is_strict_json_without_its_samples():
    saved = Record(CASE, "ok", fidelity={"sqnr_db": float("inf")}, samples_s=(0.1,)).saved()
    assert json.loads(json.dumps(saved, allow_nan=False)) == saved
    assert saved["fidelity"] == {"sqnr_db": None}
    assert "samples_s" not in saved


def test_a_record_that_failed_its_test_keeps_its_figures():
    saved = Record(CASE, "failed", "gate: too slow", latency=Latency(0.1), samples_s=(0.1,)).saved()
    assert (saved["status"], saved["latency"]["p50_s"]) == ("failed", 0.1)


def test_an_unmeasured_record_is_its_case_status_reason_and_test_alone():
    assert Record(CASE, "unsupported", "why", test="test_a.py::test[m]").saved() == {
        "id": "m-fp32-torch-b1-t1",
        "case": CASE.axes(),
        "status": "unsupported",
        "reason": "why",
        "test": "test_a.py::test[m]",
    }
