"""The clean process that owns one engine session, from the inside.

Messages are those of bench.timing.protocol. The worker's own standard output is sent to its log, so that whatever a
library prints cannot pass for an answer.
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
from typing import cast

from bench import errors
from bench.progress import send_to
from bench.timing.answers import ANSWERS
from bench.timing.handle import MARK, kill_group, kill_marked
from bench.timing.protocol import Hello
from bench.typed import of_type, to_json


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
    """Answer questions from standard input until it ends; the first line there is the handshake."""
    _settle(json.loads(sys.argv[1])["memory_bytes"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # what a dying library said last is in the log
    questions: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            questions.put(line)
        kill_marked(os.environ.get(MARK, ""))
        kill_group(0)  # the session is over, or dead: no worker outlives it, whatever it or its children are doing
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    said = threading.Lock()

    def say(message: Mapping[str, object]) -> None:
        with said:
            answers.write(to_json(message) + "\n")
            answers.flush()

    send_to(lambda label, done, total: say({"progress": [label, done, total]}))
    hello, greeted = of_type(Hello, json.loads(questions.get())), False
    while True:
        asked = json.loads(questions.get())
        try:
            if not greeted:
                for origin in hello.origins:
                    origin.load()
                greeted = True
            kinds = {kind.name: kind for kind in ANSWERS}  # an origin may have added some
            kind = kinds[asked["question"]]
            say({"answer": ANSWERS[kind](of_type(kind, asked["facts"]))})
        except errors.BenchError as error:
            say({"error": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            words = str(error).split("\n\n")[0]  # what follows is advice on debugging, and in the log
            say({"error": "WorkerError", "message": f"{asked['question']}: {type(error).__name__}: {words}"})
