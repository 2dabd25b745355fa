"""Claims about worker processes, with an engine that breaks as told."""

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import questions
import toy  # noqa: F401 - registers the toy engine, model and data
from filelock import FileLock
from toy_compiler import COMPILING_S

from bench import Case, Recipe, engines, progress
from bench.engines.contradiction import contradiction
from bench.errors import BenchWarning, WorkerError
from bench.machine.interpreter import Interpreter
from bench.machine.noise import snapshot
from bench.measure import _warnings, identity, measure, still_holds
from bench.records.record import Record
from bench.spec.limits import Limits, Size
from bench.spec.outcome import ArtifactFacts, BaselineFacts, Calibration, Efficiency, Likeness, Process, Speedup, Steady
from bench.spec.registry import Origin
from bench.store import Store
from bench.timing.baseline import Shared
from bench.timing.builder import find
from bench.timing.prepare import prepare
from bench.timing.protocol import AskUsage, Opened
from bench.timing.sampling import Plan, Slice
from bench.timing.session import Energy
from bench.timing.settings import Bench
from bench.timing.worker import Patience, Worker, cpu_s

CASE = Case("linear", "fp32", "toy", batch=4)
ODD = Origin.of(questions.__name__)
QUICK = Plan(least_launches=1, most_launches=1, pass_s=0.03, slice_s=0.001)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("cache"), plan=QUICK, timeout_s=60.0)


def test_a_case_goes_the_whole_line_and_tells_what_came_of_it(bench):
    record = measure(CASE, bench)
    assert record.status == "ok", record.reason
    assert record.quality == {"top1": 1.0}
    assert (record.judged.n, record.judged.dataset, record.judged.weights) == (50, "clouds", "as made")
    assert record.judged.dataset_s > 0
    assert record.fidelity["agreement"] == 1.0
    assert record.fidelity["sqnr_db"] > 100
    assert len(record.samples_s) >= 30
    assert record.speedup is None
    drop = record.drop["top1"]
    assert [drop.low, drop.value, drop.high] == pytest.approx([-0.037, 0.0, 0.037], abs=0.01)
    assert record.efficiency.macs_per_item == 3 * 2
    assert 0 < record.efficiency.share_of_peak < 0.01
    assert record.efficiency.gops / record.efficiency.peak_gops == record.efficiency.share_of_peak
    assert record.noise.verdict in ("steady", "noisy")
    assert len(record.noise.probes) == 3  # before each of two passes and after
    assert record.process.versions.keys() == {"numpy", "python"}
    assert 0 < record.process.call_overhead_s < 1e-4
    assert 0 < record.spent.sampled_s < record.spent.whole_s
    assert record.latency.p50_s == pytest.approx(statistics.median(record.samples_s))
    assert record.latency.calls_per_sample > 1  # the toy's calls are too short to be timed one by one
    assert record.latency.p90_s is None
    assert record.first_call_cold_s is None
    assert record.throughput_items_per_s == pytest.approx(4 * len(record.samples_s) / sum(record.samples_s))
    assert record.first_call_s > 0
    assert record.peak_rss_bytes > 10e6
    artifact, reference = find(CASE, bench)
    assert record.artifact == ArtifactFacts(
        digest=artifact.digest, bytes=artifact.bytes, format="json", reference=reference.digest
    )


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


def test_an_engine_that_writes_into_its_input_is_a_failed_case(bench, monkeypatch):
    prepare([CASE], bench)
    monkeypatch.setenv("TOY_FAULT", "writes")
    record = measure(CASE, bench)
    assert record.status == "failed"
    assert record.reason.startswith("toy writes into the array that it is called with, so that times would be of other")


def computes_int8(monkeypatch):
    """Let the toy say that it computes in INT8."""
    monkeypatch.setattr(engines.get("toy"), "supports", lambda recipe, device: None)
    monkeypatch.setattr(engines.get("toy"), "formats", ("fp32", "int8"))
    monkeypatch.setattr(engines.get("toy"), "activations", ("static",))


def test_the_inputs_that_int8_was_calibrated_with_are_on_record_and_too_few_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "coarse")
    computes_int8(monkeypatch)
    for _ in range(2):  # the second takes what the first has built
        record = measure(dataclasses.replace(CASE, precision="int8_static"), Bench(tmp_path, plan=QUICK))
        assert record.calibration == Calibration(asked=256, used=50)
        assert "calibrated with 50 inputs where 256 were asked for" in record.warnings


