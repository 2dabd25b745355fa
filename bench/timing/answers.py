"""The function behind each question: build, open, call, judge, explain. They run in the worker's process."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.machine.interpreter import Interpreter
from bench.machine.probes import Call, Peak
from bench.timing import protocol
from bench.timing.judging import evaluate, explain, kernel_facts, layers
from bench.timing.opened import bind, loaded, open_session
from bench.timing.protocol import Built, Question, Usage
from bench.timing.sampling import Slice

if TYPE_CHECKING:
    from bench.build.bill import Bill
    from bench.build.sensitivity import Layer


def _bill(target: protocol.Target) -> Bill:
    from bench.build.bill import Bill
    from bench.spec.model import models, source
    from bench.store import Store

    return Bill(Store(target.cache), source(models.get(target.case.model), target.data))


def _build(asked: protocol.Build) -> Built:
    bill, case = _bill(asked.target), asked.target.case
    reference = bill.reference()
    built = bill.artefact(case.engine, case.precision, asked.target.most_drop)
    gc.collect()  # exported programs hold reference cycles: a session that built 200 artefacts had 15 GB
    return Built(built.folder, reference.folder)


def _refer(asked: protocol.Refer) -> Path:
    reference = _bill(asked.target).reference()
    gc.collect()
    return reference.folder


def _rank(asked: protocol.Rank) -> tuple[Layer, ...]:
    from bench.build import sensitivity
    from bench.build.artefact import trial
    from bench.engines import engines
    from bench.spec.model import recipe_for

    bill, case = _bill(asked.target), asked.target.case
    recipe = recipe_for(bill.source.model, case.precision)
    return tuple(sensitivity.ranked(trial(engines.get(case.engine), recipe, bill.source, bill.weights), recipe))


def _slice(asked: protocol.TakeSlice) -> Slice:
    session = loaded()
    predict, batch = session.predict, session.batch
    taken = session.timer.slice(lambda: predict(batch), asked.seconds)
    return dataclasses.replace(taken, samples_s=[round(sample_s, 10) for sample_s in taken.samples_s])


def _usage(asked: protocol.AskUsage) -> Usage:
    process = psutil.Process()
    return Usage(
        threads_s={str(thread.id): thread.user_time + thread.system_time for thread in process.threads()},
        involuntary_switches=getattr(process.num_ctx_switches(), "involuntary", None),
        peak_rss_bytes=peak_rss_bytes(),
    )


def _installed(asked: protocol.AskInstalled) -> Interpreter:
    """The interpreter after the models' modules are imported: they can change where libraries are found."""
    return Interpreter.here(asked.packages)


_probes: dict[str, Call] = {}


def _probe(asked: protocol.Probe) -> dict[str, float]:
    from bench.machine.probes import probe

    if not _probes:
        bind(asked.cores)
    return probe(_probes, asked.threads)


def _peaks(asked: protocol.MeasurePeaks) -> dict[str, Peak]:
    from bench.machine.probes import peaks

    bind(asked.cores)
    return peaks(asked.threads)


ANSWERS: dict[type[Question[Any]], Callable[[Any], Any]] = {
    protocol.Refer: _refer,
    protocol.Build: _build,
    protocol.Rank: _rank,
    protocol.Open: open_session,
    protocol.TakeSlice: _slice,
    protocol.AskUsage: _usage,
    protocol.Probe: _probe,
    protocol.MeasurePeaks: _peaks,
    protocol.Evaluate: evaluate,
    protocol.Explain: explain,
    protocol.AskInstalled: _installed,
    protocol.AskKernel: kernel_facts,
    protocol.AskLayers: layers,
}


def peak_rss_bytes() -> int | None:
    """Peak resident memory of this process, in bytes; None where the system does not report it.

    On Linux it is VmHWM: ru_maxrss there also counts the process that started this one.
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
