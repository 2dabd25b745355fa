"""Claims about worker processes, with an engine that breaks as told."""

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy  # noqa: F401 - registers the toy engine, model and data

from bench import Case, Recipe, engines
from bench.artifact import Store
from bench.errors import BenchWarning
from bench.interpreter import Interpreter
from bench.measure import contradiction, identity, measure, prepare, still_holds
from bench.record import Record
from bench.sampling import Plan
from bench.session import Bench, find

CASE = Case("linear", "fp32", "toy", batch=4)
QUICK = Plan(least_launches=1, most_launches=1, pass_s=0.03, slice_s=0.001)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("cache"), plan=QUICK, timeout_s=60.0)


def test_a_case_goes_the_whole_line_and_tells_what_came_of_it(bench):
    record = measure(CASE, bench)
    assert record.status == "ok", record.reason
    assert record.quality.pop("dataset_s") > 0
    assert record.quality == {"top1": 1.0, "n": 50, "dataset": "clouds", "weights": "as made"}
    assert record.fidelity["agreement"] == 1.0
    assert record.fidelity["sqnr_db"] > 100
    assert len(record.samples_s) >= 30
    assert record.speedup == {}
    assert record.drop == {
        "top1": {"low": pytest.approx(-0.037, abs=0.01), "value": 0.0, "high": pytest.approx(0.037, abs=0.01)}
    }
    assert record.efficiency["macs_per_item"] == 3 * 2
    assert record.noise["verdict"] in ("steady", "noisy")
    assert len(record.noise["probes"]) == 3  # before each of two passes and after
    assert record.process["versions"].keys() == {"numpy", "python"}
    assert 0 < record.process["call_overhead_s"] < 1e-4
    assert 0 < record.spent["sampled_s"] < record.spent["whole_s"]
    assert record.latency["p50_s"] == pytest.approx(statistics.median(record.samples_s))
    assert record.latency["p90_s"] is not None
    assert record.throughput_items_per_s == pytest.approx(4 * len(record.samples_s) / sum(record.samples_s))
    assert record.first_call_s > 0
    assert record.peak_rss_bytes > 10e6
    artifact, reference = find(CASE, bench)
    known = {"digest": artifact.digest, "bytes": artifact.bytes, "format": "json", "left_in_fp32": []}
    assert record.artifact == known | {"reference": reference.digest}


def test_what_an_engine_cannot_is_unsupported_with_its_reason(bench):
    record = measure(dataclasses.replace(CASE, precision="bf16"), bench)
    assert (record.status, record.reason) == ("unsupported", "the toy engine computes in FP32 only")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("exit", "the worker exited with status 7 while it answered 'open'"),
        ("signal", "the worker was ended by signal 6 while it answered 'open'"),
        ("raise", "open: RuntimeError: the toy is broken"),
        ("flood", "the worker exited with status 3 while it answered 'open'; its last lines: "),
    ],
)
def test_a_worker_that_breaks_is_a_failed_case_with_its_reason(bench, monkeypatch, fault, reason):
    prepare([CASE], bench)
    monkeypatch.setenv("TOY_FAULT", fault)
    record = measure(CASE, bench)
    assert record.status == "failed"
    assert record.reason.startswith(reason)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_worker_that_wants_more_memory_than_it_may_have_is_a_failed_case(bench, monkeypatch):
    prepare([CASE], bench)
    monkeypatch.setenv("TOY_FAULT", "memory")
    record = measure(CASE, dataclasses.replace(bench, memory_bytes=4_000_000_000))
    assert record.reason.startswith("open: MemoryError: Unable to allocate 8.00 GiB")


def test_the_last_lines_of_a_worker_that_died_are_in_its_reason(bench, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "exit")
    assert measure(CASE, bench).reason.endswith("its last lines: a library prints on standard output")


def test_a_worker_that_hangs_is_given_up(bench, monkeypatch):
    prepare([CASE], bench)
    monkeypatch.setenv("TOY_FAULT", "hang")
    record = measure(CASE, dataclasses.replace(bench, timeout_s=10.0))
    assert record.status == "failed"
    assert "no answer to 'open' within 10 s; it was killed" in record.reason


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_what_a_library_forks_in_a_worker_ends_with_it(bench, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "fork")
    monkeypatch.setenv("TOY_MARK", str(bench.cache))
    assert measure(CASE, bench).status == "ok"
    environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    assert str(bench.cache) not in [environment.get("TOY_MARK") for environment in environments]


