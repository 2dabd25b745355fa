"""The clean process that owns one engine session, and the handle by which the harness asks it.

Questions and answers are JSON, one line each. The worker's own standard output is sent to its log, so that whatever a
library prints cannot pass for an answer.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from bench import errors
from bench.machine.facts import energy_j
from bench.progress import send_to, tell
from bench.spec.case import Case
from bench.spec.registry import Origin
from bench.timing.sampling import Timer, call_overhead_s, warmed

# The harness comes from its own folder alone: the one that this lies in would bring all the libraries installed there.
START = """
import importlib.util, sys
folder = sys.argv[2]
spec = importlib.util.spec_from_file_location("bench", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["bench"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["bench"])
from bench.timing.worker import main
main()
"""
LOG_LINES = 5
LOG_BYTES = 65536
LOOK_S = 1.0
ALIVE_CORES = 0.05  # what a process that only waits uses is far below, what one that computes far above
GONE_S = 5.0
MARK = "BENCH_WORKER"


class Worker:
    """A fresh interpreter that answers questions until it is closed; use it as a context manager.

    environment  variables put over this process's own before anything is imported there.
    origins      modules it imports to know the same models, engines and data as this process.
    told         gets (label, done, total) whenever the worker tells its progress.
    python       the interpreter; another one runs this same harness on its own libraries.
    memory_bytes  the most private memory it may have, None for no limit.
    """

    def __init__(
        self,
        environment: dict[str, str],
        origins: list[Origin],
        told: Callable[[str, int, int], None] | None = None,
        python: str = sys.executable,
        memory_bytes: int | None = None,
    ) -> None:
        self._told = told
        self._mark = uuid.uuid4().hex
        self.suspended = False
        self._process = subprocess.Popen(
            [python, "-c", START, json.dumps({"memory_bytes": memory_bytes}), str(Path(__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment | {MARK: self._mark},
            process_group=0 if hasattr(os, "killpg") else None,  # what libraries fork in it ends with it
        )
        self._log = bytearray()
        self._drain = threading.Thread(target=self._keep_last, daemon=True)
        self._drain.start()
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._origins = [asdict(origin) for origin in origins]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line.decode(errors="replace"))
        self._answers.put(None)

    def _keep_last(self) -> None:
        """Read what it prints as fast as it comes, and keep the end of it: a flood fills neither memory nor disk."""
        assert self._process.stderr is not None
        with self._process.stderr as log:
            while said := os.read(log.fileno(), LOG_BYTES):
                self._log += said
                del self._log[:-LOG_BYTES]

    def suspend(self) -> None:
        """Stop the process where it is, so that neither it nor its thread pools use a CPU."""
        if not self.suspended:
            self._signal(psutil.Process.suspend)
            self.suspended = True

    def resume(self) -> None:
        """Let a suspended process go on."""
        if self.suspended:
            self._signal(psutil.Process.resume)
            self.suspended = False

    def _signal(self, what: Callable[[psutil.Process], None]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it died: the next question says so
            what(psutil.Process(self._process.pid))

    def ask(self, question: str, timeout_s: float, busy: int = 1, **facts: Any) -> Any:
        """Give the answer to a question, one of QUESTIONS.

        timeout_s  the longest it may be without a sign of life: its progress, or, where `busy` is more than 1, that it
                   or what it has started uses a CPU.
        busy       how many times as long it may go on using CPUs and tell no progress.

        Raises the BenchError that the worker raised, or WorkerError with its last lines where it died, hung or answered
        rubbish; it is dead then.
        """
        assert self._process.stdin is not None
        self.resume()
        line = json.dumps({"question": question, "facts": facts, "origins": self._origins})
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise errors.WorkerError(self._obituary(question)) from None
        patience = Patience(timeout_s, busy * timeout_s, time.monotonic())
        while True:
            try:
                text = self._answers.get(timeout=patience.look_s(time.monotonic()))
            except queue.Empty:
                reason = patience.lost(time.monotonic(), cpu_s(self._process.pid) if busy > 1 else 0.0)
                if reason is None:
                    continue
                self._kill()
                raise errors.WorkerError(f"no answer to {question!r} {reason}; it was killed{self._last()}") from None
            if text is None:
                raise errors.WorkerError(self._obituary(question))
            try:
                answer = dict(json.loads(text))
            except (ValueError, TypeError):
                self._kill()
                raise errors.WorkerError(
                    f"the worker answered {question!r} with rubbish, {text[:80]!r}; it was killed{self._last()}"
                ) from None
            if "progress" in answer:
                patience.told(time.monotonic())
                if self._told is not None:
                    self._told(*answer["progress"])
            elif "error" in answer:
                kind = getattr(errors, answer["error"], errors.WorkerError)
                raise kind(answer["message"])
            else:
                return answer["answer"]

    def _kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may keep it for a while
            self._process.wait(timeout=GONE_S)

    def _obituary(self, question: str) -> str:
        try:
            code = self._process.wait(timeout=GONE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return f"the worker closed its answers while it answered {question!r}; it was killed{self._last()}"
        how = f"was ended by signal {-code}" if code < 0 else f"exited with status {code}"
        if code == -9:
            how += " (as the kernel does where memory runs out)"
        return f"the worker {how} while it answered {question!r}{self._last()}"

    def _last(self) -> str:
        """The last lines that it printed, to be put behind a reason."""
        if self._process.poll() is not None:
            self._drain.join(timeout=1)  # what it forked may hold the pipe open
        lines = bytes(self._log).decode(errors="replace").strip().splitlines()
        return f"; its last lines: {' | '.join(line[:200] for line in lines[-LOG_LINES:])}" if lines else ""

    def close(self) -> None:
        """End the process and all that it has started, by force after 5 s."""
        assert self._process.stdin is not None
        self.resume()
        with contextlib.suppress(OSError):  # it died with a question unread: nothing is left to close
            self._process.stdin.close()
        try:
            self._process.wait(timeout=GONE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        _kill_group(self._process.pid)
        _kill_marked(self._mark)
        for reader in (self._listener, self._drain):
            reader.join(GONE_S)  # what holds a pipe open though it was killed, or hid, shall not hold up the session


def _kill_group(leader: int) -> None:
    """Kill a process group, 0 for this process's own; nothing where it is gone, or where there are no groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def _kill_marked(mark: str) -> None:
    """Kill what was started with a worker's mark in its environment and is still there, in whatever session or group,
    whoever is its parent by now; not this process itself.
    """
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == mark and process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                process.kill()


def cpu_s(pid: int) -> float:
    """The CPU seconds that a process and what it has started have used, as far as they are still there or were waited
    for; 0 where it is gone.
    """
    used = 0.0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
                used += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return used


@dataclass
class Patience:
    """When a worker that does not answer is given up.

    idle_s  the longest without a sign of life: a message, or CPU time used.
    busy_s  the longest without a message, whatever it uses.
    now_s   when it was asked, in seconds of some clock.
    """

    idle_s: float
    busy_s: float
    now_s: float

    def __post_init__(self) -> None:
        self._message_s = self._sign_s = self._looked_s = self.now_s
        self._used_s = 0.0

    def look_s(self, now_s: float) -> float:
        """For how long to wait for a message before looking at what it uses."""
        due_s = min(self._sign_s + self.idle_s, self._message_s + self.busy_s) - now_s
        return max(0.0, due_s if self.busy_s <= self.idle_s else min(due_s, LOOK_S))

    def told(self, now_s: float) -> None:
        """Note that a message came."""
        self._message_s = self._sign_s = now_s

    def lost(self, now_s: float, used_s: float) -> str | None:
        """The reason to give it up, by the CPU seconds that it has used by now; None where there is none yet."""
        if used_s - self._used_s > ALIVE_CORES * (now_s - self._looked_s):
            self._sign_s = now_s
        self._used_s, self._looked_s = used_s, now_s
        if now_s - self._message_s >= self.busy_s:
            return f"within {self.busy_s:g} s" + (" of using the CPU" if self.busy_s > self.idle_s else "")
        return f"within {self.idle_s:g} s without using the CPU" if now_s - self._sign_s >= self.idle_s else None


# What follows runs in the worker's process.


@dataclass
class Session:
    """What one worker holds: the case's parts and, once opened, the engine's session."""

    case: Case
    source: Any
    store: Any
    predict: Any = None
    example: Any = None
    example_digest: str = ""
    interface: Any = None
    opened: tuple[Any, ...] = ()
    timer: Timer | None = None


_session: Session | None = None


def _current(facts: dict[str, Any]) -> Session:
    """The session that the facts `case`, `cache` and `data` speak of; made at the first question about it."""
    global _session
    from bench.spec.model import models, source
    from bench.store import Store

    case = Case(**facts["case"])
    if _session is None or _session.case != case:
        folder = None if facts["data"] is None else Path(facts["data"])
        _session = Session(case, source(models.get(case.model), folder), Store(Path(facts["cache"])))
    return _session


def _build(facts: dict[str, Any]) -> dict[str, str]:
    """Make what is missing of weights, reference outputs and the case's artefact; give both folders."""
    from bench.build import artefact as build

    session = _current(facts)
    reference = build.reference(session.store, session.source)
    case = session.case
    built = build.artifact(session.store, session.source, case.engine, case.precision, facts["most_drop"])
    gc.collect()  # exported programs refer to themselves in circles: a session that built 200 artefacts had 15 GB
    assert built is not None
    assert reference is not None
    return {"artifact": str(built.folder), "reference": str(reference.folder)}


def _refer(facts: dict[str, Any]) -> str:
    """Make what is missing of weights and reference outputs; give the folder of these."""
    from bench.build import artefact as build

    session = _current(facts)
    reference = build.reference(session.store, session.source)
    gc.collect()
    assert reference is not None
    return str(reference.folder)


def _rank(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each layer costs alone in the case's precision, the one that costs most first."""
    from bench.build import artefact as build
    from bench.build import sensitivity
    from bench.engines import engines
    from bench.spec.model import recipe_for

    session = _current(facts)
    network_weights = build.weights(session.store, session.source)
    assert network_weights is not None
    recipe = recipe_for(session.source.model, session.case.precision)
    trial = build.trial(engines.get(session.case.engine), recipe, session.source, network_weights)
    return [asdict(layer) for layer in sensitivity.ranked(trial, recipe)]


def _open(facts: dict[str, Any]) -> dict[str, Any]:
    """Load the artefact, make the first call, call on until it is steady; load_s includes the import of the engine."""
    import numpy as np

    from bench.build import artefact as build
    from bench.engines import engines
    from bench.spec.interface import Interface, adapted
    from bench.spec.model import recipe_for

    session = _current(facts)
    case, source, reference = session.case, session.source, Path(facts["reference"])
    inputs = np.load(reference / "inputs.npy", allow_pickle=False)
    session.example = np.array(inputs[np.arange(case.batch) % len(inputs)], order="C")
    session.example_digest = _digest(session.example)
    session.interface = Interface.saved(json.loads((reference / build.INTERFACE).read_text()))
    recipe = build.as_built(recipe_for(source.model, case.precision), Path(facts["artifact"]))

    def network() -> Any:
        bare = build.folded(build.architecture(source))
        return adapted(bare if recipe.rewrite is None else recipe.rewrite(bare), session.interface)

    session.opened = (Path(facts["artifact"]), recipe, network, session.example, case.threads)
    began = time.perf_counter()
    session.predict = engines.get(case.engine).load(*session.opened)
    loaded = time.perf_counter()
    session.predict(session.example)
    first_call_s = time.perf_counter() - loaded
    _bind(facts["cores"])
    steady = warmed(lambda: session.predict(session.example))
    session.timer = Timer(steady.pop("typical_s"), meter=energy_j)
    _unchanged(session)
    engine = engines.get(case.engine)
    return {
        "load_s": loaded - began,
        "first_call_s": first_call_s,
        "steady": steady,
        "calls_per_sample": session.timer.together,
        "versions": build.versions(engine.packages) | {"python": platform.python_version()},
        "pool": engine.pool(),
        "left": recipe.left,
        "calibration": build.calibration_of(Path(facts["artifact"])),
        "writes_input": session.interface.writes_input,
        "left_by": recipe.left_by,
        "call_overhead_s": call_overhead_s(),
    }


def _digest(array: Any) -> str:
    """What tells an array from one that was written into."""
    return hashlib.blake2b(array, digest_size=16).hexdigest()


def _unchanged(session: Session) -> None:
    """Raise WorkerError where the array that calls are timed with is no longer what it was at the first of them."""
    if _digest(session.example) != session.example_digest:
        raise errors.WorkerError(
            f"{session.case.engine} writes into the array that it is called with, so that times would be of other "
            "numbers; its predict must leave its input as it is"
        )


def _bind(cores: list[int] | None) -> None:
    """Bind all threads of this process to these CPUs; threads that they start later inherit it.

    Done when the session is open: until then, nothing is timed that others could be disturbed by.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread.id, cores)


def _slice(facts: dict[str, Any]) -> dict[str, Any]:
    session = _current(facts)
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


def _evaluate(facts: dict[str, Any]) -> dict[str, Any]:
    """Judge the session on the whole test split, in batches of the case's size."""
    import numpy as np

    from bench.build import artefact as build
    from bench.statistics import paired_drop
    from bench.tasks import digests, likeness, tasks, told_of_truth
    from bench.tasks.inference import answered, load_answers

    session = _current(facts)
    _unchanged(session)
    source, reference = session.source, Path(facts["reference"])
    samples = build.load_data(source, "test")
    spent_s, done = 0.0, 0

    def predict(batch: np.ndarray) -> Any:
        nonlocal spent_s, done
        began = time.perf_counter()
        outputs = session.predict(batch)
        spent_s += time.perf_counter() - began
        done += 1
        tell("judging, batches", done, done)
        return outputs

    found = answered(predict, source.model, samples.inputs, session.case.batch, session.interface)
    known = load_answers(reference / "answers.npz")
    outputs, whole = (np.load(reference / name, allow_pickle=False) for name in ("outputs.npy", "whole.npy"))
    raw = likeness(found.raw, outputs, whole)
    nearness = {"sqnr_db": raw.pop("sqnr_db")} | ({"agreement": raw["agreement"]} if whole.any() else {})
    task = tasks.get(source.model.task)
    names, doubts = _pictures(facts["pictures"], session, samples, found.answers, known)
    return {
        "pictures": names,
        "warnings": doubts,
        "raw": raw,
        "quality": {"n": len(known)}
        | told_of_truth(task.quality(found.answers, samples.targets), source.dataset.name)
        | {"dataset": source.dataset.name, "weights": source.weights.name, "dataset_s": spent_s},
        "fidelity": nearness | task.fidelity(found.answers, known),
        "drop": {
            name: asdict(paired_drop(was, is_now))
            for (name, was), is_now in zip(
                task.scores(known, samples.targets).items(),
                task.scores(found.answers, samples.targets).values(),
                strict=True,
            )
            if len(was)
        },
        "answers": digests(task, found.answers),
        "macs_per_item": json.loads((reference / "macs.json").read_text())["macs_per_item"],
    }


def _pictures(
    folder: str | None, session: Session, samples: Any, answers: list[Any], known: list[Any]
) -> tuple[list[str], list[str]]:
    """The names of the strips of pictures written to the folder, and the reason where none could be: what was measured
    stands without them.
    """
    from bench.tasks import pictures, tasks

    if folder is None:
        return [], []
    task = tasks.get(session.source.model.task)
    try:
        return pictures.write(Path(folder), session.case.id, task, samples.inputs, samples.targets, answers, known), []
    except Exception as error:  # whatever an item is, drawing it is an extra
        traceback.print_exc()
        return [], [f"no strip of pictures: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]


def _explain(facts: dict[str, Any]) -> dict[str, Any]:
    """What a call executes, by the engine's own profiler; nothing where it has none."""
    from bench.engines import engines
    from bench.engines.operations import explained

    session = _current(facts)
    found = engines.get(session.case.engine).operations(*session.opened)
    return {} if found is None else explained(found, session.opened[1].number_format == "int8")


def _kernel(facts: dict[str, Any]) -> dict[str, Any]:
    """Whether the engine's kernels compute what the quantized network says, on the first of the stored inputs."""
    import numpy as np

    from bench.engines import engines, kernel

    session = _current(facts)
    case, reference = session.case, Path(facts["reference"])
    emulation = engines.get(case.engine).emulated(*session.opened)
    if emulation is None:
        return {
            "kernel_db": None,
            "by": None,
            "reason": f"{case.engine} tells of no floating-point form of its artefacts",
        }
    inputs = np.load(reference / "inputs.npy", allow_pickle=False)
    known = np.load(reference / "outputs.npy", mmap_mode="r", allow_pickle=False)[: len(inputs)]
    count = max(case.batch, min(kernel.ITEMS, len(inputs)) // case.batch * case.batch)
    places = np.arange(count) % len(inputs)
    batches = [inputs[some] for some in np.split(places, count // case.batch)]
    return kernel.compared(session.predict, emulation, batches, np.asarray(known[:count]))


def _layers(facts: dict[str, Any]) -> dict[str, Any]:
    """What of the network the artefact holds in which number format; nothing where the engine cannot be counted."""
    from bench.engines import engines
    from bench.engines.lowered import lowered, promised
    from bench.engines.torch import predictor
    from bench.engines.torch_count import batch_of, layers_of, products_of

    session = _current(facts)
    engine, (_, recipe, network, example, _) = engines.get(session.case.engine), session.opened
    layers = engine.layers(*session.opened)
    if layers is None:
        return {}
    share = 1.0
    if recipe.partial or recipe.activations == "dynamic":
        predict = predictor(network())
        share = promised(layers_of(products_of(lambda: predict(example)), batch_of(example)), recipe, engine.dynamic)
    return lowered(layers, recipe.number_format, share)


def _installed(facts: dict[str, Any]) -> dict[str, Any]:
    """Which libraries this interpreter finds, and where; the models' modules are imported, and have had their say."""
    from bench.machine.interpreter import Interpreter

    return asdict(Interpreter.here(facts["packages"]))


_probes: dict[str, Any] = {}


def _probe(facts: dict[str, Any]) -> dict[str, float]:
    from bench.machine.noise import probe

    if not _probes:
        _bind(facts["cores"])
    return probe(_probes, facts["threads"])


def _peak(facts: dict[str, Any]) -> dict[str, Any]:
    from bench.machine.noise import peaks

    _bind(facts["cores"])
    return peaks(facts["threads"])


QUESTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "refer": _refer,
    "build": _build,
    "rank": _rank,
    "open": _open,
    "slice": _slice,
    "usage": _usage,
    "probe": _probe,
    "peak": _peak,
    "evaluate": _evaluate,
    "explain": _explain,
    "installed": _installed,
    "kernel": _kernel,
    "layers": _layers,
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


def _settle(memory_bytes: int | None) -> None:
    """Bind this process to its memory, and its end to that of the session; Linux has both."""
    if sys.platform == "linux":
        import ctypes

        # a stopped process would not see its input end: it is woken when the session dies, however that comes
        ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # PR_SET_PDEATHSIG
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # the kernel shall take the worker, not the session
    if memory_bytes is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def main() -> None:
    """Answer questions from standard input until it ends."""
    _settle(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # what a dying library said last is in the log
    questions: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            questions.put(line)
        _kill_marked(os.environ.get(MARK, ""))
        _kill_group(0)  # the session is over, or dead: no worker outlives it, whatever it or its children are doing
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    said = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with said:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    send_to(lambda label, done, total: say({"progress": [label, done, total]}))
    while True:
        asked = json.loads(questions.get())
        try:
            for origin in asked["origins"]:
                Origin(**origin).load()
            say({"answer": QUESTIONS[asked["question"]](asked["facts"])})
        except errors.BenchError as error:
            say({"error": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            words = str(error).split("\n\n")[0]  # what follows is advice on debugging, and in the log
            say({"error": "WorkerError", "message": f"{asked['question']}: {type(error).__name__}: {words}"})
