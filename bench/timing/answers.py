"""The function behind each question: build, open, call, judge, explain. They run in the worker's process."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.machine.devices.device import Meter, on_device
from bench.machine.interpreter import Interpreter
from bench.machine.probes import Call, Peak
from bench.timing import protocol
from bench.timing.evaluation import evaluate, explain, kernel_facts, layers
from bench.timing.opened import Loaded, bind, loaded, open_session
from bench.timing.protocol import Built, OnDeviceTimes, Question, Usage
from bench.timing.sampling import Slice

if TYPE_CHECKING:
    from bench.build.bill import Bill
    from bench.build.sensitivity import Layer


def _bill(target: protocol.Target) -> Bill:
    from bench.build.bill import Bill
    from bench.spec.model import models, source
    from bench.store import Store

    return Bill(Store(target.cache), source(models.get(target.case.model), target.data), limits=target.limits)


def _build(asked: protocol.Build) -> Built:
    bill, case = _bill(asked.target), asked.target.case
    reference = bill.reference(case.precision)
    built = bill.artefact(case.engine, case.precision, case.device)
    gc.collect()  # exported programs hold reference cycles: a session that built 200 artefacts had 15 GB
    return Built(built.folder, reference.folder)


def _refer(asked: protocol.Refer) -> Path:
    reference = _bill(asked.target).reference(asked.target.case.precision)
    gc.collect()
    return reference.folder


def _rank(asked: protocol.Rank) -> tuple[Layer, ...]:
    from bench.build import sensitivity
    from bench.build.artefact import trial
    from bench.engines import engine_of

    bill, case = _bill(asked.target), asked.target.case
    recipe = bill.recipe(case.precision)
    weights = bill.stage(recipe.steps) or bill.weights
    return tuple(sensitivity.ranked(trial(engine_of(case), recipe, bill.source, weights), recipe))


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


def _device(asked: protocol.AskDevice) -> OnDeviceTimes:
    session = loaded()
    device, resident = session.device, session.session.resident
    spell = None if resident is None else on_device(device, resident(session.batch))
    reason = None
    if resident is None:
        reason = f"{session.case.engine} has no call on inputs that lie on the device"
    elif spell is None:
        reason = "a call waits for the device, or the device has no clock"
    return OnDeviceTimes(
        spell,
        reason,
        device.allocated_bytes(),
        device.used_bytes(),
        _metered(session, asked.metered_s) if asked.metered_s > 0 else None,
    )


def _metered(
    session: Loaded,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Meter | None:
    """The device's energy over a block of calls; before it the idle device's power, over a fifth as long."""
    device, predict, batch = session.device, session.predict, session.batch
    idle_s, before_j, began = seconds / 5, device.energy_j(), clock()
    if before_j is None:
        return None
    sleep(idle_s)
    after_j, passed_s = device.energy_j(), clock() - began
    taken = dataclasses.replace(session.timer, meter=device.energy_j).slice(lambda: predict(batch), seconds)
    if taken.energy_j is None or taken.energy_j < 0:  # the counter wrapped around
        return None
    idle_j = None if after_j is None or after_j < before_j else after_j - before_j
    return Meter(taken.energy_j, taken.calls, None if idle_j is None else idle_j / passed_s)


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
    protocol.AskDevice: _device,
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
