"""The one room where everything meets: from a case to its record.

    Case -> supported? -> artefact -> launches of two workers, case and baseline in turn -> speed-up, quality -> Record

It knows no pytest; the plugin asks it for one case at a time.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.build.artefact import digest_of
from bench.engines import engines, kernel
from bench.engines.lowered import contradiction
from bench.errors import BaselineError, BenchError, CacheError, LackingData, Unsupported
from bench.machine.facts import cores_for
from bench.machine.interpreter import Interpreter
from bench.records.record import Record
from bench.spec.case import Case
from bench.spec.model import models, source
from bench.spec.recipe import recipes
from bench.statistics import CONFIDENCE, latency, speedup_interval, verdict
from bench.store import Artifact, source_digest
from bench.timing.baseline import Shared
from bench.timing.bench import Bench, unsupported
from bench.timing.builder import built_by, find, folders_of, origins
from bench.timing.pairs import Pairs
from bench.timing.sampling import Launch, Plan, two_stages
from bench.timing.session import JUDGING, Session, compiled


def check(case: Case, data: Path | None) -> None:
    """Raise UnknownMember where an axis names nothing registered, DataError where there is no such folder of data."""
    engines.get(case.engine)
    recipes.get(case.precision)
    model = models.get(case.model)
    with contextlib.suppress(LackingData):  # the case is unsupported then
        source(model, data)


def identity(bench: Bench, baseline: Interpreter | None = None) -> dict[str, Any]:
    """What must be equal for a case measured in another run to stand in this one: code, machine, versions, options.

    baseline  the interpreter of the baselines, where it is not this one. Which case a baseline is is each record's own:
              see `still_holds`. Limits of time and gates are left out: they judge a record and change nothing in it.
    """
    from bench.machine.facts import describe

    files = {*Path(__file__).parent.rglob("*.py"), *(Path(file) for origin in origins() for file in origin.files())}
    return {
        "code": sorted(source_digest(file) for file in files),
        "machine": describe(),
        "plan": asdict(bench.plan),
        "bench": [
            str(bench.cache),
            str(bench.data),
            str(bench.pictures),
            bench.memory_bytes,
            bench.explain,
            bench.most_drop,
        ],
        "baseline_python": None if baseline is None else [bench.baseline_python, baseline.facts()],
    }


def still_holds(record: Record, case: Case, baseline: Case, bench: Bench) -> bool:
    """Whether what a record measured is what would be measured now: this case beside this baseline, the same artefact,
    judged by the same answers of FP32 to the same data.
    """
    if record.case != case or record.speedup.get("baseline", {}).get("case") != baseline.axes():
        return False
    built = find(case, bench)
    if built is None:
        return False
    digests = (digest_of(built[0], engines.get(case.engine)), built[1].digest)
    return digests == (record.artifact["digest"], record.artifact["reference"])


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
    built, plan = folders_of(artifact, reference), bench.plan
    kept = compiled(case, bench, built)
    shared.mend()
    began = time.monotonic()
    with Pairs(case, bench, built | ({"compiled": kept["folder"]} if kept else {}), baseline, shared) as pairs:
        first = two_stages(plan, pairs, baseline is not None, time.monotonic)
        launches, watch, session = pairs.launches, pairs.watch, pairs.sessions[0]
        usage = _used(pairs.before, session.ask("usage"))
        folder = None if bench.pictures is None else str(bench.pictures)
        judged = session.ask("evaluate", JUDGING, pictures=folder)
        executed = session.ask("explain", JUDGING) if bench.explain else {}
        opened = session.opened
        # asked last: should either break the worker, the rest is known
        counted, kernel_facts = _counted(session), _kernel(session)
    recipe = recipes.get(case.precision)
    reason = contradiction(recipe, judged["fidelity"]["sqnr_db"], counted, judged["raw"])
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
            "digest": digest_of(artifact, engines.get(case.engine)),
            "bytes": artifact.bytes,
            "format": engines.get(case.engine).format,
            "left_in_fp32": opened["left"],
            "left_by": opened["left_by"],
            "reference": reference.digest,
        },
        calibration=opened["calibration"],
        lowered=counted,
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
        kernel=kernel_facts,
        energy_j_per_call=pairs.energy.per_call_j,
        spent={"sampled_s": watch.elapsed_s, "whole_s": time.monotonic() - began},
        warnings=(
            *_warnings(case, usage, opened["steady"], efficiency),
            *_of_inputs(opened),
            *judged["warnings"],
            *([counted["reason"]] if "reason" in counted else []),
            *kernel.doubts(kernel_facts),
        ),
        samples_s=samples,
    )


def _built(case: Case, bench: Bench) -> tuple[Artifact, Artifact]:
    """The case's artefact and reference, made now where they are missing."""
    built = find(case, bench)
    if built is not None:
        return built
    folders = built_by(case, bench)
    artifact, reference = (bench.store.at(Path(folders[what])) for what in ("artifact", "reference"))
    if artifact is None or reference is None:
        raise CacheError(f"what was built for {case.id} is not in the cache at {bench.cache}; is it being emptied?")
    return artifact, reference


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


def _kernel(session: Session) -> dict[str, Any]:
    """Whether the kernels compute what the quantized network says; asked last, since a failure may end the worker: it
    is a reason then, and no failure of the case, which is measured.
    """
    if recipes.get(session.case.precision).number_format != "int8":
        return {}
    try:
        facts: dict[str, Any] = session.ask("kernel")
        return facts
    except BenchError as error:
        return {"kernel_db": None, "by": None, "reason": str(error)}


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


def _of_inputs(opened: dict[str, Any]) -> Iterable[str]:
    """What is to be said of the inputs that a case was calibrated and called with."""
    counts = opened["calibration"]
    if counts and counts["used"] < counts["asked"]:
        yield f"calibrated with {counts['used']} inputs where {counts['asked']} were asked for"
    if opened["writes_input"]:
        yield "the network writes into its input: each call is given a copy of it, which its time includes"


def _counted(session: Session) -> dict[str, Any]:
    """What of the network the session's artefact holds in which number format; where counting breaks, the reason: a
    case that was measured is not lost by it.
    """
    try:
        counted: dict[str, Any] = session.ask("layers", JUDGING)
    except BenchError as error:
        return {"reason": f"it could not be counted what was lowered: {error}"}
    return counted
