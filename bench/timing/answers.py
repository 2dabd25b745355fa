"""What a worker does when it is asked: build, open, call, judge, explain. It runs in the worker's process."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from bench.timing.judging import evaluate, explain, kernel_facts, layers
from bench.timing.opened import bind, current, open_session


def _build(facts: dict[str, Any]) -> dict[str, str]:
    """Make what is missing of weights, reference outputs and the case's artefact; give both folders."""
    from bench.build.artefact import artefact_of
    from bench.build.reference import reference_of

    session = current(facts)
    reference = reference_of(session.store, session.source)
    case = session.case
    built = artefact_of(session.store, session.source, case.engine, case.precision, facts["most_drop"])
    gc.collect()  # exported programs refer to themselves in circles: a session that built 200 artefacts had 15 GB
    assert built is not None
    assert reference is not None
    return {"artifact": str(built.folder), "reference": str(reference.folder)}


def _refer(facts: dict[str, Any]) -> str:
    """Make what is missing of weights and reference outputs; give the folder of these."""
    from bench.build.reference import reference_of

    session = current(facts)
    reference = reference_of(session.store, session.source)
    gc.collect()
    assert reference is not None
    return str(reference.folder)


def _rank(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each layer costs alone in the case's precision, the one that costs most first."""
    from bench.build import sensitivity
    from bench.build.artefact import trial
    from bench.build.weights import weights_of
    from bench.engines import engines
    from bench.spec.model import recipe_for

    session = current(facts)
    network_weights = weights_of(session.store, session.source)
    assert network_weights is not None
    recipe = recipe_for(session.source.model, session.case.precision)
    tried = trial(engines.get(session.case.engine), recipe, session.source, network_weights)
    return [asdict(layer) for layer in sensitivity.ranked(tried, recipe)]


def _slice(facts: dict[str, Any]) -> dict[str, Any]:
    session = current(facts)
    predict, example = session.predict, session.example
    assert session.timer is not None
    taken = session.timer.slice(lambda: predict(example), facts["seconds"])
    return asdict(taken) | {"samples_s": [round(sample_s, 10) for sample_s in taken.samples_s]}


def _usage(facts: dict[str, Any]) -> dict[str, Any]:
    """What this process has used: CPU seconds of each thread, switches it did not ask for, peak memory in bytes."""
    process = psutil.Process()
    return {
        "threads_s": {str(thread.id): thread.user_time + thread.system_time for thread in process.threads()},
        "involuntary_switches": getattr(process.num_ctx_switches(), "involuntary", None),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _installed(facts: dict[str, Any]) -> dict[str, Any]:
    """Which libraries this interpreter finds, and where; the models' modules are imported, and have had their say."""
    from bench.machine.interpreter import Interpreter

    return asdict(Interpreter.here(facts["packages"]))


_probes: dict[str, Any] = {}


def _probe(facts: dict[str, Any]) -> dict[str, float]:
    from bench.machine.probes import probe

    if not _probes:
        bind(facts["cores"])
    return probe(_probes, facts["threads"])


def _peak(facts: dict[str, Any]) -> dict[str, Any]:
    from bench.machine.probes import peaks

    bind(facts["cores"])
    return peaks(facts["threads"])


QUESTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "refer": _refer,
    "build": _build,
    "rank": _rank,
    "open": open_session,
    "slice": _slice,
    "usage": _usage,
    "probe": _probe,
    "peak": _peak,
    "evaluate": evaluate,
    "explain": explain,
    "installed": _installed,
    "kernel": kernel_facts,
    "layers": layers,
}


def peak_rss_bytes() -> int | None:
    """The most resident memory this process has had, in bytes; None where the system does not tell.

    Linux: VmHWM, since ru_maxrss there also counts the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
