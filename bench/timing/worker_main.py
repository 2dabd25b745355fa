"""The main loop of a worker: a fresh process that owns an engine session.

Messages are those of bench.timing.protocol. The worker's standard output goes to its log, so that nothing a library
prints can pass for an answer.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bench import errors
from bench.progress import send_to
from bench.spec.typed import of_type, to_json
from bench.timing.answers import ANSWERS
from bench.timing.protocol import Hello, Question
from bench.timing.worker import MARK, kill_group, kill_marked


def _settle(memory_bytes: int | None) -> None:
    """Limit this process's private memory, and end it with the session; both on Linux alone."""
    if sys.platform == "linux":
        import ctypes

        # a stopped process does not see its input end: the kernel wakes it when the session dies, for whatever reason
        ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # PR_SET_PDEATHSIG
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory: kill the worker, not the session
    if memory_bytes is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def main() -> None:
    """Answer questions from standard input until it ends; its first line is the handshake."""
    _settle(json.loads(sys.argv[1])["memory_bytes"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # a dying library's last words reach the log
    questions: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            questions.put(line)
        kill_marked(os.environ.get(MARK, ""))
        kill_group(0)  # the session is over or dead: neither the worker nor its children outlive it
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    lock = threading.Lock()

    def say(message: Mapping[str, object]) -> None:
        with lock:
            answers.write(to_json(message) + "\n")
            answers.flush()

    send_to(lambda label, done, total: say({"progress": [label, done, total]}))
    hello = of_type(Hello, json.loads(questions.get()))
    kinds: dict[str, type[Question[Any]]] = {}
    while True:
        asked = json.loads(questions.get())
        try:
            if not kinds:  # at the first question, which the failure of an import answers
                for origin in hello.origins:
                    origin.load()
                for file in hello.files:
                    file.register()
                kinds = {kind.name: kind for kind in ANSWERS}
            kind = kinds[asked["question"]]
            say({"answer": ANSWERS[kind](of_type(kind, asked["facts"]))})
        except errors.BenchError as error:
            say({"error": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            words = str(error).split("\n\n")[0]  # the rest is advice on debugging, and is in the log
            say({"error": "WorkerError", "message": f"{asked['question']}: {type(error).__name__}: {words}"})
