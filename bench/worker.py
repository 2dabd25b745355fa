"""The clean process that owns one engine session, and the handle by which the harness asks it.

Questions and answers are JSON, one line each. The worker's own standard output is sent to its log, so that whatever a
library prints cannot pass for an answer.
"""

from __future__ import annotations

import contextlib
import gc
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from bench import errors
from bench.case import Case
from bench.progress import send_to
from bench.registry import Origin
from bench.sampling import call_overhead_s, timed, warmed

# The harness comes from its own folder alone: the one that this lies in would bring all the libraries installed there.
START = """
import importlib.util, sys
folder = sys.argv[2]
spec = importlib.util.spec_from_file_location("bench", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["bench"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["bench"])
from bench.worker import main
main()
"""
LOG_LINES = 5
LOG_BYTES = 65536


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
        self.suspended = False
        self._process = subprocess.Popen(
            [python, "-c", START, json.dumps({"memory_bytes": memory_bytes}), str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
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

    def ask(self, question: str, timeout_s: float, **facts: Any) -> Any:
        """Give the answer to a question, one of QUESTIONS.

        Raises the BenchError that the worker raised, or WorkerError with its last lines where it died, hung for
        longer than `timeout_s` or answered rubbish; it is dead then.
        """
        assert self._process.stdin is not None
        self.resume()
        line = json.dumps({"question": question, "facts": facts, "origins": self._origins})
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise errors.WorkerError(self._obituary(question)) from None
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                text = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._process.kill()
                self._process.wait()
                raise errors.WorkerError(
                    f"no answer to {question!r} within {timeout_s:g} s; it was killed{self._last()}"
                ) from None
            if text is None:
                raise errors.WorkerError(self._obituary(question))
            try:
                answer = dict(json.loads(text))
            except (ValueError, TypeError):
                self._process.kill()
                raise errors.WorkerError(
                    f"the worker answered {question!r} with rubbish, {text[:80]!r}; it was killed{self._last()}"
                ) from None
            if "progress" in answer:
                if self._told is not None:
                    self._told(*answer["progress"])
            elif "error" in answer:
                kind = getattr(errors, answer["error"], errors.WorkerError)
                raise kind(answer["message"])
            else:
                return answer["answer"]

    def _obituary(self, question: str) -> str:
        code = self._process.wait()
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
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _kill_group(self._process.pid)
        self._listener.join()
        self._drain.join()


def _kill_group(leader: int) -> None:
    """Kill a process group, 0 for this process's own; nothing where it is gone, or where there are no groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


# What follows runs in the worker's process.


@dataclass
class Session:
    """What one worker holds: the case's parts and, once opened, the engine's session."""

    case: Case
    source: Any
    store: Any
    predict: Any = None
    example: Any = None
    opened: tuple[Any, ...] = ()
    typical_s: float = 0.0


_session: Session | None = None


def _current(facts: dict[str, Any]) -> Session:
    """The session that the facts `case`, `cache` and `data` speak of; made at the first question about it."""
    global _session
    from bench.artifact import Store
    from bench.model import models, source

    case = Case(**facts["case"])
    if _session is None or _session.case != case:
        folder = None if facts["data"] is None else Path(facts["data"])
        _session = Session(case, source(models.get(case.model), folder), Store(Path(facts["cache"])))
    return _session


def _build(facts: dict[str, Any]) -> dict[str, str]:
    """Make what is missing of weights, reference outputs and the case's artefact; give both folders."""
    from bench import build

    session = _current(facts)
    reference = build.reference(session.store, session.source)
    case = session.case
    built = build.artifact(session.store, session.source, case.engine, case.precision, facts["most_drop"])
    gc.collect()  # exported programs refer to themselves in circles: a session that built 200 artefacts had 15 GB
    assert built is not None
    assert reference is not None
    return {"artifact": str(built.folder), "reference": str(reference.folder)}


def _rank(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each layer costs alone in the case's precision, the one that costs most first."""
    from bench import build, sensitivity
    from bench.engines import engines
    from bench.model import recipe_for

    session = _current(facts)
    network_weights = build.weights(session.store, session.source)
    assert network_weights is not None
    recipe = recipe_for(session.source.model, session.case.precision)
    trial = build.trial(engines.get(session.case.engine), recipe, session.source, network_weights)
    return [asdict(layer) for layer in sensitivity.ranked(trial, recipe)]


def _open(facts: dict[str, Any]) -> dict[str, Any]:
    """Load the artefact, make the first call, call on until it is steady; load_s includes the import of the engine."""
    import numpy as np

    from bench import build
    from bench.engines import engines
    from bench.model import recipe_for

    session = _current(facts)
    case, source = session.case, session.source
    inputs = np.load(Path(facts["reference"]) / "inputs.npy", allow_pickle=False)
    session.example = inputs[np.arange(case.batch) % len(inputs)]
    recipe = build.as_built(recipe_for(source.model, case.precision), Path(facts["artifact"]))

    def network() -> Any:
        bare = build.architecture(source)
        return bare if recipe.rewrite is None else recipe.rewrite(bare)

    session.opened = (Path(facts["artifact"]), recipe, network, session.example, case.threads)
    began = time.perf_counter()
    session.predict = engines.get(case.engine).load(*session.opened)
    loaded = time.perf_counter()
    session.predict(session.example)
    first_call_s = time.perf_counter() - loaded
    _bind(facts["cores"])
    steady = warmed(lambda: session.predict(session.example))
    session.typical_s = steady.pop("typical_s")
    engine = engines.get(case.engine)
    return {
        "load_s": loaded - began,
        "first_call_s": first_call_s,
        "steady": steady,
        "versions": build.versions(engine.packages) | {"python": platform.python_version()},
        "pool": engine.pool(),
        "left": recipe.left,
        "call_overhead_s": call_overhead_s(),
    }


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
    taken = timed(lambda: predict(example), facts["seconds"], session.typical_s)
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

    from bench import build, pictures
    from bench.inference import answered, load_answers
    from bench.statistics import paired_drop
    from bench.tasks import digests, sqnr_db, tasks

    session = _current(facts)
    source, reference = session.source, Path(facts["reference"])
    samples = build.load_data(source, "test")
    spent_s = 0.0

    def predict(batch: np.ndarray) -> Any:
        nonlocal spent_s
        began = time.perf_counter()
        outputs = session.predict(batch)
        spent_s += time.perf_counter() - began
        return outputs

    found = answered(predict, source.model, samples.inputs, session.case.batch)
    known, raw = load_answers(reference / "answers.npz"), np.load(reference / "outputs.npy", allow_pickle=False)
    task = tasks.get(source.model.task)
    folder = facts["pictures"]
    return {
        "pictures": []
        if folder is None
        else pictures.write(Path(folder), session.case.id, task, samples.inputs, samples.targets, found.answers, known),
        "quality": task.quality(found.answers, samples.targets)
        | {"n": len(known), "dataset": source.dataset.name, "weights": source.weights.name, "dataset_s": spent_s},
        "fidelity": {"sqnr_db": sqnr_db(found.raw, raw)} | task.fidelity(found.answers, known),
        "drop": {
            name: asdict(paired_drop(was, is_now))
            for (name, was), is_now in zip(
                task.scores(known, samples.targets).items(),
                task.scores(found.answers, samples.targets).values(),
                strict=True,
            )
        },
        "answers": digests(task, found.answers),
        "macs_per_item": json.loads((reference / "macs.json").read_text())["macs_per_item"],
    }


def _explain(facts: dict[str, Any]) -> dict[str, Any]:
    """What a call executes, by the engine's own profiler; nothing where it has none."""
    from bench.engines import engines
    from bench.explain import explained

    session = _current(facts)
    found = engines.get(session.case.engine).operations(*session.opened)
    return {} if found is None else explained(found, session.opened[1].number_format == "int8")


def _installed(facts: dict[str, Any]) -> dict[str, Any]:
    """Which libraries this interpreter finds, and where; the models' modules are imported, and have had their say."""
    from bench.interpreter import Interpreter

    return asdict(Interpreter.here(facts["packages"]))


_probes: dict[str, Any] = {}


def _probe(facts: dict[str, Any]) -> dict[str, float]:
    from bench.noise import probe

    if not _probes:
        _bind(facts["cores"])
    return probe(_probes, facts["threads"])


QUESTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "build": _build,
    "rank": _rank,
    "open": _open,
    "slice": _slice,
    "usage": _usage,
    "probe": _probe,
    "evaluate": _evaluate,
    "explain": _explain,
    "installed": _installed,
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
        _kill_group(0)  # the session is over, or dead: no worker outlives it, whatever it or its children are doing
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    send_to(lambda label, done, total: tell({"progress": [label, done, total]}))
    while True:
        asked = json.loads(questions.get())
        try:
            for origin in asked["origins"]:
                Origin(**origin).load()
            tell({"answer": QUESTIONS[asked["question"]](asked["facts"])})
        except errors.BenchError as error:
            tell({"error": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            said = str(error).split("\n\n")[0]  # the paragraphs after the first are advice on debugging, and in the log
            tell({"error": "WorkerError", "message": f"{asked['question']}: {type(error).__name__}: {said}"})
