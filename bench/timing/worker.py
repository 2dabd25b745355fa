"""The handle by which the harness asks a worker: a fresh process that owns an engine session.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

from bench import errors
from bench.build.network_files import GivenFile
from bench.spec.registry import Origin
from bench.spec.typed import of_type, to_json
from bench.timing.protocol import Answer, Hello, Question

# Load the harness from its own folder: its parent on the path would bring in all libraries that are installed there.
START = """
import importlib.util, sys
folder = sys.argv[2]
spec = importlib.util.spec_from_file_location("bench", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["bench"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["bench"])
from bench.timing.worker_main import main
main()
"""


LOG_LINES = 5  # the worker's last lines in an error message
LOG_BYTES = 65536  # the end of the worker's standard error that is kept: a flood must not fill the memory
LOOK_S = 1.0  # between two looks at the worker's CPU use
ALIVE_CORES = 0.05  # a process that only waits uses far less, a computing process far more
GONE_S = 5.0  # how long a process may take to end before it is killed
MARK = "BENCH_WORKER"  # environment variable that marks the worker and all that it starts, so that close finds them


class Worker:
    """A fresh interpreter that answers questions until it is closed; use it as a context manager.

    environment   variables set on top of this process's environment before anything is imported there.
    origins       modules it imports to have the same models, engines and data as this process.
    files         network files that are models here.
    told          gets (label, done, total) whenever the worker reports progress.
    python        the interpreter; another interpreter runs this same harness on its own libraries.
    memory_bytes  its limit of private memory, None for no limit.
    """

    def __init__(
        self,
        environment: dict[str, str],
        origins: list[Origin],
        told: Callable[[str, int, int], None] | None = None,
        python: str = sys.executable,
        memory_bytes: int | None = None,
        files: Iterable[GivenFile] = (),
    ) -> None:
        self._on_progress = told
        self._mark = uuid.uuid4().hex
        self.suspended = False
        self._process = subprocess.Popen(
            [python, "-c", START, json.dumps({"memory_bytes": memory_bytes}), str(Path(__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment | {MARK: self._mark},
            process_group=0 if hasattr(os, "killpg") else None,  # its forks are in its group and end with it
        )
        self._log = bytearray()
        self._drain = threading.Thread(target=self._keep_last, daemon=True)
        self._drain.start()
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._send(Hello(tuple(origins), tuple(files)))  # if it is dead by now, the first question raises

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
        """Read its standard error as it comes and keep the last LOG_BYTES: a flood fills neither memory nor disk."""
        assert self._process.stderr is not None
        with self._process.stderr as log:
            while chunk := os.read(log.fileno(), LOG_BYTES):
                self._log += chunk
                del self._log[:-LOG_BYTES]

    def suspend(self) -> None:
        """Stop the process and its thread pools, so that they use no CPU."""
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
        """Write a message to the worker; whether it could be written."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((to_json(message) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def ask(self, question: Question[Answer], timeout_s: float, busy: int = 1) -> Answer:
        """The worker's answer to a question.

        timeout_s  the longest time without a sign of life, in seconds: a progress message or, where `busy` is more
                   than 1, CPU use by the worker or what it started.
        busy       how many times `timeout_s` it may use CPUs without reporting progress.

        Raises the BenchError that the worker raised. Raises WorkerError with its last lines where it died, hung or
        answered rubbish; the worker is dead then.
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
                if self._on_progress is not None:
                    self._on_progress(*answer["progress"])
            elif "error" in answer:
                kind = getattr(errors, answer["error"], errors.WorkerError)
                raise kind(answer["message"])
            else:
                return cast(Answer, value)

    def _kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold the killed process for a while
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
        """The last lines that the worker printed, to append to an error message; "" for none."""
        if self._process.poll() is not None:
            self._drain.join(timeout=1)  # its forks may hold the pipe open
        lines = bytes(self._log).decode(errors="replace").strip().splitlines()
        return f"; its last lines: {' | '.join(line[:200] for line in lines[-LOG_LINES:])}" if lines else ""

    def close(self) -> None:
        """End the process and all that it started; kill them after GONE_S."""
        assert self._process.stdin is not None
        self.resume()
        with contextlib.suppress(OSError):  # it died with a question unread: the pipe is broken
            self._process.stdin.close()
        try:
            self._process.wait(timeout=GONE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        kill_group(self._process.pid)
        kill_marked(self._mark)
        for reader in (self._listener, self._drain):
            reader.join(GONE_S)  # a hidden or unkillable process may hold a pipe open: do not wait for it


def kill_group(leader: int) -> None:
    """Kill a process group, 0 for this process's group; do nothing where it is gone or the system has no groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def kill_marked(mark: str) -> None:
    """Kill every other process with this mark in its environment, whatever its session, group or parent."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == mark and process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                process.kill()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its descendants have used; 0 where the process is gone.

    A descendant counts if it is still there or was waited for.
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
    """Decides when to give up a worker that does not answer.

    idle_s  the longest time without a sign of life, in seconds: a message, or CPU time used.
    busy_s  the longest time without a message, in seconds, whatever CPU time it uses.
    now_s   when the worker was asked, in seconds of any clock.
    """

    idle_s: float
    busy_s: float
    now_s: float

    def __post_init__(self) -> None:
        self._message_s = self._sign_s = self._looked_s = self.now_s
        self._used_s = 0.0

    def look_s(self, now_s: float) -> float:
        """Seconds to wait for a message before the next look at the CPU time used."""
        due_s = min(self._sign_s + self.idle_s, self._message_s + self.busy_s) - now_s
        return max(0.0, due_s if self.busy_s <= self.idle_s else min(due_s, LOOK_S))

    def told(self, now_s: float) -> None:
        """Note that a message came."""
        self._message_s = self._sign_s = now_s

    def lost(self, now_s: float, used_s: float) -> str | None:
        """The reason to give the worker up, None for none yet; `used_s` is the CPU seconds it has used so far."""
        if used_s - self._used_s > ALIVE_CORES * (now_s - self._looked_s):
            self._sign_s = now_s
        self._used_s, self._looked_s = used_s, now_s
        if now_s - self._message_s >= self.busy_s:
            return f"within {self.busy_s:g} s" + (" of using the CPU" if self.busy_s > self.idle_s else "")
        return f"within {self.idle_s:g} s without using the CPU" if now_s - self._sign_s >= self.idle_s else None
