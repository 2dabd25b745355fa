"""Where all rooms meet: from a case to its record.

    Case -> supported? -> artefact -> launches of two workers, case and baseline in turn -> speed-up, quality -> Record

It does not import pytest; the plugin asks it for a case at a time.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from bench.build.artefact import digest_of
from bench.build.networks import SizesDecided, decided_in
from bench.compress.quantize import layers_by_bits
from bench.engines import engines, kernel
from bench.engines.contradiction import contradiction
from bench.errors import BaselineError, BenchError, CacheError, LackingData, Unsupported
from bench.machine.devices import devices
from bench.machine.facts import cores_for
from bench.machine.interpreter import Interpreter
from bench.records.record import Record
from bench.spec.case import Case
from bench.spec.digests import source_digest
from bench.spec.model import models, source
from bench.spec.outcome import (
    ArtifactFacts,
    BaselineFacts,
    Efficiency,
    Kernel,
    Lowered,
    Medians,
    Process,
    Speedup,
    Spent,
)
from bench.spec.recipe import recipes
from bench.spec.typed import of_type
from bench.statistics import CONFIDENCE, latency, speedup_interval, verdict
from bench.store import Artifact, Facts
from bench.timing.baseline import Shared
from bench.timing.builder import built_by, find, folders_of, origins
from bench.timing.on_device import on_device
from bench.timing.pairs import Pairs
from bench.timing.protocol import AskKernel, AskLayers, AskUsage, Evaluate, Explain, Opened, Usage
from bench.timing.sampling import Launch, Plan, two_stages
from bench.timing.session import JUDGING, WorkerSession, compiled
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported


def check(case: Case, data: Path | None) -> None:
    """Raise UnknownMember where an axis names nothing registered, DataError where the data folder does not exist."""
    engines.get(case.engine)
    devices.get(case.device)
    recipes.get(case.precision)
    model = models.get(case.model)
    with contextlib.suppress(LackingData):  # the case is unsupported then
        source(model, data)


def identity(bench: Bench, baseline: Interpreter | None = None) -> Facts:
    """What must be equal for this run to reuse a case measured in another: code, machine, versions, options.

    It leaves out the baseline's case, which each record has (see `still_holds`), and time limits and gates, which judge
    a record and change nothing in it.

    baseline  the interpreter of the baselines, where it is not this process's.
    """
    from bench.machine.facts import describe

    files = {*Path(__file__).parent.rglob("*.py"), *(Path(file) for origin in origins() for file in origin.files())}
    return {
        "code": sorted(source_digest(file) for file in files),
        "machine": asdict(describe()),
        "plan": asdict(bench.plan),
        "bench": [
            str(bench.cache),
            str(bench.data),
            str(bench.pictures),
            bench.memory_bytes,
            bench.explain,
            asdict(bench.limits),
            bench.device_index,
        ],
        "baseline_python": None if baseline is None else [bench.baseline_python, baseline.facts()],
    }


def still_holds(record: Record, case: Case, baseline: Case, bench: Bench) -> bool:
    """Whether a record measured what would be measured now.

    That is this case with this baseline on this device, the same artefact, and the same FP32 answers to the same data
    as reference.
    """
    beside = record.speedup and record.speedup.baseline and record.speedup.baseline.case
    device = devices.get(case.device).describe(bench.device_index)
    same_device = (record.on_device and record.on_device.device) == device
    if record.case != case or beside != baseline or record.artifact is None or not same_device:
        return False
    built = find(case, bench)
    if built is None:
        return False
    digests = (digest_of(built[0], engines.get(case.engine)), built[1].digest)
    return digests == (record.artifact.digest, record.artifact.reference)


def measure(case: Case, bench: Bench, baseline: Case | None = None, shared: Shared | None = None) -> Record:
    """Measure a case, each launch in a worker process of its own, in turn with its baseline where that is given.

    shared  keeps the baseline's sessions and the probes for later cases; without it, they end with this case.

    Never raises for what the case does. A case that cannot run gives a record with status "unsupported", a case that
    breaks gives "failed", each with its reason. If the baseline breaks, the record has the reason and no speed-up.
    """
    reason = unsupported(case, bench)
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
                return replace(alone, speedup=Speedup(BaselineFacts(baseline), reason=str(error)))
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
    built = built if kept is None else replace(built, compiled=kept.folder)
    with Pairs(case, bench, built, baseline, shared) as pairs:
        first = two_stages(plan, pairs, baseline is not None, time.monotonic)
        launches, watch, session = pairs.launches, pairs.watch, pairs.sessions[0]
        usage = session.ask(AskUsage())
        judgement = session.ask(Evaluate(bench.pictures), JUDGING)
        executed = session.ask(Explain(), JUDGING) if bench.explain else None
        opened = session.opened
        device = on_device(session, bench, watch.device)
        # asked last: either may break the worker, and the rest is known by then
        counted, kernel_facts = _counted(session), _kernel(session)
    recipe = bench.bill(case).recipe(case.precision)
    reason = contradiction(recipe, judgement.outputs, counted, devices.get(case.device).fp32_db)
    if reason is not None:
        return Record(case, "failed", reason)
    watch.probes.append(shared.probe(case.threads))
    watch.switches = usage.involuntary_switches
    samples = tuple(sample_s for launch in launches for sample_s in launch.samples_s)
    best = shared.pace.learn(case.threads, watch.probes)
    decided = decided_in(reference.folder)[-1] if recipe.steps else {}
    sizes = of_type(SizesDecided, decided)
    efficiency = _efficiency(case, judgement.macs_per_item, statistics.median(samples), shared)
    process = Process(
        versions=opened.versions,
        cores=cores_for(case.threads),
        pool=opened.pool,
        call_overhead_s=opened.call_overhead_s,
        threads_used=_threads_used(pairs.before, usage),
    )
    return Record(
        case,
        "ok",
        quality=judgement.quality,
        judged=judgement.judged,
        metrics=judgement.metrics,
        fidelity=judgement.fidelity,
        drop=judgement.drop,
        answers=judgement.answers,
        pictures=judgement.pictures,
        speedup=_speedup(launches, first, pairs.others[0].session, plan) if pairs.others else None,
        latency=latency([launch.samples_s for launch in launches], opened.calls_per_sample, first),
        throughput_items_per_s=case.batch * len(samples) / sum(samples),
        load_s=opened.load_s,
        first_call_s=opened.first_call_s,
        first_call_cold_s=None if kept is None else kept.first_call_s,
        steady=opened.steady,
        peak_rss_bytes=usage.peak_rss_bytes,
        artifact=ArtifactFacts(
            digest=digest_of(artifact, engines.get(case.engine)),
            bytes=artifact.bytes,
            format=engines.get(case.engine).format,
            left_in_fp32=opened.left,
            left_by=opened.left_by,
            reference=reference.digest,
            steps=tuple(map(repr, recipe.steps)),
            gzip_bytes=artifact.gzip_bytes() if recipe.steps else None,
            huffman_bytes=sizes.huffman_bytes,
            packed_bytes=sizes.packed_bytes,
            layers_by_bits=layers_by_bits(decided),
        ),
        calibration=opened.calibration,
        lowered=counted,
        process=process,
        on_device=device.facts,
        efficiency=efficiency,
        noise=watch.noise(best),
        explained=executed,
        kernel=kernel_facts,
        energy_j_per_call=pairs.energy.per_call_j,
        spent=Spent(watch.elapsed_s, time.monotonic() - began),
        warnings=(
            *_warnings(case, process, opened, efficiency),
            *device.warnings,
            *judgement.warnings,
            *([counted.reason] if counted is not None and counted.reason is not None else []),
            *kernel.doubts(kernel_facts),
        ),
        samples_s=samples,
    )


def _built(case: Case, bench: Bench) -> tuple[Artifact, Artifact]:
    """The case's artefact and reference, built now where they are missing."""
    built = find(case, bench)
    if built is not None:
        return built
    folders = built_by(case, bench)
    artifact, reference = bench.store.at(folders.artifact), bench.store.at(folders.reference)
    if artifact is None or reference is None:
        raise CacheError(f"what was built for {case.id} is not in the cache at {bench.cache}; is it being emptied?")
    return artifact, reference


