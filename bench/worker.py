"""The clean process that owns one engine session, and the handle by which the harness asks it.

Questions and answers are JSON, one line each. The worker's own standard output is sent to its log, so that whatever a
library prints cannot pass for an answer.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from bench import errors
from bench.case import Case
from bench.progress import send_to
from bench.registry import Origin
from bench.sampling import Schedule, sample

LOG_LINES = 5


class Worker:
    """A fresh interpreter that answers questions until it is closed; use it as a context manager.

    environment  variables put over this process's own before anything is imported there.
    origins      modules it imports to know the same models, engines and data as this process.
    told         gets (label, done, total) whenever the worker tells its progress.
    """

    def __init__(
        self,
        environment: dict[str, str],
        origins: list[Origin],
        told: Callable[[str, int, int], None] | None = None,
        python: str = sys.executable,
    ) -> None:
        self._told = told
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [python, "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | environment,
            text=True,
            start_new_session=True,  # a process group of its own, so that what libraries fork there ends with it
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._origins = [asdict(origin) for origin in origins]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(None)

    def ask(self, question: str, timeout_s: float, **facts: Any) -> Any:
        """Give the answer to a question, one of QUESTIONS.

        Raises the BenchError that the worker raised, or WorkerError with its last lines where it died, hung for
        longer than `timeout_s` or answered rubbish; it is dead then.
        """
        assert self._process.stdin is not None
        line = json.dumps({"question": question, "facts": facts, "origins": self._origins})
        try:
            self._process.stdin.write(line + "\n")
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
            answer = json.loads(text)
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
        return f"the worker {how} while it answered {question!r}{self._last()}"

    def _last(self) -> str:
        """The last lines it left in its log, to be put behind a reason."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"; its last lines: {' | '.join(lines[-LOG_LINES:])}" if lines else ""

    def close(self) -> None:
        """End the process and all that it has started, by force after 5 s."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died with a question unread: nothing is left to close
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _kill_group(self._process.pid)
        self._listener.join()
        self._log.close()


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


def _build(facts: dict[str, Any]) -> None:
    """Make what is missing of the weights, the reference outputs and the case's artefact."""
    from bench import build

    session = _current(facts)
    build.reference(session.store, session.source)
    build.artifact(session.store, session.source, session.case.engine, session.case.precision)


def _open(facts: dict[str, Any]) -> dict[str, float]:
    """Load the artefact and make the first call: load_s includes the import of the engine."""
    import numpy as np

    from bench import build
    from bench.engines import engines
    from bench.recipe import recipes

    session = _current(facts)
    case, source = session.case, session.source
    inputs = build.load_data(source, "test").inputs
    session.example = source.model.preprocess(inputs[np.arange(case.batch) % len(inputs)])
    recipe = recipes.get(case.precision)

    def network() -> Any:
        bare = build.architecture(source)
        return bare if recipe.rewrite is None else recipe.rewrite(bare)

    began = time.perf_counter()
    session.predict = engines.get(case.engine).load(
        Path(facts["artifact"]), recipe, network, session.example, case.threads
    )
    loaded = time.perf_counter()
    session.predict(session.example)
    return {"load_s": loaded - began, "first_call_s": time.perf_counter() - loaded}


def _sample(facts: dict[str, Any]) -> dict[str, Any]:
    session = _current(facts)
    predict, example = session.predict, session.example
    return {
        "samples_s": sample(lambda: predict(example), Schedule(**facts["schedule"])),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _evaluate(facts: dict[str, Any]) -> dict[str, Any]:
    """Judge the session on the whole test split, in batches of the case's size."""
    import numpy as np

    from bench import build
    from bench.tasks import sqnr_db, tasks

    session = _current(facts)
    source = session.source
    samples = build.load_data(source, "test")
    spent_s = 0.0

    def predict(batch: np.ndarray) -> np.ndarray:
        nonlocal spent_s
        began = time.perf_counter()
        outputs = session.predict(batch)
        spent_s += time.perf_counter() - began
        return outputs

    outputs = build.predictions(predict, source, samples.inputs, session.case.batch)
    reference = np.load(Path(facts["reference"]) / "outputs.npy", allow_pickle=False)
    task = tasks.get(source.model.task)
    return {
        "quality": task.quality(outputs, samples.targets)
        | {"n": len(outputs), "dataset": source.dataset.name, "weights": source.weights.name, "dataset_s": spent_s},
        "fidelity": {"sqnr_db": sqnr_db(outputs, reference), "agreement": task.agreement(outputs, reference)},
    }


QUESTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "build": _build,
    "open": _open,
    "sample": _sample,
    "evaluate": _evaluate,
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
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer questions from standard input until it ends."""
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


if __name__ == "__main__":
    main()
