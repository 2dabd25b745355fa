"""A question to workers whose answer takes, or leaves behind, what the environment variable ODD names."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench import progress
from bench.timing.answers import ANSWERS
from bench.timing.protocol import Question

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
ORPHAN = (
    "import subprocess; "
    f"print(subprocess.Popen({SLEEP!r}, start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)"
)


@dataclass(frozen=True)
class Odd(Question[Any]):
    """Do what ODD names."""

    name = "odd"
    answer = Any


def odd(asked):
    does = os.environ["ODD"]
    until = time.monotonic() + 600
    if does == "closes":
        os.closerange(3, 64)
    if does in ("sleeps", "closes"):
        time.sleep(600)
    while does == "computes" and time.monotonic() < until:
        pass
    if does == "tells":
        for done in range(8):
            progress.tell("telling", done, 8)
            time.sleep(0.5)
        return "done"
    if does == "orphan":  # whoever started it is gone
        return int(subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, check=True).stdout)
    return subprocess.Popen(SLEEP, start_new_session=True).pid


ANSWERS[Odd] = odd
