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

from bench.build import artefact as build
from bench.engines import engines, kernel
from bench.errors import BaselineError, BenchError, CacheError, LackingData, Unsupported
from bench.machine.facts import available_bytes, cores_for
from bench.machine.interpreter import Interpreter
from bench.machine.noise import Watch, snapshot
from bench.records.record import Record
from bench.spec.case import Case
from bench.spec.model import models, source
from bench.spec.recipe import Recipe, recipes
from bench.statistics import CONFIDENCE, latency, speedup_interval, verdict
from bench.store import Artifact
from bench.timing.sampling import Launch, Plan, paired, two_stages
from bench.timing.session import (
    JUDGING,
    Baseline,
    Bench,
    Builder,
    Energy,
    Metered,
    Session,
    Shared,
    built_by,
    compiled,
    find,
    folders_of,
    open_all,
    origins,
    unsupported,
)

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


def identity(bench: Bench, baseline: Interpreter | None = None) -> dict[str, Any]:
    """What must be equal for a case measured in another run to stand in this one: code, machine, versions, options.

    baseline  the interpreter of the baselines, where it is not this one. Which case a baseline is is each record's own:
              see `still_holds`. Limits of time and gates are left out: they judge a record and change nothing in it.
    """
    from bench.machine.facts import describe

    files = {*Path(__file__).parent.rglob("*.py"), *(Path(file) for origin in origins() for file in origin.files())}
    return {
        "code": sorted(build.source_digest(file) for file in files),
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
    digests = (build.digest_of(built[0], engines.get(case.engine)), built[1].digest)
    return digests == (record.artifact["digest"], record.artifact["reference"])


def prepare(cases: Iterable[Case], bench: Bench, told: Callable[[str, int, int], None] | None = None) -> None:
    """Build what is missing for the cases, in worker processes one after the other, so that nothing is built while
    something is timed: reference outputs first, then the artefacts of engines that want the same environment.

    told  gets (label, done, total) as the work goes on. A case that cannot be built is passed over here, and the reason
    kept in `bench.failures`: `measure` makes it its record's.
    """
    wanted = {
        (case.model, case.engine, case.precision): case for case in cases if unsupported(case, bench.data) is None
    }
    missing = [case for case in wanted.values() if find(case, bench) is None]
    models_missing = list({case.model: case for case in missing}.values())
    alike: dict[tuple[tuple[str, str], ...], list[Case]] = {}
    for case in missing:
        environment = engines.get(case.engine).environment(os.cpu_count() or 1)
        alike.setdefault(tuple(sorted(environment.items())), []).append(case)
    with Builder(bench, told) as builder:
        steps: list[tuple[str, Callable[[Case], Any], Case]] = [
            (f"reference outputs of {case.model}", builder.refer, case) for case in models_missing
        ]
        steps += [
            (f"building {case.model} {case.precision} for {case.engine}", builder.build, case)
            for cases_alike in alike.values()
            for case in cases_alike
        ]
        for done, (label, make, case) in enumerate(steps):
            if told is not None:
                told(label, done, len(steps))
            try:
                make(case)
            except CacheError:
                raise
            except BenchError:
                continue  # kept in bench.failures
    if told is not None and missing:
        told("built", len(steps), len(steps))


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
            "digest": build.digest_of(artifact, engines.get(case.engine)),
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
    if not raw.get("finite", not math.isnan(sqnr_db)):
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
