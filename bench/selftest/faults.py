"""What the harness does when a worker or a session breaks.

a broken worker     each fault gives a failed case with the right reason; the session goes on
a killed session    the journal holds all finished cases, a resumed run is whole, no worker is left."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.measure import measure
from bench.records.journal import read
from bench.selftest.engines import BROKEN, FAULT, INNER
from bench.spec.case import Case
from bench.timing.builder import origins
from bench.timing.prepare import prepare
from bench.timing.sampling import QUICK

if TYPE_CHECKING:
    from bench.timing.settings import Bench

REASONS = {
    "segfault": r"the worker was ended by signal 11 while it answered 'open'",
    "exit": r"the worker exited with status 7 while it answered 'open'",
    "hang": r"no answer to 'open' within \d+ s; it was killed",
    "memory": r"open: .*(MemoryError|cannot allocate|Unable to allocate)",
    "flood": r"open: RuntimeError: the flood is over",
    "rubbish": r"the worker answered 'open' with rubbish, 'rubbish",
}
LIMIT_BYTES = 8_000_000_000
HUNG_S = 10.0
GONE_S = 10.0
MARK = "BENCH_SELFTEST_MARK"

CONFTEST = """
import json
from bench.spec.registry import Origin

for origin in json.loads({origins!r}):
    Origin(**origin).load()
"""
SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(
    Grid({model!r}, ["fp32", "int8_static"], {engine!r}, [1, 2, 3], baseline=dict(engine={engine!r}, precision="fp32"))
)
def test_killed(case, measure):
    measure(case)
"""


def broken(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say which faults of a worker give a failed case with the right reason, and the status of the next case."""
    case = Case(model, "fp32", BROKEN)
    prepare([case], bench)
    limited = replace(bench, plan=QUICK, timeout_s=HUNG_S, memory_bytes=LIMIT_BYTES)
    right = 0
    for fault, reason in REASONS.items():
        with environment({FAULT: fault}):
            record = measure(case, limited)
        expected = record.status == "failed" and re.match(reason, record.reason or "") is not None
        right += expected
        say(f"{'right' if expected else 'WRONG'}: {fault}: {record.status}: {(record.reason or '')[:100]}")
    after = measure(case, limited).status
    say(f"{right} of {len(REASONS)} faults are failed cases with their reason; the next: {after}")


def killed(model: str, bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Say what runs killed at random moments leave behind; every third run begins with an empty cache of artefacts."""
    prepare([Case(model, precision, INNER) for precision in ("fp32", "int8_static")], bench)
    lasts_s: dict[bool, float] = {}
    finished = lost = left = whole = 0
    for trial in range(repeats + 2):
        cold = trial % 3 == 1
        with tempfile.TemporaryDirectory() as place:
            run = Run(Path(place), model, bench, cold)
            if cold not in lasts_s:  # the first of each kind is not killed, but timed
                began = time.monotonic()
                run.start().wait()
                lasts_s[cold] = time.monotonic() - began
                run.saved()
                continue
            run.kill_after(random.uniform(0.0, lasts_s[cold]))
            passed, journaled, ended = run.passed(), run.journaled(), run.ended()
            finished += len(passed)
            lost += len(passed - journaled.keys())
            left += run.workers_left()
            code = run.start("--bench-resume").wait()
            saved = run.saved() if code == 0 else {}
            # a run that had ended when it was to be killed leaves nothing to take over
            kept = ended or all(saved.get(node) == samples for node, samples in journaled.items())
            whole += len(saved) == 6 and kept and "was changed" not in run.said()
    say(
        f"{repeats} sessions killed at random moments: of {finished} finished cases {lost} were lost, "
        f"{left} workers were left, {whole} of {repeats} resumed runs were whole"
    )


class Run:
    """A pytest session on a small grid in a folder and with a cache of its own."""

    def __init__(self, place: Path, model: str, bench: Bench, cold: bool) -> None:
        self._place, self._mark = place, uuid.uuid4().hex
        self._cache = place / "cache"
        kinds = ["network", "weights", "reference", *([] if cold else ["artifact"])]
        for kind in kinds:
            shutil.copytree(bench.cache / kind, self._cache / kind)
        registered = json.dumps([asdict(origin) for origin in origins()])
        (place / "conftest.py").write_text(CONFTEST.format(origins=registered))
        (place / "test_killed.py").write_text(SUITE.format(model=model, engine=INNER))
        data = [] if bench.data is None else [f"--bench-data={bench.data}"]
        self._command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--bench-quick", *data]
        self._command += [f"--bench-cache={self._cache}", "--benchmark-json=run.json"]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the session; what it says goes to a file."""
        with (self._place / "said.txt").open("wb") as said:
            return subprocess.Popen(
                [*self._command, *options],
                cwd=self._place,
                env=os.environ | {MARK: self._mark, "PYTHONUNBUFFERED": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def kill_after(self, seconds: float) -> None:
        """Start it, and end it by signal 9 after so long."""
        process = self.start()
        time.sleep(seconds)
        process.kill()
        process.wait()

    def said(self) -> str:
        """What the last start printed."""
        return (self._place / "said.txt").read_text(errors="replace")

    def passed(self) -> set[str]:
        """The tests that it printed as passed."""
        return set(re.findall(r"^(\S+::\S+) PASSED", self.said(), re.MULTILINE))

    def journaled(self) -> dict[str, tuple[float, ...]]:
        """The samples of each test that is in the journal."""
        lines = [line for path in sorted((self._cache / "journal").glob("*/*.jsonl")) for line in read(path)]
        return {line.node: line.record.samples_s for line in lines if line.record is not None}

    def ended(self) -> bool:
        """Whether the session has marked its journal as that of a run that ended."""
        return any(line.end for path in (self._cache / "journal").glob("*/*.jsonl") for line in read(path))

    def saved(self) -> dict[str, tuple[float, ...]]:
        """The samples of each test that is in the saved run. Raises BenchError where there is none."""
        try:
            run = json.loads((self._place / "run.json").read_text())
        except (OSError, ValueError):
            last = (self.said().strip().splitlines() or ["nothing"])[-1]
            raise BenchError(f"the session saved no run; it said: {last}") from None
        return {test["fullname"]: tuple(test["stats"]["data"]) for test in run["benchmarks"]}

    def workers_left(self) -> int:
        """How many processes of the session are still there after 10 s."""
        until = time.monotonic() + GONE_S
        while (count := self._alive()) and time.monotonic() < until:
            time.sleep(0.1)
        return count

    def _alive(self) -> int:
        import psutil

        environments = (process.info["environ"] or {} for process in psutil.process_iter(["environ"]))
        return sum(environment.get(MARK) == self._mark for environment in environments)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Put variables over this process's environment meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
