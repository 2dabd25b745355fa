"""The one room where everything meets: from a case to its record.

    Case -> supported? -> artefact -> launches of two workers, case and baseline in turn -> speed-up, quality -> Record

It knows no pytest; the plugin asks it for one case at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import build
from bench.artifact import Artifact, Store
from bench.case import Case
from bench.dataset import datasets
from bench.engines import engines
from bench.errors import BaselineError, BenchError, CacheError
from bench.machine import cores_for, energy_j
from bench.model import models, source
from bench.noise import Watch, snapshot
from bench.recipe import Recipe, recipes
from bench.record import Record
from bench.registry import Origin
from bench.sampling import Launch, Plan, Slice, paired
from bench.statistics import CONFIDENCE, Interval, latency, speedup_interval, verdict
from bench.worker import Worker

NOT_LOWERED_DB = 90.0
NOT_FP32_DB = 60.0


@dataclass(frozen=True)
class Bench:
    """Where a session measures: the cache and data folders, how long to sample, when to give a worker up.

    cache            root of the artefact store.
    data             the user's data folder, None for embedded data.
    timeout_s        the longest that one question to a worker may take; building has ten times as long.
    baseline_python  the interpreter of the baselines' workers, None for this one.
    memory_bytes     the most private memory a worker may have, None for no limit.
    """

    cache: Path
    data: Path | None = None
    plan: Plan = field(default_factory=Plan)
    timeout_s: float = 120.0
    baseline_python: str | None = None
    memory_bytes: int | None = None

    @property
    def store(self) -> Store:
        """The artefact store of the session."""
        return Store(self.cache)


def check(case: Case, data: Path | None) -> None:
    """Raise UnknownMember where an axis names nothing registered, DataError where the case's data are not there."""
    engines.get(case.engine)
    recipes.get(case.precision)
    source(models.get(case.model), data)


def identity(bench: Bench) -> dict[str, Any]:
    """What must be equal for a case measured in another run to stand in this one: code, machine, versions, options."""
    from bench.machine import describe

    files = [*Path(__file__).parent.rglob("*.py"), *(Path(origin.file) for origin in _origins())]
    return {
        "code": sorted(build.source_digest(file) for file in files),
        "machine": describe(),
        "plan": asdict(bench.plan),
        "bench": [str(bench.cache), str(bench.data), bench.baseline_python, bench.memory_bytes],
    }


def still_holds(record: Record, bench: Bench) -> bool:
    """Whether what a record measured is what would be measured now: the same artefact."""
    built = find(record.case, bench)
    return built is not None and built[0].digest == record.artifact["digest"]


def unsupported(case: Case) -> str | None:
    """Give the reason why the case cannot be measured on this machine, None where it can."""
    engine = engines.get(case.engine)
    return engine.missing() or engine.supports(recipes.get(case.precision), case.device)


def find(case: Case, bench: Bench, make: bool = False) -> tuple[Artifact, Artifact] | None:
    """The case's artefact and the reference outputs it is judged by, None where either is yet to be built."""
    chosen = source(models.get(case.model), bench.data)
    reference = build.reference(bench.store, chosen, make)
    artifact = None if reference is None else build.artifact(bench.store, chosen, case.engine, case.precision, make)
    return None if artifact is None or reference is None else (artifact, reference)


def prepare(cases: Iterable[Case], bench: Bench, told: Callable[[str, int, int], None] | None = None) -> None:
    """Build what is missing for the cases, in one worker process, so that nothing is built while something is timed.

    told  gets (label, done, total) as the work goes on. A case that cannot be built is passed over here: `measure`
    tries it once more and makes the reason its record's.
    """
    wanted = {(case.model, case.engine, case.precision): case for case in cases if unsupported(case) is None}
    missing = [case for case in wanted.values() if find(case, bench) is None]
    worker = None
    for done, case in enumerate(missing):
        if told is not None:
            told(f"building {case.model} {case.precision} for {case.engine}", done, len(missing))
        worker = worker or _worker(case, bench, os.cpu_count() or 1, told)
        try:
            worker.ask("build", 10 * bench.timeout_s, **_facts(case, bench))
        except CacheError:
            worker.close()
            raise
        except BenchError:
            worker.close()
            worker = None
    if worker is not None:
        worker.close()
        if told is not None:
            told("built", len(missing), len(missing))


