"""The one room where everything meets: from a case to its record.

    Case -> supported? -> artefact -> launches of two workers, case and baseline in turn -> speed-up, quality -> Record

It knows no pytest; the plugin asks it for one case at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import build
from bench.artifact import Artifact
from bench.case import Case
from bench.engines import engines
from bench.errors import BaselineError, BenchError, CacheError, LackingData, Unsupported
from bench.machine import available_bytes, cores_for
from bench.model import models, source
from bench.noise import Watch, snapshot
from bench.recipe import Recipe, recipes
from bench.record import Record
from bench.sampling import Launch, Plan, paired, two_stages
from bench.session import (
    BUSY,
    JUDGING,
    Baseline,
    Bench,
    Energy,
    Metered,
    Session,
    Shared,
    built_by,
    compiled,
    facts_of,
    find,
    folders_of,
    open_all,
    origins,
    unsupported,
    worker_for,
)
from bench.statistics import CONFIDENCE, latency, speedup_interval, verdict

NOT_LOWERED_DB = 90.0
NOT_FP32_DB = 60.0


def check(case: Case, data: Path | None) -> None:
    """Raise UnknownMember where an axis names nothing registered, DataError where there is no such folder of data."""
    engines.get(case.engine)
    recipes.get(case.precision)
    model = models.get(case.model)
    with contextlib.suppress(LackingData):  # the case is unsupported then
        source(model, data)


def identity(bench: Bench) -> dict[str, Any]:
    """What must be equal for a case measured in another run to stand in this one: code, machine, versions, options."""
    from bench.machine import describe

    files = {*Path(__file__).parent.rglob("*.py"), *(Path(file) for origin in origins() for file in origin.files())}
    return {
        "code": sorted(build.source_digest(file) for file in files),
        "machine": describe(),
        "plan": asdict(bench.plan),
        "bench": [
            str(bench.cache),
            str(bench.data),
            bench.baseline_python,
            bench.memory_bytes,
            bench.explain,
            bench.most_drop,
        ],
    }


def still_holds(record: Record, bench: Bench) -> bool:
    """Whether what a record measured is what would be measured now: the same artefact."""
    built = find(record.case, bench)
    return built is not None and built[0].digest == record.artifact["digest"]


def prepare(cases: Iterable[Case], bench: Bench, told: Callable[[str, int, int], None] | None = None) -> None:
    """Build what is missing for the cases, in one worker process, so that nothing is built while something is timed.

    told  gets (label, done, total) as the work goes on. A case that cannot be built is passed over here: `measure`
    tries it once more and makes the reason its record's.
    """
    wanted = {
        (case.model, case.engine, case.precision): case for case in cases if unsupported(case, bench.data) is None
    }
    missing = [case for case in wanted.values() if find(case, bench) is None]
    worker = None
    for done, case in enumerate(missing):
        if told is not None:
            told(f"building {case.model} {case.precision} for {case.engine}", done, len(missing))
        worker = worker or worker_for(case, bench, os.cpu_count() or 1, told)
        try:
            worker.ask("build", bench.timeout_s, BUSY, **facts_of(case, bench))
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


def measure(case: Case, bench: Bench, baseline: Case | None = None, shared: Shared | None = None) -> Record:
    """Measure one case, each launch in a worker process of its own, in turn with its baseline where one is given.

    shared  keeps the baseline's sessions and the probes for the cases that follow; without, they end with this case.

    Never raises for what the case does: what cannot be is a record with status "unsupported", what breaks one with
    status "failed", each with its reason. A baseline that breaks leaves the case without a speed-up, with the reason.
    """
    reason = unsupported(case, bench.data)
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
        except Unsupported as error:
            return Record(case, "unsupported", str(error))
        except BenchError as error:
            return Record(case, "failed", str(error))


class _Pairs:
    """The launches of a case as processes: a session of the case each, and one of its baseline where it has one."""

    def __init__(self, case: Case, bench: Bench, built: dict[str, str], baseline: Case | None, shared: Shared) -> None:
        self._case, self._bench, self._built, self._baseline, self._shared = case, bench, built, baseline, shared
        self._stack = contextlib.ExitStack()
        self._startup_s = 0.0
        self.launches: list[Launch] = []
        self.starting_s = 0.0
        self.sessions: list[Session] = []
        self.others: list[Baseline] = []
        self.before: dict[str, Any] = {}
        self.watch, self.energy = Watch(), Energy()

    def __enter__(self) -> _Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, count: int) -> None:
        """Begin so many more launches; the first session alone, for the times to load and to make the first call."""
        begun, alone = time.monotonic(), not self.sessions
        added = [self._stack.enter_context(Session(self._case, self._bench, self._built)) for _ in range(max(0, count))]
        self.sessions += added
        self.launches += [Launch() for _ in added]
        open_all(added)
        if alone:
            self._startup_s, self.before = time.monotonic() - begun, self.sessions[0].ask("usage")
        self.starting_s += time.monotonic() - begun

    def start_s(self) -> float:
        """What beginning one more would take, in seconds."""
        other_s = 0.0 if self._baseline is None else self._shared.start_s(len(self.launches) + 1)
        return self._startup_s + other_s

    def room(self) -> int:
        """How many launches the memory that is left has room for, by what the first session took at the most."""
        peak_bytes = self.before["peak_rss_bytes"]
        return max(1, int(available_bytes() / (2 * peak_bytes))) if peak_bytes else 2

    def sample(self, since: int) -> None:
        """Sample all from this one on, in turn, for one pass; the baseline's sessions are begun where they lack."""
        plan, watch, asked = self._bench.plan, self.watch, time.monotonic()
        if self._baseline is not None:
            self.others = self._shared.sessions(self._baseline, len(self.launches))
        self.starting_s += time.monotonic() - asked
        pids = [side.pid for side in (*self.sessions, *(other.session for other in self.others))]
        watch.probes.append(self._shared.probe(self._case.threads))
        started = snapshot(pids)
        sides = itertools.zip_longest(self.launches, self.sessions, self.others)
        for launch, session, other in itertools.islice(sides, since, None):
            paired(launch, Metered(session, self.energy), other, plan.pass_s, plan.slice_s, time.monotonic)
        watch.add(started, snapshot(pids))


