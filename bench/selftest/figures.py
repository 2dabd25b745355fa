"""What the figures say of known speed-ups.

a case against itself           its speed-up is 1: how often the 95% interval contains 1, and its width
an added slow-down of 2%        how often the verdict is slower
INT8 over FP32, run after run   the range of the speed-up, beside that of plain pytest-benchmark
two compared runs               how often equal runs differ, and whether an added slow-down of 3% in one case is named
                                alone
a grid of 40 cases              the share of the time that is sampling
a session that does nothing     what timing adds to a call."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.measure import measure
from bench.records.compare import compare
from bench.records.runs import Run
from bench.selftest.engines import INNER, PLANTED, PLANTED_SLOWER, SLOWED, SLOWER
from bench.spec.case import BASELINE, Case, Grid, baseline_of
from bench.spec.outcome import Speedup
from bench.timing.baseline import Shared
from bench.timing.builder import built_by
from bench.timing.prepare import prepare
from bench.timing.sampling import call_overhead_s

if TYPE_CHECKING:
    from bench.timing.settings import Bench

PLAIN = """
import json, os
import numpy, onnxruntime, pytest

FILES = json.loads(os.environ["BENCH_SELFTEST_FILES"])

@pytest.mark.parametrize("precision", ["fp32", "int8_static"])
def test_plain(benchmark, precision):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(FILES[precision], options, providers=["CPUExecutionProvider"])
    inputs = numpy.load(FILES["inputs"])["0"][:1]
    benchmark(session.run, None, {session.get_inputs()[0].name: inputs})
"""


def overhead(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say what timing adds to a call."""
    costs = [call_overhead_s() for _ in range(repeats)]
    say(f"timing a session that does nothing takes {1e9 * statistics.median(costs):.0f} ns a call")


def same(
    model: str, bench: Bench, repeats: int, say: Callable[[str], None], engine: str = INNER, device: str = "cpu"
) -> None:
    """Say how often the interval of a case against itself contains 1."""
    fp32 = Case(model, "fp32", engine, device=device)
    speedups = _speedups(fp32, fp32, bench, repeats)
    covered = sum(speedup.low <= 1 <= speedup.high for speedup in speedups)
    widths = [(speedup.high - speedup.low) / 2 / speedup.ratio for speedup in speedups]
    say(
        f"of {repeats} 95% intervals of a case against itself {covered} contain 1; "
        f"median half-width {statistics.median(widths):.2%}; called {_counted(speedups)}"
    )


def slowed(
    model: str, bench: Bench, repeats: int, say: Callable[[str], None], engine: str = INNER, device: str = "cpu"
) -> None:
    """Say how often the verdict on an added slow-down is slower."""
    fp32 = Case(model, "fp32", engine, device=device)
    speedups = _speedups(replace(fp32, engine=SLOWED), fp32, bench, repeats)
    mean = statistics.fmean(speedup.ratio for speedup in speedups)
    say(f"a slow-down of {SLOWER:.0%} put in, {repeats} times: called {_counted(speedups)}; mean ratio {mean:.4f}")