@dataclass
class Energy:
    """Adds up what a case's slices used, where the system tells."""

    joules: float = 0.0
    calls: int = 0

    def add(self, before_j: float | None, after_j: float | None, calls: int) -> None:
        """Count one slice; one in which the counter wrapped around, or which has none, is left out."""
        if before_j is not None and after_j is not None and after_j >= before_j:
            self.joules += after_j - before_j
            self.calls += calls

    @property
    def per_call_j(self) -> float | None:
        """Joules a call, None where nothing could be read."""
        return self.joules / self.calls if self.calls else None


class Session:
    """A worker with an engine session, once it is open suspended but for its turns; a Side of `paired`."""

    def __init__(
        self,
        case: Case,
        bench: Bench,
        artifact: str,
        python: str = sys.executable,
        energy: Energy | None = None,
    ) -> None:
        self._energy = energy
        self.case, self._bench = case, bench
        self._facts = _facts(case, bench)
        self._artifact = artifact
        self._worker = _worker(case, bench, case.threads, python=python)
        self.opened: dict[str, Any] = {}

    def open(self) -> None:
        """Load, call until it is steady, and stand by."""
        self.opened = self.ask("open", artifact=self._artifact, cores=cores_for(self.case.threads))
        self._worker.suspend()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds, while all other sessions are suspended."""
        before = energy_j()
        taken = Slice(**self.ask("slice", seconds=seconds))
        if self._energy is not None:
            self._energy.add(before, energy_j(), taken.calls)
        self._worker.suspend()
        return taken

    @property
    def pid(self) -> int:
        """The worker's process number."""
        return self._worker.pid

    def ask(self, question: str, **facts: Any) -> Any:
        """Ask the worker; it goes on after the answer."""
        return self._worker.ask(question, self._bench.timeout_s, **facts, **self._facts)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


def open_all(sessions: list[Session]) -> None:
    """Open sessions side by side, as many as there are CPUs at a time; nothing is being measured meanwhile."""
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        for opened in [pool.submit(session.open) for session in sessions]:
            opened.result()


class Shared:
    """What the cases of a session share: the sessions of their baseline, one for each launch, and the control probes.

    Each baseline session is a process of its own, so what differs from process to process is in every case's interval;
    that the cases share them saves starting them anew. Another baseline's sessions take their place. All are suspended
    but for their turns. Use it as a context manager.

    best  the best figure of each probe so far, by the number of threads.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._probes: dict[int, Worker] = {}
        self.best: dict[int, dict[str, float]] = {}
        self._case: Case | None = None
        self._artifact = ""
        self._sessions: list[Session] = []

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._drop()
        while self._probes:
            self._probes.popitem()[1].close()

    def _drop(self) -> None:
        while self._sessions:
            self._sessions.pop().close()
        self._case = None

    def probe(self, threads: int) -> dict[str, float]:
        """Probe the machine on the cores of a case of so many threads."""
        if threads not in self._probes:
            self._probes[threads] = Worker({"OMP_NUM_THREADS": str(threads)}, [])
        figures: dict[str, float] = self._probes[threads].ask(
            "probe", self._bench.timeout_s, threads=threads, cores=cores_for(threads)
        )
        self._probes[threads].suspend()
        best = self.best.setdefault(threads, {})
        best |= {name: max(figure, best.get(name, 0.0)) for name, figure in figures.items()}
        return figures

    def sessions(self, case: Case, count: int) -> list[Baseline]:
        """The sessions of the first `count` launches; BaselineError where the baseline cannot be measured."""
        try:
            if case != self._case:
                self._drop()
                reason = unsupported(case)
                if reason is not None:
                    raise BaselineError(f"unsupported: {reason}")
                self._artifact, self._case = _built_by(case, self._bench, self._python), case
            lacking = range(len(self._sessions), count)
            added = [Session(case, self._bench, self._artifact, self._python) for _ in lacking]
            self._sessions += added
            open_all(added)
        except BenchError as error:
            self._drop()
            raise BaselineError(str(error)) from error
        return [Baseline(self, session) for session in self._sessions[:count]]

    @property
    def _python(self) -> str:
        return self._bench.baseline_python or sys.executable


@dataclass(frozen=True)
class Baseline:
    """One of the shared sessions in a launch; what goes wrong with it is not the case's failure."""

    shared: Shared
    session: Session

    def take(self, seconds: float) -> Slice:
        """Let it call for so many seconds; a BaselineError where it breaks."""
        try:
            return self.session.take(seconds)
        except BenchError as error:
            self.shared.close()
            raise BaselineError(str(error)) from error


