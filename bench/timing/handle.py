"""The handle by which the harness asks a worker: a fresh process that owns one engine session.

Messages are those of bench.timing.protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

from bench import errors
from bench.spec.registry import Origin
from bench.timing.protocol import Answer, Hello, Question
from bench.typed import of_type, to_json

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
        self._send(Hello(tuple(origins)))  # to one that is dead by now: the first question tells

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

    def _send(self, message: object) -> bool:
        """Write a message to the worker; whether it could be."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((to_json(message) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def ask(self, question: Question[Answer], timeout_s: float, busy: int = 1) -> Answer:
        """Give the answer to a question.

        timeout_s  the longest it may be without a sign of life: its progress, or, where `busy` is more than 1, that it
                   or what it has started uses a CPU.
        busy       how many times as long it may go on using CPUs and tell no progress.

        Raises the BenchError that the worker raised, or WorkerError with its last lines where it died, hung or answered
        rubbish; it is dead then.
        """
        self.resume()
        name = question.name
        if not self._send({"question": name, "facts": question}):
            raise errors.WorkerError(self._obituary(name))
        patience = Patience(timeout_s, busy * timeout_s, time.monotonic())
        while True:
            try:
                text = self._answers.get(timeout=patience.look_s(time.monotonic()))
            except queue.Empty:
                reason = patience.lost(time.monotonic(), cpu_s(self._process.pid) if busy > 1 else 0.0)
                if reason is None:
                    continue
                self._kill()
                raise errors.WorkerError(f"no answer to {name!r} {reason}; it was killed{self._last()}") from None
            if text is None:
                raise errors.WorkerError(self._obituary(name))
            try:
                answer = dict(json.loads(text))
                value = of_type(type(question).answer, answer["answer"]) if "answer" in answer else None
            except (ValueError, TypeError):
                self._kill()
                raise errors.WorkerError(
                    f"the worker answered {name!r} with rubbish, {text[:80]!r}; it was killed{self._last()}"
                ) from None
            if "progress" in answer:
                patience.told(time.monotonic())
                if self._told is not None:
                    self._told(*answer["progress"])
            elif "error" in answer:
                kind = getattr(errors, answer["error"], errors.WorkerError)
                raise kind(answer["message"])
            else:
                return cast(Answer, value)

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
        kill_group(self._process.pid)
        kill_marked(self._mark)
        for reader in (self._listener, self._drain):
            reader.join(GONE_S)  # what holds a pipe open though it was killed, or hid, shall not hold up the session


def kill_group(leader: int) -> None:
    """Kill a process group, 0 for this process's own; nothing where it is gone, or where there are no groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def kill_marked(mark: str) -> None:
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
