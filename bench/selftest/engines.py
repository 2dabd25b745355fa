"""Engines made slower by a known share, or broken in a known way; workers import them from this module."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines import engines
from bench.engines.engine import Engine, session_of
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Output, Predict

INNER, OUTSIDE = "onnxruntime", "torch"  # the engines on the CPU, and on other devices
SLOWED, PLANTED, BROKEN = "selftest_slowed", "selftest_planted", "selftest_broken"
SLOWER, PLANTED_SLOWER = 0.02, 0.03
FAULT = "BENCH_SELFTEST_FAULT"


class Around(Engine):
    """Another engine with something around each call: ONNX Runtime on the CPU, elsewhere PyTorch."""

    formats = engines.get(INNER).formats
    activations = engines.get(INNER).activations
    devices = ("cpu", *engines.get(OUTSIDE).formats_on)
    formats_on = engines.get(OUTSIDE).formats_on

    @property
    def inner(self) -> Engine:
        """The engine that runs the network."""
        return engines.get(INNER if self.device == "cpu" else OUTSIDE).on(self.device)

    @property
    def packages(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the inner engine's."""
        return self.inner.packages

    @property
    def format(self) -> str:  # type: ignore[override]
        """As the inner engine's."""
        return self.inner.format

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """As the inner engine."""
        return self.inner.supports(recipe, device)

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: Given, folder: Path) -> None:
        """As the inner engine."""
        self.inner.build(network, recipe, samples, folder)

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Predict:
        """As the inner engine, with what this engine adds."""
        return self.around(session_of(self.inner.load(folder, recipe, network, example, threads)).predict)

    def around(self, predict: Predict) -> Predict:
        """Return the call with what this engine adds."""
        raise NotImplementedError


class Slowed(Around):
    """Each call lasts longer by a share of its own time: a busy wait."""

    def __init__(self, share: float) -> None:
        self._share = share

    def around(self, predict: Predict) -> Predict:
        """Add the wait."""

        def slowed(inputs: Batch) -> Output:
            began = time.perf_counter()
            outputs = predict(inputs)
            now = time.perf_counter()
            end = now + self._share * (now - began)
            while time.perf_counter() < end:
                pass
            return outputs

        return slowed


class Broken(Around):
    """The first call breaks by the fault that an environment variable names, one of FAULTS."""

    def around(self, predict: Predict) -> Predict:
        """Add the fault."""
        fault = os.environ.get(FAULT)
        return predict if fault is None else lambda inputs: FAULTS[fault](inputs)


def _flood(_: Batch) -> Any:
    for _again in range(2000):
        os.write(1, b"flood " * 10_000)
    raise RuntimeError("the flood is over")


def _rubbish(inputs: Batch) -> Any:
    for descriptor in range(3, 20):  # the worker's answers leave by one of these
        try:
            os.write(descriptor, b"rubbish\n")
        except OSError:
            continue
    time.sleep(600)
    return inputs


def _allocate(inputs: Batch) -> Any:
    import numpy as np

    return np.ones(1 << 36, dtype=np.uint8)


def _hang(inputs: Batch) -> Any:
    time.sleep(600)
    return inputs


FAULTS: dict[str, Callable[[Batch], Any]] = {
    "segfault": lambda inputs: ctypes.string_at(0),
    "exit": lambda inputs: os._exit(7),
    "hang": _hang,
    "memory": _allocate,
    "flood": _flood,
    "rubbish": _rubbish,
}

engines.add(SLOWED, Slowed(SLOWER), __name__)
engines.add(PLANTED, Slowed(PLANTED_SLOWER), __name__)
engines.add(BROKEN, Broken(), __name__)
