"""Trials of the harness on this machine: known truths, measured repeatedly. Each trial prints a line.

`figures` measures known speed-ups, `coverage` simulates the stopping rule, `faults` breaks workers and sessions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bench.errors import UnknownMember
from bench.machine.devices import devices
from bench.selftest.coverage import coverage
from bench.selftest.engines import OUTSIDE
from bench.selftest.faults import broken, killed
from bench.selftest.figures import compared, grid, overhead, ranged, same, slowed

if TYPE_CHECKING:
    from bench.timing.settings import Bench

    Trial = Callable[[str, Bench, int, Callable[[str], None]], None]

# ends with its parent, also where that is killed
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"

TRIALS: dict[str, Trial] = {
    "overhead": overhead,
    "coverage": coverage,
    "same": same,
    "same-torch": partial(same, engine="torch"),
    "slowed": slowed,
    "range": ranged,
    "compared": compared,
    "grid": grid,
    "broken": broken,
    "killed": killed,
}

ON_DEVICES: dict[str, Callable[..., None]] = {  # on devices other than the CPU, by PyTorch
    "same": partial(same, engine=OUTSIDE),
    "slowed": partial(slowed, engine=OUTSIDE),
}


def selftest(
    model: str,
    bench: Bench,
    trials: list[str],
    repeats: int,
    busy: int,
    say: Callable[[str], None],
    device: str = "cpu",
) -> None:
    """Run the named trials, or all, `repeats` times each.

    busy  how many processes load a CPU meanwhile.

    Raises UnknownMember for a trial that the device does not have, BenchError where a case cannot be measured.
    """
    devices.get(device)
    elsewhere = {name: partial(trial, device=device) for name, trial in ON_DEVICES.items()}
    runnable = TRIALS if device == "cpu" else elsewhere
    unknown = [name for name in trials if name not in runnable]
    if unknown:
        raise UnknownMember(f"no trial on {device} is named {unknown[0]!r}; there are: {', '.join(runnable)}")
    with loaded(busy):
        for name in trials or runnable:
            trial = runnable[name]
            trial(model, bench, repeats, lambda line, name=name: say(f"{name}: {line}"))  # type: ignore[misc]


@contextmanager
def loaded(busy: int) -> Iterator[None]:
    """Keep so many processes busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