def measure(case: Case, bench: Bench, baseline: Case | None = None, shared: Shared | None = None) -> Record:
    """Measure one case, each launch in a worker process of its own, in turn with its baseline where one is given.

    shared  keeps the baseline's sessions and the probes for the cases that follow; without, they end with this case.

    Never raises for what the case does: what cannot be is a record with status "unsupported", what breaks one with
    status "failed", each with its reason. A baseline that breaks leaves the case without a speed-up, with the reason.
    """
    reason = unsupported(case)
    if reason is not None:
        return Record(case, "unsupported", reason)
    with contextlib.ExitStack() as stack:
        common = stack.enter_context(Shared(bench)) if shared is None else shared
        try:
            try:
                return _measured(case, bench, baseline, common)
            except BaselineError as error:
                alone = _measured(case, bench, None, common)
                assert baseline is not None
                return replace(alone, speedup={"baseline": {"case": baseline.axes()}, "reason": str(error)})
        except BenchError as error:
            return Record(case, "failed", str(error))


def _measured(case: Case, bench: Bench, baseline: Case | None, shared: Shared) -> Record:
    artifact, reference = _built(case, bench)
    plan, watch, energy = bench.plan, Watch(), Energy()
    launches: list[Launch] = []
    interval: Interval | None = None
    with contextlib.ExitStack() as stack:

        def begin(count: int) -> list[Session]:
            made = (Session(case, bench, str(artifact.folder), energy=energy) for _ in range(count))
            added = [stack.enter_context(session) for session in made]
            launches.extend(Launch() for _ in added)
            open_all(added)
            return added

        began = time.monotonic()
        sessions = begin(1)  # alone, for the times that it takes to load and to make the first call
        startup_s = time.monotonic() - began
        sessions += begin(min(plan.least_launches, 3) - 1)
        if 2 * (time.monotonic() - began) < plan.budget_s:
            sessions += begin(plan.least_launches - len(sessions))
        passes, before = 0, sessions[0].ask("usage")
        while True:
            others = [] if baseline is None else shared.sessions(baseline, len(launches))
            pids = [side.pid for side in (*sessions, *(other.session for other in others))]
            watch.probes.append(shared.probe(case.threads))
            started = snapshot(pids)
            for launch, session, other in itertools.zip_longest(launches, sessions, others):
                paired(launch, session, other, plan.pass_s, plan.slice_s, time.monotonic)
            watch.add(started, snapshot(pids))
            passes, spent_s = passes + 1, time.monotonic() - began
            if others:
                interval = speedup_interval([(launch.case_s, launch.baseline_s) for launch in launches])
            if plan.enough(passes, None if interval is None else interval.half_width, spent_s):
                break
            if passes >= plan.least_passes and spent_s + startup_s < plan.budget_s:
                sessions += begin(min(1, plan.most_launches - len(launches)))
        usage = _used(before, sessions[0].ask("usage"))
        judged = sessions[0].ask("evaluate", reference=str(reference.folder))
        opened = sessions[0].opened
    reason = contradiction(recipes.get(case.precision), judged["fidelity"]["sqnr_db"])
    if reason is not None:
        return Record(case, "failed", reason)
    watch.probes.append(shared.probe(case.threads))
    watch.switches = usage["involuntary_switches"]
    samples = tuple(sample_s for launch in launches for sample_s in launch.samples_s)
    times = latency(samples)
    noise = watch.noise(shared.best[case.threads])
    return Record(
        case,
        "ok",
        quality=judged["quality"],
        fidelity=judged["fidelity"],
        drop=judged["drop"],
        speedup={} if interval is None else _speedup(interval, launches, others[0].session, plan),
        latency=times,
        throughput_items_per_s=case.batch * len(samples) / sum(samples),
        load_s=opened["load_s"],
        first_call_s=opened["first_call_s"],
        steady=opened["steady"],
        peak_rss_bytes=usage["peak_rss_bytes"],
        artifact={"digest": artifact.digest, "bytes": artifact.bytes, "format": engines.get(case.engine).format},
        process={
            "versions": opened["versions"],
            "cores": cores_for(case.threads),
            "pool": opened["pool"],
            "threads_used": usage["threads_used"],
        },
        efficiency=_efficiency(case, judged["macs_per_item"], statistics.median(samples), shared.best[case.threads]),
        noise=noise,
        energy_j_per_call=energy.per_call_j,
        warnings=tuple(_warnings(case, usage, opened["steady"])),
        samples_s=samples,
    )