def ranged(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say how far the speed-up of INT8 over FP32 ranges from run to run, here and by plain pytest-benchmark."""
    fp32, int8 = Case(model, "fp32", INNER), Case(model, "int8_static", INNER)
    ours, plain = [], []
    for _ in range(repeats):
        ours += [speedup.ratio for speedup in _speedups(int8, fp32, bench, 1)]
        plain.append(_plain(fp32, int8, bench))
    say(f"INT8 over FP32 in {repeats} runs: {_range(ours)}; by plain pytest-benchmark beside it {_range(plain)}")


def compared(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say how often two runs of the same eight cases differ by `bench compare`, and how often it names an added
    slow-down of one case alone, or doubts it since the machine itself was slower.
    """
    cases = list(Grid(model, ["fp32", "int8_static"], INNER, [1, 2, 4, 8]))
    prepare([*cases, *(replace(case, engine=PLANTED) for case in cases)], bench)

    def run(planted: Case | None) -> Run:
        records = []
        with Shared(bench) as shared:
            for case in ordered:
                measured = replace(case, engine=PLANTED) if case == planted else case
                record = measure(measured, bench, replace(case, precision="fp32"), shared)
                if record.status != "ok":
                    raise BenchError(f"{measured.id} could not be measured: {record.reason}")
                records.append(replace(record, case=case))
        return Run(records)

    def called(before: Run, after: Run, where: str) -> tuple[list[str], list[str]]:
        changes = compare(before, [after])[0]
        changed = [change for change in changes if change.verdict in ("faster", "slower")]
        doubted = [change.case for change in changes if change.doubt is not None]
        lines = [f"{change.case} {change.verdict} {change.speedup.ratio:.3f}" for change in changed if change.speedup]
        lines += [f"{len(doubted)} in doubt, since control probes fell"] if doubted else []
        say(f"{where}: {'; '.join(lines) or 'nothing called'}")
        return [change.case for change in changed], doubted

    ordered = sorted(cases, key=lambda case: case.batch)  # those of one baseline beside each other
    before, alarms, named, doubtful = run(None), 0, 0, 0
    for number in range(repeats):
        after, planted = run(None), cases[number % len(cases)]
        alarms += bool(called(before, after, f"equal runs {number + 1} of {repeats}")[0])
        changed, doubted = called(after, run(planted), f"slowed {planted.id}")
        named += changed == [planted.id]
        doubtful += planted.id in doubted
        before = after
    say(
        f"of {repeats} pairs of runs of the same {len(cases)} cases {alarms} differ somewhere; a slow-down of "
        f"{PLANTED_SLOWER:.0%} in one case was named alone {named} of {repeats} times, doubted {doubtful} times"
    )


def grid(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say which share of the time is sampling, over a grid of 40 cases with all artefacts built."""
    threads = range(1, 1 + min(2, os.cpu_count() or 1))
    cases = list(Grid(model, ["fp32", "int8_static"], [INNER, "openvino"], [1, 2, 4, 8, 16], threads))
    pairs = sorted(((baseline_of(case, BASELINE), case) for case in cases), key=lambda pair: pair[0].id)
    prepare(itertools.chain(*pairs), bench)
    began, sampled_s = time.monotonic(), 0.0
    with Shared(bench) as shared:
        for baseline, case in pairs:
            record = measure(case, bench, baseline, shared)
            if record.status != "ok":
                raise BenchError(f"{case.id} could not be measured: {record.reason}")
            sampled_s += (record.spent and record.spent.sampled_s) or 0.0
    whole_s = time.monotonic() - began
    say(f"of {whole_s:.0f} s for {len(cases)} cases with warm caches {sampled_s / whole_s:.0%} were sampling")


@dataclass(frozen=True)
class _Measured:
    """A speed-up, both ends of its interval, and its verdict."""

    ratio: float
    low: float
    high: float
    verdict: str


def _speedups(case: Case, baseline: Case, bench: Bench, repeats: int) -> list[_Measured]:
    """The speed-ups of so many runs, each with fresh processes on both sides."""
    prepare([case, baseline], bench)
    speedups = []
    for _ in range(repeats):
        with Shared(bench) as shared:
            record = measure(case, bench, baseline, shared)
        speedup = record.speedup or Speedup()
        ratio, low, high, verdict = speedup.ratio, speedup.low, speedup.high, speedup.verdict
        if record.status != "ok" or ratio is None or low is None or high is None or verdict is None:
            reason = record.reason or speedup.reason or "a single launch has no interval"
            raise BenchError(f"{case.id} could not be measured: {reason}")
        speedups.append(_Measured(ratio, low, high, verdict))
    return speedups


def _plain(fp32: Case, int8: Case, bench: Bench) -> float:
    """The ratio of the two medians as pytest-benchmark finds them, one after the other in one process."""
    folders = {case.precision: built_by(case, bench) for case in (fp32, int8)}
    files = {precision: str(built.artifact / "model.onnx") for precision, built in folders.items()}
    files["inputs"] = str(folders["fp32"].reference / "inputs.npz")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "test_plain.py").write_text(PLAIN)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-json=plain.json"],
            cwd=place,
            env=os.environ | {"BENCH_SELFTEST_FILES": json.dumps(files)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BenchError(f"plain pytest-benchmark failed: {done.stdout.strip().splitlines()[-1]}")
        benchmarks = json.loads((Path(place) / "plain.json").read_text())["benchmarks"]
    medians = {test["params"]["precision"]: float(test["stats"]["median"]) for test in benchmarks}
    return medians["fp32"] / medians["int8_static"]


def _range(ratios: list[float]) -> str:
    spread = (max(ratios) - min(ratios)) / statistics.median(ratios)
    return f"{min(ratios):.3f} to {max(ratios):.3f}, a range of {spread:.2%}"


def _counted(speedups: list[_Measured]) -> str:
    verdicts = [speedup.verdict for speedup in speedups]
    return ", ".join(f"{name} {verdicts.count(name)}" for name in ("faster", "slower", "same", "ambiguous"))