def _measured(case: Case, bench: Bench, baseline: Case | None, shared: Shared) -> Record:
    artifact, reference = _built(case, bench)
    built, plan = folders_of(artifact, reference), bench.plan
    kept = compiled(case, bench, built)
    shared.mend()
    began = time.monotonic()
    with _Pairs(case, bench, built | ({"compiled": kept["folder"]} if kept else {}), baseline, shared) as pairs:
        first = two_stages(plan, pairs, baseline is not None, time.monotonic)
        launches, watch, session = pairs.launches, pairs.watch, pairs.sessions[0]
        usage = _used(pairs.before, session.ask("usage"))
        folder = None if bench.pictures is None else str(bench.pictures)
        judged = session.ask("evaluate", JUDGING, pictures=folder)
        executed = session.ask("explain", JUDGING) if bench.explain else {}
        opened = session.opened
    reason = contradiction(recipes.get(case.precision), judged["fidelity"]["sqnr_db"])
    if reason is not None:
        return Record(case, "failed", reason)
    watch.probes.append(shared.probe(case.threads))
    watch.switches = usage["involuntary_switches"]
    samples = tuple(sample_s for launch in launches for sample_s in launch.samples_s)
    best = shared.pace.learn(case.threads, watch.probes)
    efficiency = _efficiency(case, judged["macs_per_item"], statistics.median(samples), shared)
    return Record(
        case,
        "ok",
        quality=judged["quality"],
        fidelity=judged["fidelity"],
        drop=judged["drop"],
        answers=judged["answers"],
        pictures=tuple(judged["pictures"]),
        speedup=_speedup(launches, first, pairs.others[0].session, plan) if pairs.others else {},
        latency=latency([launch.samples_s for launch in launches], opened["calls_per_sample"], first),
        throughput_items_per_s=case.batch * len(samples) / sum(samples),
        load_s=opened["load_s"],
        first_call_s=opened["first_call_s"],
        first_call_cold_s=kept.get("seconds"),
        steady=opened["steady"],
        peak_rss_bytes=usage["peak_rss_bytes"],
        artifact={
            "digest": artifact.digest,
            "bytes": artifact.bytes,
            "format": engines.get(case.engine).format,
            "left_in_fp32": opened["left"],
        },
        process={
            "versions": opened["versions"],
            "cores": cores_for(case.threads),
            "pool": opened["pool"],
            "call_overhead_s": opened["call_overhead_s"],
            "threads_used": usage["threads_used"],
        },
        efficiency=efficiency,
        noise=watch.noise(best),
        explained=executed,
        energy_j_per_call=pairs.energy.per_call_j,
        spent={"sampled_s": watch.elapsed_s, "whole_s": time.monotonic() - began},
        warnings=tuple(_warnings(case, usage, opened["steady"], efficiency)),
        samples_s=samples,
    )


