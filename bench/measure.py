"""The one room where everything meets: from a case to its record.

    Case -> supported? -> artefact -> worker -> samples, quality -> Record

It knows no pytest; the plugin asks it for one case at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import build
from bench.artifact import Artifact, Store
from bench.case import Case
from bench.dataset import datasets
from bench.engines import engines
from bench.errors import BenchError, CacheError
from bench.model import models, source
from bench.recipe import Recipe, recipes
from bench.record import Record
from bench.registry import Origin
from bench.sampling import Schedule
from bench.statistics import latency
from bench.worker import Worker

NOT_LOWERED_DB = 90.0
NOT_FP32_DB = 60.0


@dataclass(frozen=True)
class Bench:
    """Where a session measures: the cache and data folders, how long to sample, when to give a worker up.

    cache      root of the artefact store.
    data       the user's data folder, None for embedded data.
    timeout_s  the longest that one question to a worker may take; building has ten times as long.
    """

    cache: Path
    data: Path | None = None
    schedule: Schedule = field(default_factory=Schedule)
    timeout_s: float = 120.0

    @property
    def store(self) -> Store:
        """The artefact store of the session."""
        return Store(self.cache)


def check(case: Case, data: Path | None) -> None:
    """Raise UnknownMember where an axis names nothing registered, DataError where the case's data are not there."""
    engines.get(case.engine)
    recipes.get(case.precision)
    source(models.get(case.model), data)


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


def measure(case: Case, bench: Bench) -> Record:
    """Measure one case in a worker process of its own.

    Never raises for what the case does: what cannot be is a record with status "unsupported", what breaks one with
    status "failed", each with its reason.
    """
    reason = unsupported(case)
    if reason is not None:
        return Record(case, "unsupported", reason)
    try:
        return _measured(case, bench)
    except BenchError as error:
        return Record(case, "failed", str(error))


def _measured(case: Case, bench: Bench) -> Record:
    facts = _facts(case, bench)
    built = find(case, bench)
    if built is None:
        with _worker(case, bench, os.cpu_count() or 1) as builder:
            builder.ask("build", 10 * bench.timeout_s, **facts)
        built = find(case, bench)
    if built is None:
        raise CacheError(f"what was built for {case.id} is not in the cache at {bench.cache}; is it being emptied?")
    artifact, reference = built
    with _worker(case, bench, case.threads) as worker:
        opened = worker.ask("open", bench.timeout_s, artifact=str(artifact.folder), **facts)
        sampled = worker.ask("sample", bench.timeout_s, schedule=asdict(bench.schedule), **facts)
        judged = worker.ask("evaluate", bench.timeout_s, reference=str(reference.folder), **facts)
    reason = contradiction(recipes.get(case.precision), judged["fidelity"]["sqnr_db"])
    if reason is not None:
        return Record(case, "failed", reason)
    times = latency(sampled["samples_s"])
    return Record(
        case,
        "ok",
        quality=judged["quality"],
        fidelity=judged["fidelity"],
        latency=times,
        throughput_items_per_s=case.batch * len(sampled["samples_s"]) / sum(sampled["samples_s"]),
        load_s=opened["load_s"],
        first_call_s=opened["first_call_s"],
        peak_rss_bytes=sampled["peak_rss_bytes"],
        artifact={"digest": artifact.digest, "bytes": artifact.bytes, "format": engines.get(case.engine).format},
        samples_s=tuple(sampled["samples_s"]),
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


def _facts(case: Case, bench: Bench) -> dict[str, Any]:
    return {"case": case.axes(), "cache": str(bench.cache), "data": None if bench.data is None else str(bench.data)}


def _worker(case: Case, bench: Bench, threads: int, told: Callable[[str, int, int], None] | None = None) -> Worker:
    environment = engines.get(case.engine).environment(threads)
    origins: dict[Origin, None] = {}
    for registry in (models, datasets, recipes, engines):
        origins |= dict.fromkeys(registry.origins().values())
    return Worker(environment | {"TORCHINDUCTOR_CACHE_DIR": str(bench.cache / "inductor")}, list(origins), told)
