"""The one room where everything meets: from a case to its record.

    Case -> supported? -> artefact -> launches of two workers, case and baseline in turn -> speed-up, quality -> Record

It knows no pytest; the plugin asks it for one case at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
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
from bench.sampling import Launch, Plan, paired
from bench.session import (
    Bench,
    Energy,
    Session,
    Shared,
    built_by,
    facts_of,
    find,
    folders_of,
    open_all,
    origins,
    unsupported,
    worker_for,
)
from bench.statistics import CONFIDENCE, Interval, latency, speedup_interval, verdict

NOT_LOWERED_DB = 90.0
NOT_FP32_DB = 60.0
NOT_FP32_AGREEMENT = 0.95  # near ties fall either way: 1 of 64 labels is 1.6%
NAMED = 3


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
            worker.ask("build", 10 * bench.timeout_s, **facts_of(case, bench))
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


def _measured(case: Case, bench: Bench, baseline: Case | None, shared: Shared) -> Record:
    artifact, reference = _built(case, bench)
    plan, watch, energy = bench.plan, Watch(), Energy()
    launches: list[Launch] = []
    interval: Interval | None = None
    starting_s = 0.0
    with contextlib.ExitStack() as stack:

        def begin(count: int) -> list[Session]:
            nonlocal starting_s
            begun = time.monotonic()
            made = (Session(case, bench, folders_of(artifact, reference), energy=energy) for _ in range(count))
            added = [stack.enter_context(session) for session in made]
            launches.extend(Launch() for _ in added)
            open_all(added)
            starting_s += time.monotonic() - begun
            return added

        began = time.monotonic()
        sessions = begin(1)  # alone, for the times that it takes to load and to make the first call
        startup_s, before = time.monotonic() - began, sessions[0].ask("usage")
        room = max(1, int(available_bytes() / (2 * before["peak_rss_bytes"]))) if before["peak_rss_bytes"] else 2
        sessions += begin(min(plan.least_launches, 3, room) - 1)
        if 2 * (time.monotonic() - began) < plan.budget_s:
            sessions += begin(min(plan.least_launches, room) - len(sessions))
        passes = 0
        while True:
            asked = time.monotonic()
            others = [] if baseline is None else shared.sessions(baseline, len(launches))
            starting_s += time.monotonic() - asked
            pids = [side.pid for side in (*sessions, *(other.session for other in others))]
            watch.probes.append(shared.probe(case.threads))
            started = snapshot(pids)
            for launch, session, other in itertools.zip_longest(launches, sessions, others):
                paired(launch, session, other, plan.pass_s, plan.slice_s, time.monotonic)
            watch.add(started, snapshot(pids))
            passes, spent_s = passes + 1, time.monotonic() - began
            if others:
                interval = speedup_interval([(launch.case_s, launch.baseline_s) for launch in launches])
            taken = sum(len(launch.samples_s) for launch in launches)
            if plan.enough(passes, taken, None if interval is None else interval.half_width, spent_s):
                break
            more_s = startup_s + (0.0 if baseline is None else shared.start_s(len(launches) + 1))
            worth = spent_s + more_s < plan.budget_s and starting_s + more_s < plan.starting * plan.budget_s
            if passes >= plan.least_passes and worth:
                sessions += begin(min(1, plan.most_launches - len(launches), room - len(launches)))
        usage = _used(before, sessions[0].ask("usage"))
        folder = None if bench.pictures is None else str(bench.pictures)
        judged = sessions[0].ask("evaluate", patience=10, pictures=folder)
        executed = sessions[0].ask("explain") if bench.explain else {}
        opened = sessions[0].opened
        counted = _counted(sessions[0])  # the last that is asked: should counting break the worker, the rest is known
    recipe = recipes.get(case.precision)
    reason = contradiction(recipe, judged["fidelity"]["sqnr_db"], counted, judged.get("raw", {}))
    if reason is not None:
        return Record(case, "failed", reason)
    watch.probes.append(shared.probe(case.threads))
    watch.switches = usage["involuntary_switches"]
    samples = tuple(sample_s for launch in launches for sample_s in launch.samples_s)
    times = latency(samples)
    best = shared.pace.learn(case.threads, watch.probes)
    return Record(
        case,
        "ok",
        quality=judged["quality"],
        fidelity=judged["fidelity"],
        drop=judged["drop"],
        answers=judged["answers"],
        pictures=tuple(judged["pictures"]),
        speedup={} if interval is None else _speedup(interval, launches, others[0].session, plan),
        latency=times,
        throughput_items_per_s=case.batch * len(samples) / sum(samples),
        load_s=opened["load_s"],
        first_call_s=opened["first_call_s"],
        steady=opened["steady"],
        peak_rss_bytes=usage["peak_rss_bytes"],
        artifact={
            "digest": artifact.digest,
            "bytes": artifact.bytes,
            "format": engines.get(case.engine).format,
            "left_in_fp32": opened["left"],
        },
        lowered=counted,
        process={
            "versions": opened["versions"],
            "cores": cores_for(case.threads),
            "pool": opened["pool"],
            "call_overhead_s": opened["call_overhead_s"],
            "threads_used": usage["threads_used"],
        },
        efficiency=_efficiency(case, judged["macs_per_item"], statistics.median(samples), best),
        noise=watch.noise(best),
        explained=executed,
        energy_j_per_call=energy.per_call_j,
        spent={"sampled_s": watch.elapsed_s, "whole_s": time.monotonic() - began},
        warnings=(
            *_warnings(case, usage, opened["steady"]),
            *([counted["reason"]] if "reason" in counted else []),
        ),
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


def _counted(session: Session) -> dict[str, Any]:
    """What of the network the session's artefact holds in which number format; where counting breaks, the reason: a
    case that was measured is not lost by it.
    """
    try:
        counted: dict[str, Any] = session.ask("layers", patience=10)
    except BenchError as error:
        return {"reason": f"it could not be counted what was lowered: {error}"}
    return counted


def contradiction(
    recipe: Recipe, sqnr_db: float, counted: dict[str, Any] | None = None, raw: dict[str, Any] | None = None
) -> str | None:
    """Give the reason why what was computed cannot be of the recipe's number format, or is no number at all.

    sqnr_db  of the outputs against FP32 PyTorch's.
    counted  what the artefact holds in which number format (bench.lowered); nothing where it could not be counted.
    raw      of the outputs: `finite`, whether all are numbers; `whole`, whether they are whole numbers or few values,
             and `agreement`, which share of them equals FP32 PyTorch's.

    A figure under a wrong name is worse than none: engines are known to leave a network in FP32 without a word, and
    to compute FP32 in bfloat16. Where the artefact was counted, the count decides what is lowered. Else outputs do:
    FP32 keeps some 120 dB, bfloat16 some 40, INT8 fewer than 60; but equal whole numbers, as of a label map, tell
    nothing of the number format.
    """
    shares, raw = (counted or {}).get("macs"), raw or {}
    if not raw.get("finite", True) or math.isnan(sqnr_db):
        return "the outputs hold NaN or infinity"
    if shares is not None and (reason := _misnamed(recipe, shares, (counted or {})["left"])) is not None:
        return reason
    if recipe.number_format != "fp32":
        if shares is None and not raw.get("whole") and sqnr_db > NOT_LOWERED_DB:
            return f"the outputs are FP32's to {sqnr_db:.0f} dB: nothing was computed in {recipe.number_format}"
        return None
    if recipe.rewrite is not None:
        return None
    if raw.get("whole"):
        agreement = raw.get("agreement", 1.0)
        if agreement < NOT_FP32_AGREEMENT:
            return f"only {agreement:.1%} of the outputs are FP32 PyTorch's: this was not computed in FP32"
    elif sqnr_db < NOT_FP32_DB:
        return f"the outputs keep only {sqnr_db:.0f} dB of FP32 PyTorch's: this was not computed in FP32"
    return None


def _misnamed(recipe: Recipe, shares: dict[str, float], left: list[dict[str, Any]]) -> str | None:
    """Give the reason why the shares of multiply-accumulates by number format do not bear the recipe's name."""
    wanted = recipe.number_format
    if wanted != "fp32" and not shares.get(wanted):
        reasons = "; ".join(dict.fromkeys(layer["reason"] for layer in left if layer["reason"]))
        names = ", ".join(layer["name"] for layer in left[:NAMED]) + (", ..." if len(left) > NAMED else "")
        return f"nothing was computed in {wanted}: left are {names}" + (f" ({reasons})" if reasons else "")
    lower = {name: share for name, share in shares.items() if name not in ("fp32", "fp64") and share}
    if wanted == "fp32" and lower:
        told = ", ".join(f"{share:.1%} in {name}" for name, share in lower.items())
        return f"not all was computed in FP32: {told} of the multiply-accumulates"
    return None