def test_a_strip_of_pictures_that_cannot_be_drawn_is_a_warning(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from bench import Samples
    from bench.tasks import tasks
    from bench.timing import evaluation

    monkeypatch.setattr(tasks.get("classification"), "shown", lambda *what: {"original": "no picture"}, raising=False)
    session = SimpleNamespace(case=CASE, source=SimpleNamespace(model=SimpleNamespace(task="classification")))
    names, warnings = evaluation._pictures(str(tmp_path), session, Samples([0], [0]), [0], [0])
    assert names == []
    assert len(warnings) == 1
    assert warnings[0].startswith("no strip of pictures: AttributeError: ")


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


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="this system has no sessions")
@pytest.mark.parametrize("ending", ["closed", "killed", "orphan"])
def test_what_a_worker_started_in_a_session_of_its_own_ends_with_it_and_holds_nothing_up(monkeypatch, ending):
    monkeypatch.setenv("ODD", ending)
    worker = Worker({}, [ODD])
    pid = worker.ask(questions.Odd(), 60.0)
    left = psutil.Process(pid)
    assert os.getsid(pid) == pid
    if ending == "killed":
        psutil.Process(worker.pid).kill()
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 60  # without an end of its own it was for ever
    assert psutil.wait_procs([left], timeout=20)[1] == []


def test_a_worker_that_tells_its_progress_may_take_longer_than_the_limit():
    patience = Patience(idle_s=10.0, busy_s=300.0, now_s=0.0)
    for now_s in range(9, 1000, 9):
        assert patience.lost(now_s, 0.0) is None
        patience.told(now_s)
    assert patience.lost(now_s + 9.9, 0.0) is None
    assert patience.lost(now_s + 10.0, 0.0) == "within 10 s without using the CPU"


def test_a_worker_that_computes_may_take_longer_than_the_limit_but_not_for_ever():
    patience = Patience(idle_s=10.0, busy_s=300.0, now_s=0.0)
    for now_s in range(1, 300):
        assert patience.lost(now_s, used_s=0.5 * now_s) is None
    assert patience.lost(300, 150.0) == "within 300 s of using the CPU"


def test_a_worker_that_hangs_uses_too_little_to_be_alive():
    patience = Patience(idle_s=10.0, busy_s=300.0, now_s=0.0)
    for now_s in range(1, 10):
        assert patience.lost(now_s, used_s=0.01 * now_s) is None
    assert patience.lost(10, 0.1) == "within 10 s without using the CPU"


def test_where_computing_is_no_sign_of_life_the_limit_holds_as_it_is():
    patience = Patience(idle_s=10.0, busy_s=10.0, now_s=0.0)
    assert patience.look_s(0.0) == 10.0
    assert patience.lost(10.0, used_s=10.0) == "within 10 s"


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("sleeps", r"no answer to 'odd' within 2 s without using the CPU; it was killed"),
        ("computes", r"no answer to 'odd' within 6 s of using the CPU; it was killed"),
        ("closes", r"the worker closed its answers while it answered 'odd'; it was killed"),
        ("tells", None),
    ],
)
def test_a_build_is_given_up_where_it_neither_computes_nor_tells(monkeypatch, does, reason):
    monkeypatch.setenv("ODD", does)
    with Worker({}, [ODD]) as worker:
        worker.ask(AskUsage(), 60.0)
        if reason is None:
            assert worker.ask(questions.Odd(), 2.0, busy=3) == "done"
        else:
            with pytest.raises(WorkerError, match=reason):
                worker.ask(questions.Odd(), 2.0, busy=3)


def test_the_cpu_time_of_what_a_process_started_counts():
    spin = "import time\nwhile time.process_time() < 1: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        used_s = 0.0
        while process.poll() is None:
            used_s = max(used_s, cpu_s(process.pid))
            time.sleep(0.05)
    assert used_s > 0.5
    assert cpu_s(process.pid) == 0.0


