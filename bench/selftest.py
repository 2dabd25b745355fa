"""Whether the harness's own figures can be believed on this machine: known truths, measured again and again.

a case against itself           its speed-up is 1: how often the 95% interval contains it, and how wide it is
a slow-down of 2% put in        how often it is called slower
INT8 over FP32, run after run   how far the speed-up ranges
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.case import Case
from bench.engines import Engine, engines
from bench.errors import BenchError
from bench.measure import Bench, Shared, measure, prepare
from bench.recipe import Recipe
from bench.record import Record

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines import Predict

INNER = "onnxruntime"
SLOWED = "selftest_slowed"
SLOWER = 0.02


class Slowed(Engine):
    """ONNX Runtime, but each call lasts 2% longer: it waits, busy, for a fiftieth of what the call took."""

    packages = engines.get(INNER).packages
    format = engines.get(INNER).format

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """As ONNX Runtime."""
        return engines.get(INNER).supports(recipe, device)

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """As ONNX Runtime."""
        engines.get(INNER).build(network, recipe, samples, folder)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """As ONNX Runtime, with the wait behind each call."""
        predict = engines.get(INNER).load(folder, recipe, network, example, threads)

        def slowed(inputs: np.ndarray) -> np.ndarray:
            began = time.perf_counter()
            outputs = predict(inputs)
            now = time.perf_counter()
            end = now + SLOWER * (now - began)
            while time.perf_counter() < end:
                pass
            return outputs

        return slowed


engines.add(SLOWED, Slowed(), __name__)


def selftest(model: str, bench: Bench, repeats: int, busy: int, told: Callable[[str], None]) -> None:
    """Measure the known truths `repeats` times each, beside `busy` processes that do nothing but use a CPU, and tell
    each result in a line. Raises BenchError where a case cannot be measured.
    """
    fp32 = Case(model, "fp32", INNER)
    int8, slowed = replace(fp32, precision="int8_static"), replace(fp32, engine=SLOWED)
    prepare([fp32, int8, slowed], bench)
    with loaded(busy):
        same = [_speedup(fp32, fp32, bench) for _ in range(repeats)]
        covered = sum(one["low"] <= 1 <= one["high"] for one in same)
        told(f"a case against itself: the 95% interval contains 1 in {covered} of {repeats}")
        widths = [(one["high"] - one["low"]) / 2 / one["ratio"] for one in same]
        told(f"  median half-width {statistics.median(widths):.2%}; called {_counted(same)}")
        slower = [_speedup(slowed, fp32, bench) for _ in range(repeats)]
        mean = statistics.fmean(one["ratio"] for one in slower)
        told(f"a slow-down of {SLOWER:.0%}: called {_counted(slower)}; mean ratio {mean:.4f}")
        ratios = [_speedup(int8, fp32, bench)["ratio"] for _ in range(repeats)]
        spread = (max(ratios) - min(ratios)) / statistics.median(ratios)
        told(f"INT8 over FP32: {min(ratios):.3f} to {max(ratios):.3f} in {repeats} runs, a range of {spread:.2%}")


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


def _speedup(case: Case, baseline: Case, bench: Bench) -> dict[str, Any]:
    """One run: fresh processes on both sides."""
    with Shared(bench) as shared:
        record: Record = measure(case, bench, baseline, shared)
    if record.status != "ok" or record.speedup.get("low") is None:
        raise BenchError(f"{case.id} could not be measured: {record.reason or record.speedup.get('reason')}")
    return record.speedup


def _counted(speedups: list[dict[str, Any]]) -> str:
    verdicts = [one["verdict"] for one in speedups]
    return ", ".join(f"{name} {verdicts.count(name)}" for name in ("faster", "slower", "same", "ambiguous"))