def _built(case: Case, bench: Bench) -> tuple[Artifact, Artifact]:
    """The case's artefact and reference, made now where they are missing."""
    built = find(case, bench)
    if built is None:
        built_by(case, bench)
        built = find(case, bench)
    if built is None:
        raise CacheError(f"what was built for {case.id} is not in the cache at {bench.cache}; is it being emptied?")
    return built


def _speedup(launches: list[Launch], first: int, baseline: Session, plan: Plan) -> dict[str, Any]:
    interval = speedup_interval([(launch.case_s, launch.baseline_s) for launch in launches], first)
    return {
        "baseline": {"case": baseline.case.axes(), "versions": baseline.opened["versions"]},
        "ratio": interval.ratio,
        "low": interval.low,
        "high": interval.high,
        "confidence": CONFIDENCE,
        "launches": len(launches),
        "first": first,
        "rounds": sum(len(launch.case_s) for launch in launches),
        "verdict": verdict(interval, plan.interval),
        "medians": [{"case_s": launch.case_s, "baseline_s": launch.baseline_s} for launch in launches],
    }


def _efficiency(case: Case, macs_per_item: int, median_s: float, shared: Shared) -> dict[str, Any]:
    gops = 2 * macs_per_item * case.batch / median_s / 1e9
    peak = shared.peak(case.threads, recipes.get(case.precision).number_format, gops) if gops else None
    return {
        "macs_per_item": macs_per_item,
        "gops": gops,
        "share_of_peak": None if peak is None else gops / peak.gops,
        "peak_gops": None if peak is None else peak.gops,
        "peak_by": None if peak is None else peak.by,
    }


def _used(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a worker used between two answers to `usage`: a thread counts that had a tenth of the busiest one's time."""
    spent = {name: used_s - before["threads_s"].get(name, 0.0) for name, used_s in after["threads_s"].items()}
    busiest = max(spent.values(), default=0.0)
    return {
        "involuntary_switches": after["involuntary_switches"],
        "threads_used": sum(used_s > busiest / 10 for used_s in spent.values()) if busiest > 0 else None,
        "peak_rss_bytes": after["peak_rss_bytes"],
    }


def _warnings(case: Case, usage: dict[str, Any], steady: dict[str, Any], efficiency: dict[str, Any]) -> Iterable[str]:
    used = usage["threads_used"]
    if used is not None and used != case.threads:
        yield f"{used} threads used the CPU where {case.threads} were asked for"
    if cores_for(case.threads) is None:
        yield f"not bound to cores: this system has no affinity, or fewer than {case.threads} CPUs"
    if not steady["steady"]:
        yield f"not steady after {steady['calls']} calls in {steady['seconds']:.1f} s"
    share = efficiency["share_of_peak"]
    if share is not None and share > 1:
        yield (
            f"its pace is {share:.0%} of the best that products and convolutions reach here, {efficiency['peak_by']}: "
            "its library saves multiplications that the network has, or none of these is this machine's best"
        )


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
