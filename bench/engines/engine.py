"""What every engine must be able to do."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.spec.outcome import Setting
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines.lowered import Layer
    from bench.engines.operations import Operation
    from bench.spec.interface import Output, Predict
    from bench.store import Facts


@dataclass(frozen=True)
class Emulation:
    """A session that computes a quantized artefact in floating point, and by what, in words for the record.

    layers  inputs -> the SQNR in dB of each of the engine's INT8 kernels against floating point, from the same
            quantized inputs, by the layer's name; None where layers cannot be told apart.
    """

    predict: Predict
    by: str
    layers: Callable[[np.ndarray], dict[str, float]] | None = None


@dataclass(frozen=True)
class Session:
    """An artefact that an engine has loaded; it is called as `predict` is.

    predict    (batch, ...) -> (batch, ...), a tuple for several outputs.
    own_pools  () -> the settings of the engine's own thread pools, in this session.
    keeps      what must live as long as the session does.
    """

    predict: Predict
    own_pools: Callable[[], dict[str, Setting]] = dict
    keeps: object = None

    def __call__(self, inputs: np.ndarray) -> Output:
        return self.predict(inputs)

    def pools(self) -> dict[str, Setting]:
        """The actual settings of this process's thread pools."""
        from threadpoolctl import threadpool_info

        known: dict[str, Setting] = {
            f"{pool['user_api']}:{pool['prefix']}": pool["num_threads"] for pool in threadpool_info()
        }
        return known | self.own_pools()


def session_of(loaded: Predict) -> Session:
    """What an engine's `load` gave as a session; an engine without pools of its own may give a plain function."""
    return loaded if isinstance(loaded, Session) else Session(loaded)


class Engine(ABC):
    """What every engine must be able to do. Override the abstract methods; the others have defaults.

    packages     distributions it needs; their versions are part of an artefact's key.
    format       the artefact's format, as the record names it.
    formats      the number formats that it computes in, by a recipe's names; a recipe with another is unsupported.
    devices      that it runs on; a case on another is unsupported.
    activations  when its INT8 can find the scales of activations: "static", "dynamic".
    widths       the bits that its INT8 can hold numbers to: 8, and fewer where it can simulate them.
    compiled     the environment variable that names the folder where it keeps what it compiles at the first call; None
                 where it keeps nothing.
    dynamic      the kinds of layers, of bench.engines.lowered.KINDS, that INT8 covers with activations quantized
                 at run time.
    unlowered    why layers of a kind stay in FP32 under INT8 here, by kind.
    whole        whether the artefact holds the network itself; else it holds the weights, and the model's code the
                 rest.
    """

    packages: tuple[str, ...] = ()
    format: str = ""
    formats: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    activations: tuple[str, ...] = ()
    widths: tuple[int, ...] = (8,)
    compiled: str | None = None
    dynamic: tuple[str, ...] = ("linear",)
    unlowered: Mapping[str, str] = MappingProxyType({})
    whole: bool = True

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Give the reason why this engine cannot run a recipe that it states the format of on a device that it states,
        None where it can.
        """
        return None

    @abstractmethod
    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Write the artefact's files into the empty folder.

        network  in eval mode, FP32, on the CPU; may be changed in place.
        samples  (n, ...), n >= 1, preprocessed, in C order: for calibration, and the shape of an input; its first is
                 the example.
        """

    @abstractmethod
    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Open a session on an artefact: (batch, ...) -> (batch, ...), a tuple for several outputs, float32 or whole
        numbers as the network's are. It leaves its input as it is. A Session where the engine has pools of its own.

        network  gives the architecture with unset weights, for engines whose artefact does not hold it.
        example  an input of the shape that will come, (batch, ...) float32; only this shape will come.
        """

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> list[Operation] | None:
        """What a call on the example executes, by the runtime's own profiler, in a session of its own; None where it
        has none. Arguments as those of `load`.
        """
        return None

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> list[Layer] | None:
        """The multiplications that the artefact holds, each with the number format that it is computed in, counted from
        the artefact for one item of the example; None where this engine cannot be counted. Arguments as those of
        `load`.
        """
        return None

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Emulation | None:
        """A session that computes the same quantized artefact in floating point, without the engine's INT8 kernels, and
        what it is computed by; None where there is none to be had, Unsupported where this artefact has none. Arguments
        as those of `load`.
        """
        return None

    def environment(self, threads: int) -> dict[str, str]:
        """Environment variables the process needs before the engine is imported."""
        return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def settings(self) -> Facts:
        """What on this machine changes what `build` makes, beside the packages' versions; part of the key."""
        return {}

    def missing(self) -> str | None:
        """Give the reason why the engine cannot run at all here, None where it can."""
        return lacking(self.packages)


def two_of(samples: np.ndarray) -> np.ndarray:
    """Two of the samples, (2, ...), to trace a network with a free batch, for exporters take a batch of 1 for a
    constant; the one twice where there is one.
    """
    return samples[[0, min(1, len(samples) - 1)]]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the engines' packages warn of their own future: it is known, and not the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