def _speedup(launches: list[Launch], first: int, baseline: WorkerSession, plan: Plan) -> Speedup:
    interval = speedup_interval([(launch.case_s, launch.baseline_s) for launch in launches], first)
    return Speedup(
        baseline=BaselineFacts(baseline.case, baseline.opened.versions),
        ratio=interval.ratio,
        low=interval.low,
        high=interval.high,
        confidence=CONFIDENCE,
        launches=len(launches),
        first=first,
        rounds=sum(len(launch.case_s) for launch in launches),
        verdict=verdict(interval, plan.interval),
        medians=tuple(Medians(tuple(launch.case_s), tuple(launch.baseline_s)) for launch in launches),
    )


def _efficiency(case: Case, macs_per_item: int, median_s: float, shared: Shared) -> Efficiency:
    gops = 2 * macs_per_item * case.batch / median_s / 1e9
    known = gops and case.device == "cpu"  # peaks are the CPU's
    recipe = recipes.get(case.precision)
    computed = "fp32" if recipe.weights_alone else recipe.number_format
    peak = shared.peak(case.threads, computed, gops) if known else None
    if peak is None:
        return Efficiency(macs_per_item, gops)
    return Efficiency(macs_per_item, gops, gops / peak.gops, peak.gops, peak.by)


def _threads_used(before: Usage, after: Usage) -> int | None:
    """How many threads a worker used between two answers; None where the system does not report it.

    A thread counts if it used more than a tenth of the busiest thread's CPU time.
    """
    spent = {name: used_s - before.threads_s.get(name, 0.0) for name, used_s in after.threads_s.items()}
    busiest = max(spent.values(), default=0.0)
    return sum(used_s > busiest / 10 for used_s in spent.values()) if busiest > 0 else None