def test_a_worker_for_probes_that_died_is_replaced(bench):
    with Shared(bench) as shared:
        assert shared.probe(1)
        psutil.Process(shared._probes[1].pid).kill()
        assert shared.probe(1)
        assert measure(CASE, bench, shared=shared).status == "ok"


def test_baseline_sessions_that_died_between_two_cases_are_replaced(bench):
    paired = dataclasses.replace(bench, plan=Plan(least_launches=2, most_launches=2, pass_s=0.03, budget_s=0.1))
    with Shared(paired) as shared:
        assert measure(CASE, paired, CASE, shared).speedup.launches == 2
        psutil.Process(shared._sessions[1].pid).kill()
        while shared._sessions[1].alive:
            time.sleep(0.01)
        record = measure(CASE, paired, CASE, shared)
    assert record.speedup.launches == 2
    assert record.speedup.first == 2


def test_a_process_that_died_has_no_part_in_what_the_machine_did():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert snapshot([process.pid]).own_s > 0


def test_what_an_engine_compiles_is_timed_once_with_nothing_kept_and_then_with_all_kept(bench):
    case, kept = dataclasses.replace(CASE, engine="toy_compiling"), bench.cache / "compiled"
    first = measure(case, bench)
    assert first.status == "ok", first.reason
    assert first.first_call_cold_s > COMPILING_S  # it sleeps for so long
    (made,) = kept.glob("*/made")
    written = made.stat().st_mtime_ns
    again = measure(case, bench)
    assert again.first_call_cold_s == first.first_call_cold_s
    assert made.stat().st_mtime_ns == written
    assert measure(dataclasses.replace(case, batch=2), bench).first_call_cold_s > COMPILING_S  # a case of its own
    assert len(list(kept.glob("*/made"))) == 2
    (made.parent / "first_call.json").unlink()  # as a session leaves it that is killed while it compiles
    assert measure(case, bench).first_call_cold_s > COMPILING_S
    assert made.stat().st_mtime_ns > written


def test_a_pace_above_the_peak_is_said():
    opened = Opened(0.1, 0.1, Steady(steady=True), 1, {}, {}, 1e-7, writes_input=False)
    paces = [Efficiency(share_of_peak=share, peak_by="a product") for share in (None, 1.0, 1.15)]
    lines = [[line for line in _warnings(CASE, Process(), opened, pace) if "pace" in line] for pace in paces]
    assert [len(some) for some in lines] == [0, 0, 1]
    assert lines[2][0].startswith("its pace is 115% of the best that products and convolutions reach here, a product")


def test_energy_is_that_of_the_slices_which_have_it():
    energy = Energy()
    for joules, calls in ((2.0, 4), (None, 100), (-3.0, 100), (1.0, 2)):
        energy.add(Slice(0.001, [0.001], calls, joules))
    assert energy.per_call_j == 0.5
    assert Energy().per_call_j is None


def test_a_session_that_waits_for_another_ones_build_tells_so(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(progress, "_sink", lambda *message: told.append(message))
    monkeypatch.setattr(progress, "TELL_S", 0.05)
    other = FileLock(tmp_path / "x.lock", thread_local=False)
    other.acquire()
    with ThreadPoolExecutor(1) as pool:

        def hold():
            with progress.waited(FileLock(tmp_path / "x.lock"), "waiting"):
                return len(told)

        held = pool.submit(hold)
        while not told:
            time.sleep(0.01)
        assert not held.done()
        other.release()
        assert held.result() >= 1
    assert told[0] == ("waiting", 0, 1)


def test_a_peak_that_cannot_be_measured_is_told_once_and_costs_no_case(tmp_path, monkeypatch):
    with Shared(Bench(tmp_path, timeout_s=60.0)) as shared:
        monkeypatch.setattr("bench.timing.baseline.Worker", Unable)
        with pytest.warns(BenchWarning, match="the peak of 1 threads is not measured: it broke"):
            assert shared.peak(1, "fp32", 1.0) is None
        assert shared.peak(1, "fp32", 1.0) is None


class Unable:
    """A worker that breaks at each question."""

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, *arguments, **facts):
        raise WorkerError("it broke")


def test_an_artefact_that_cannot_be_built_is_a_failed_case_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "build")
    bench = Bench(tmp_path, plan=QUICK)
    prepare([CASE], bench)
    record = measure(CASE, bench)
    assert (record.status, record.reason) == (
        "failed",
        "fp32 could not be built: ValueError: the toy cannot build this",
    )