def _built(case: Case, bench: Bench) -> tuple[Artifact, Artifact]:
    """The case's artefact and reference, made now where they are missing."""
    built = find(case, bench)
    if built is None:
        _built_by(case, bench, sys.executable)
        built = find(case, bench)
    if built is None:
        raise CacheError(f"what was built for {case.id} is not in the cache at {bench.cache}; is it being emptied?")
    return built


def _built_by(case: Case, bench: Bench, python: str) -> str:
    """The folder of the case's artefact as this interpreter's libraries make it."""
    if python == sys.executable and (built := find(case, bench)) is not None:
        return str(built[0].folder)
    with _worker(case, bench, os.cpu_count() or 1, python=python) as builder:
        return str(builder.ask("build", 10 * bench.timeout_s, **_facts(case, bench)))


def _speedup(interval: Interval, launches: list[Launch], baseline: Session, plan: Plan) -> dict[str, Any]:
    return {
        "baseline": {"case": baseline.case.axes(), "versions": baseline.opened["versions"]},
        "ratio": interval.ratio,
        "low": interval.low,
        "high": interval.high,
        "confidence": CONFIDENCE,
        "launches": len(launches),
        "rounds": sum(len(launch.case_s) for launch in launches),
        "verdict": verdict(interval, plan.interval),
        "medians": [{"case_s": launch.case_s, "baseline_s": launch.baseline_s} for launch in launches],
    }


def _efficiency(case: Case, macs_per_item: int, median_s: float, best: dict[str, float]) -> dict[str, Any]:
    gops = 2 * macs_per_item * case.batch / median_s / 1e9
    peak = best.get({"fp32": "fp32_gflops", "int8": "int8_gops"}.get(recipes.get(case.precision).number_format, ""))
    return {"macs_per_item": macs_per_item, "gops": gops, "share_of_peak": gops / peak if peak else None}


def _used(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a worker used between two answers to `usage`: a thread counts that had a tenth of the busiest one's time."""
    spent = {name: used_s - before["threads_s"].get(name, 0.0) for name, used_s in after["threads_s"].items()}
    busiest = max(spent.values(), default=0.0)
    return {
        "involuntary_switches": after["involuntary_switches"],
        "threads_used": sum(used_s > busiest / 10 for used_s in spent.values()) if busiest > 0 else None,
        "peak_rss_bytes": after["peak_rss_bytes"],
    }


def _warnings(case: Case, usage: dict[str, Any], steady: dict[str, Any]) -> Iterable[str]:
    used = usage["threads_used"]
    if used is not None and used != case.threads:
        yield f"{used} threads used the CPU where {case.threads} were asked for"
    if cores_for(case.threads) is None:
        yield f"not bound to cores: this system has no affinity, or fewer than {case.threads} CPUs"
    if not steady["steady"]:
        yield f"not steady after {steady['calls']} calls in {steady['seconds']:.1f} s"


def contradiction(recipe: Recipe, sqnr_db: float) -> str | None:
    """Give the reason why outputs so near to, or so far from, FP32 PyTorch's cannot be of the recipe's number format.

    A figure under a wrong name is worse than none: engines are known to leave a network in FP32 without a word, and
    to compute FP32 in bfloat16. FP32 keeps some 120 dB, bfloat16 some 40, INT8 fewer than 60.
    """
    lower = recipe.number_format != "fp32"
    if lower and sqnr_db > NOT_LOWERED_DB:
        return f"the outputs are FP32's to {sqnr_db:.0f} dB: nothing was computed in {recipe.number_format}"
    if not lower and recipe.rewrite is None and sqnr_db < NOT_FP32_DB:
        return f"the outputs keep only {sqnr_db:.0f} dB of FP32 PyTorch's: this was not computed in FP32"
    return None


def _origins() -> list[Origin]:
    """The files that registered members, which a worker imports to know them."""
    origins: dict[Origin, None] = {}
    for registry in (models, datasets, recipes, engines):
        origins |= dict.fromkeys(registry.origins().values())
    return list(origins)


def _facts(case: Case, bench: Bench) -> dict[str, Any]:
    return {"case": case.axes(), "cache": str(bench.cache), "data": None if bench.data is None else str(bench.data)}


def _worker(
    case: Case,
    bench: Bench,
    threads: int,
    told: Callable[[str, int, int], None] | None = None,
    python: str = sys.executable,
) -> Worker:
    environment = engines.get(case.engine).environment(threads)
    return Worker(
        environment | {"TORCHINDUCTOR_CACHE_DIR": str(bench.cache / "inductor")},
        _origins(),
        told,
        python,
        bench.memory_bytes,
    )