def _warnings(case: Case, process: Process, opened: Opened, efficiency: Efficiency) -> Iterable[str]:
    used, steady, counts = process.threads_used, opened.steady, opened.calibration
    if used is not None and used != case.threads and case.device == "cpu":
        yield f"{used} threads used the CPU where {case.threads} were asked for"
    if process.cores is None:
        yield f"not bound to cores: this system has no affinity, or fewer than {case.threads} CPUs"
    if not steady.steady:
        yield f"not steady after {steady.calls} calls in {steady.seconds:.1f} s"
    if efficiency.share_of_peak is not None and efficiency.share_of_peak > 1:
        yield (
            f"its pace is {efficiency.share_of_peak:.0%} of the best that products and convolutions reach here, "
            f"{efficiency.peak_by}: its library saves multiplications that the network has, or none of these is this "
            "machine's best"
        )
    if counts is not None and counts.used < counts.asked:
        yield f"calibrated with {counts.used} inputs where {counts.asked} were asked for"
    if recipes.get(case.precision).given:
        yield "the file is in INT8 already: it is judged against itself on its own runtime, and no FP32 is known"
    if opened.writes_input:
        yield "the network writes into its input: each call is given a copy of it, which its time includes"


def _kernel(session: WorkerSession) -> Kernel | None:
    """Whether the kernels compute what the quantized network says; None where no kernel computes in INT8.

    Asked last, since a failure may end the worker. A failure gives a reason and does not fail the case, which is
    measured by then.
    """
    recipe = recipes.get(session.case.precision)
    if recipe.number_format != "int8" or recipe.weights_alone:
        return None
    try:
        return session.ask(AskKernel())
    except BenchError as error:
        return Kernel(reason=str(error))


def _counted(session: WorkerSession) -> Lowered | None:
    """Which part of the network the session's artefact holds in which number format.

    Where counting breaks, the reason: the case is measured, and is not lost by it.
    """
    try:
        return session.ask(AskLayers(), JUDGING)
    except BenchError as error:
        return Lowered(reason=f"it could not be counted what was lowered: {error}")
