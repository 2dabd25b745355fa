"""Whether the harness can be believed on this machine: known truths, measured again and again, each told in a line.

Three kinds: what its figures say of a speed-up that is known (`figures`), how often its rule of when to stop is right
where all is simulated (`coverage`), and what it does when things break (`faults`).
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
    from bench.timing.bench import Bench

    Trial = Callable[[str, Bench, int, Callable[[str], None]], None]

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

ON_DEVICES: dict[str, Callable[..., None]] = {  # those that a device other than the CPU has, by PyTorch
    "same": partial(same, engine=OUTSIDE),
    "slowed": partial(slowed, engine=OUTSIDE),
}


def selftest(
    model: str,
    bench: Bench,
    trials: list[str],
    repeats: int,
    busy: int,
    told: Callable[[str], None],
    device: str = "cpu",
) -> None:
    """Hold these trials, all where none is named, `repeats` times each where repeating tells more, beside `busy`
    processes that do nothing but use a CPU. Raises BenchError where there is no such trial, or none on the device, or
    where a case cannot be measured.
    """
    devices.get(device)
    held = TRIALS if device == "cpu" else {name: partial(trial, device=device) for name, trial in ON_DEVICES.items()}
    unknown = [name for name in trials if name not in held]
    if unknown:
        raise UnknownMember(f"no trial on {device} is named {unknown[0]!r}; there are: {', '.join(held)}")
    with loaded(busy):
        for name in trials or held:
            held[name](model, bench, repeats, lambda line, name=name: told(f"{name}: {line}"))  # type: ignore[misc]


@contextmanager
def loaded(busy: int) -> Iterator[None]:
    """Keep so many processes busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