def test_an_artefact_that_cannot_be_built_is_a_failed_case_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "build")
    bench = Bench(tmp_path, plan=QUICK)
    prepare([CASE], bench)
    record = measure(CASE, bench)
    assert (record.status, record.reason) == (
        "failed",
        "fp32 could not be built: ValueError: the toy cannot build this",
    )


def test_outputs_that_are_not_numbers_are_right_for_nothing_and_saved_as_null(bench, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "nan")
    record = measure(CASE, bench)
    assert record.quality["top1"] == 0.0
    assert record.saved()["fidelity"]["sqnr_db"] is None


def test_outputs_that_belie_the_precision_are_a_failed_case(tmp_path, monkeypatch):
    bench = Bench(tmp_path, plan=QUICK)
    monkeypatch.setenv("TOY_FAULT", "coarse")
    record = measure(CASE, bench)
    assert record.status == "failed"
    assert record.reason.endswith("dB of FP32 PyTorch's: this was not computed in FP32")

    monkeypatch.delenv("TOY_FAULT")
    monkeypatch.setattr(engines.get("toy"), "supports", lambda recipe, device: None)
    record = measure(dataclasses.replace(CASE, precision="int8_static"), bench)
    assert record.status == "failed"
    assert record.reason.endswith("dB: nothing was computed in int8")


def test_only_a_network_that_was_rewritten_may_leave_fp32_behind():
    pruned = Recipe("pruned", "fp32", rewrite=lambda network: network)
    assert contradiction(pruned, 20.0) is None
    assert contradiction(Recipe("fp32", "fp32"), 20.0) is not None
    assert contradiction(Recipe("fp32", "fp32"), 130.0) is None
    assert contradiction(Recipe("int8", "int8"), 30.0) is None
    assert contradiction(Recipe("int8", "int8"), float("inf")) is not None


def test_a_suspended_worker_uses_no_cpu_and_ends_with_its_session(bench, tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import toy
from bench import Case
from bench.session import Bench, Session, built_by
bench = Bench(Path({str(bench.cache)!r}))
case = Case("linear", "fp32", "toy", batch=4)
session = Session(case, bench, built_by(case, bench))
session.open()
session.take(0.01)
print(session.pid, flush=True)
time.sleep(600)
"""
    prepare([CASE], bench)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        try:
            worker = psutil.Process(int(parent.stdout.readline()))
            until = time.monotonic() + 20
            while worker.status() != psutil.STATUS_STOPPED:  # a signal takes its time on a busy machine
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            parent.kill()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()


def test_a_damaged_artefact_is_built_again(bench):
    prepare([CASE], bench)
    artifact, _ = find(CASE, bench)
    (artifact.folder / "toy.json").write_text("{")
    with pytest.warns(BenchWarning, match="toy.json was changed"):
        record = measure(CASE, bench)
    assert record.artifact["digest"] == artifact.digest


def test_a_second_session_finds_what_the_first_has_built(bench, monkeypatch):
    prepare([CASE], bench)
    told = []
    prepare([CASE], bench, lambda *progress: told.append(progress))
    assert told == []
    assert len(list((Store(bench.cache).root / "artifact").glob("*/toy.json"))) == 1


def test_a_record_holds_beside_its_baseline_alone_and_only_for_the_same_artefact_and_data(bench):
    prepare([CASE], bench)
    artifact, reference = find(CASE, bench)
    baseline = dataclasses.replace(CASE, batch=1)
    facts = {"digest": artifact.digest, "reference": reference.digest}
    record = Record(CASE, "ok", artifact=facts, speedup={"baseline": {"case": baseline.axes()}})
    assert still_holds(record, CASE, baseline, bench)
    assert not still_holds(record, CASE, CASE, bench)
    assert not still_holds(record, baseline, baseline, bench)
    assert not still_holds(dataclasses.replace(record, speedup={}), CASE, baseline, bench)
    for name in facts:
        changed = dataclasses.replace(record, artifact=facts | {name: "other"})
        assert not still_holds(changed, CASE, baseline, bench)


def test_runs_are_alike_only_where_what_shapes_a_record_is_the_same(bench):
    known = identity(bench)
    assert identity(dataclasses.replace(bench, timeout_s=1.0)) == known  # a limit changes nothing in what was measured
    for other in (
        {"plan": Plan()},
        {"data": bench.cache},
        {"explain": True},
        {"most_drop": 0.5},
        {"memory_bytes": 1 << 40},
        {"pictures": bench.cache},
    ):
        assert identity(dataclasses.replace(bench, **other)) != known
    here, newer = (Interpreter("3.12.0", "/there", {"torch": version}, {}) for version in ("2.8.0", "2.9.1"))
    assert len({str(identity(bench, one)["baseline_python"]) for one in (None, here, newer)}) == 3