def test_outputs_that_are_not_numbers_fail_with_that_reason(bench, monkeypatch):
    monkeypatch.setenv("TOY_FAULT", "nan")
    record = measure(CASE, bench)
    assert (record.status, record.reason) == ("failed", "the outputs hold NaN or infinity")


def test_outputs_that_belie_the_precision_are_a_failed_case(tmp_path, monkeypatch):
    bench = Bench(tmp_path, plan=QUICK)
    monkeypatch.setenv("TOY_FAULT", "coarse")
    record = measure(CASE, bench)
    assert record.status == "failed"
    assert record.reason.endswith("dB of the FP32 reference's: this was not computed in FP32")

    monkeypatch.delenv("TOY_FAULT")
    computes_int8(monkeypatch)
    record = measure(dataclasses.replace(CASE, precision="int8_static"), bench)
    assert record.status == "failed"
    assert record.reason.endswith("dB: nothing was computed in int8")


def test_only_a_network_that_was_rewritten_may_leave_fp32_behind():
    pruned = Recipe("pruned", "fp32", rewrite=lambda network: network)
    assert contradiction(pruned, Likeness(20.0)) is None
    assert contradiction(Recipe("fp32", "fp32"), Likeness(20.0)) is not None
    assert contradiction(Recipe("fp32", "fp32"), Likeness(130.0)) is None
    assert contradiction(Recipe("int8", "int8"), Likeness(30.0)) is None
    assert contradiction(Recipe("int8", "int8"), Likeness(float("inf"))) is not None


def test_a_suspended_worker_uses_no_cpu_and_ends_with_its_session(bench, tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import toy
from bench import Case
from bench.timing.settings import Bench
from bench.timing.builder import built_by
from bench.timing.session import WorkerSession
bench = Bench(Path({str(bench.cache)!r}))
case = Case("linear", "fp32", "toy", batch=4)
session = WorkerSession(case, bench, built_by(case, bench))
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
    assert record.artifact.digest == artifact.digest


def test_a_second_session_finds_what_the_first_has_built(tmp_path):
    bench = Bench(tmp_path, plan=QUICK)
    prepare([CASE], bench)
    told = []
    prepare([CASE], bench, lambda *progress: told.append(progress))
    assert told == []
    assert len(list((Store(bench.cache).root / "artifact").glob("*/toy.json"))) == 1


def test_a_record_holds_beside_its_baseline_alone_and_only_for_the_same_artefact_and_data(bench):
    prepare([CASE], bench)
    artifact, reference = find(CASE, bench)
    baseline = dataclasses.replace(CASE, batch=1)
    facts = ArtifactFacts(digest=artifact.digest, reference=reference.digest)
    record = Record(CASE, "ok", artifact=facts, speedup=Speedup(BaselineFacts(baseline)))
    assert still_holds(record, CASE, baseline, bench)
    assert not still_holds(record, CASE, CASE, bench)
    assert not still_holds(record, baseline, baseline, bench)
    assert not still_holds(dataclasses.replace(record, speedup=None), CASE, baseline, bench)
    for name in ("digest", "reference"):
        changed = dataclasses.replace(record, artifact=dataclasses.replace(facts, **{name: "other"}))
        assert not still_holds(changed, CASE, baseline, bench)


def test_runs_are_alike_only_where_what_shapes_a_record_is_the_same(bench):
    known = identity(bench)
    assert identity(dataclasses.replace(bench, timeout_s=1.0)) == known  # a limit changes nothing in what was measured
    for other in (
        {"plan": Plan()},
        {"data": bench.cache},
        {"explain": True},
        {"limits": Limits(drop=0.5)},
        {"limits": Limits(size=Size(share=0.1))},
        {"memory_bytes": 1 << 40},
        {"pictures": bench.cache},
    ):
        assert identity(dataclasses.replace(bench, **other)) != known
    here, newer = (Interpreter("3.12.0", "/there", {"torch": version}, {}) for version in ("2.8.0", "2.9.1"))
    assert len({str(identity(bench, one)["baseline_python"]) for one in (None, here, newer)}) == 3
