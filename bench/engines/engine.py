"""The interface that every engine implements."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from bench.spec.outcome import Setting
from bench.spec.packages import lacking
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.engines.lowered import Layer
    from bench.engines.operations import Operation
    from bench.spec.inputs import Batch, Given
    from bench.spec.interface import Output, Predict
    from bench.store import Facts


@dataclass(frozen=True)
class Emulation:
    """A session that computes a quantized artefact in floating point.

    by      the method, in words for the record.
    layers  inputs -> {layer name: SQNR in dB of the engine's INT8 kernel against floating point, from the same
            quantized inputs}; None where layers cannot be separated.
    """

    predict: Predict
    by: str
    layers: Callable[[Batch], dict[str, float]] | None = None


@dataclass(frozen=True)
class Session:
    """An artefact that an engine has loaded; calling it calls `predict`.

    predict    a call's inputs -> (batch, ...), a tuple for several outputs.
    own_pools  () -> the settings of this session's thread pools that belong to the engine.
    keeps      an object that must live as long as the session.
    resident   a call's inputs -> the same call without inputs and outputs: its inputs lie on the device already, its
               outputs stay there, and it does not wait for the device. None where the engine has none.
    """

    predict: Predict
    own_pools: Callable[[], dict[str, Setting]] = dict
    keeps: object = None
    resident: Callable[[Batch], Callable[[], object]] | None = None

    def __call__(self, inputs: Batch) -> Output:
        return self.predict(inputs)

    def pools(self) -> dict[str, Setting]:
        """The actual settings of this process's thread pools."""
        from threadpoolctl import threadpool_info

        libraries: dict[str, Setting] = {
            f"{pool['user_api']}:{pool['prefix']}": pool["num_threads"] for pool in threadpool_info()
        }
        return libraries | self.own_pools()


def session_of(loaded: Predict) -> Session:
    """The result of an engine's `load` as a session; an engine without its own thread pools may return a function."""
    return loaded if isinstance(loaded, Session) else Session(loaded)


class Engine(ABC):
    """An engine. Override the abstract methods; the others have defaults.

    packages     the distributions that it needs; their versions are part of an artefact's key.
    format       the artefact's format, as the record names it.
    formats      the number formats that it computes in on the CPU, by a recipe's names; any other is unsupported.
    devices      the devices that it runs on; any other is unsupported.
    stores       those of `formats` that it only stores weights in on the CPU, for any recipe: it computes in another.
    formats_on   {device: its number formats there}, where they are not `formats`.
    autocasts    the devices on which it computes in mixed precision (`Recipe.autocast`).
    device       the device that this engine builds for and runs on; see `on`.
    reads        the formats of networks that it builds from, see `Model.format`; any other is unsupported.
    native       the one of these that is its own: it computes the reference of such a file.
    activations  when its INT8 can set the scales of activations: "static", "dynamic"; "float": it leaves them.
    widths       the bit widths of its INT8: 8, and fewer where it can simulate them.
    scaled       whether its INT8 takes a network's own scales, see bench.engines.own_scales.
    compiled     the environment variable that names the folder of what it compiles at the first call; None where it
                 keeps nothing.
    dynamic      the kinds of layers, of bench.engines.lowered.KINDS, that INT8 covers with activations quantized
                 at run time.
    weighted     the kinds whose weights alone it can hold in whole numbers.
    unlowered    {kind of layer: why it stays in FP32 under INT8 here}.
    common       whether grids of all engines, by `engines_on`, have it; False: those alone that name it.
    whole        True where the artefact holds the network; False where it holds the weights alone, beside the model's
                 code.
    """

    packages: tuple[str, ...] = ()
    format: str = ""
    formats: tuple[str, ...] = ("fp32",)
    stores: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    formats_on: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    autocasts: tuple[str, ...] = ()
    device: str = "cpu"
    reads: tuple[str, ...] = ("torch",)
    native: str = ""
    activations: tuple[str, ...] = ()
    widths: tuple[int, ...] = (8,)
    scaled: bool = False
    compiled: str | None = None
    dynamic: tuple[str, ...] = ("linear",)
    weighted: tuple[str, ...] = ("linear",)
    unlowered: Mapping[str, str] = MappingProxyType({})
    common: bool = True
    whole: bool = True

    def on(self, device: str) -> Self:
        """This engine on a device: its methods build for it and run there."""
        if device == self.device:
            return self
        engine = copy.copy(self)
        engine.device = device
        return engine

    def only_stores(self, recipe: Recipe) -> bool:
        """Whether it stores weights in the recipe's number format, and computes in another."""
        return recipe.weights_alone or (self.device == "cpu" and recipe.number_format in self.stores)

    def covered(self, recipe: Recipe) -> tuple[str, ...]:
        """The kinds of layers that a recipe without scales of activations lowers."""
        return self.weighted if recipe.weights_alone else self.dynamic

    def supports(self, recipe: Recipe, device: str) -> str | None:
        """Return why this engine cannot run the recipe on the device; None where it can. Both are among the `formats`
        and `devices` that it states.
        """
        return None

    @abstractmethod
    def build(self, network: Any, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Write the artefact's files into the empty folder.

        network  a torch.nn.Module in eval mode, FP32, on the CPU, which may be changed in place; or a NetworkFile of a
                 format that the engine `reads`.
        samples  preprocessed inputs of n >= 1 items, in C order: for calibration and for an input's shape; the first is
                 the example. An array (n, ...) where the network has one input without a name, else Inputs; both are
                 cut to items alike, and `arrays_of` and `tensors_of` give what a call takes.
        """

    @abstractmethod
    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Predict:
        """Open a session on an artefact: a call's inputs -> (batch, ...), a tuple for several outputs, float32 or whole
        numbers as the network's are. It does not change its inputs. Return a Session where the engine has thread pools.

        network  () -> the architecture with unset weights, for engines whose artefact does not hold it.
        example  the inputs of a call, as `samples` are given to `build`; all later inputs have these shapes.
        """

    def operations(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Operation] | None:
        """The operations that a call on the example executes, by the runtime's profiler, in a separate session; None
        where the runtime has no profiler. Arguments as in `load`.
        """
        return None

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer] | None:
        """The artefact's multiplications, each with the number format that it is computed in, counted from the
        artefact per item of the example; None where they cannot be counted. Arguments as in `load`.
        """
        return None

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation | None:
        """A session that computes the same quantized artefact in floating point, without the engine's INT8 kernels;
        None where the engine has no emulation. Raises Unsupported where this artefact has none. Arguments as in `load`.
        """
        return None

    def environment(self, threads: int) -> dict[str, str]:
        """Environment variables that the process needs before the engine is imported."""
        return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def settings(self) -> Facts:
        """Facts of this machine that change the artefact, beside the packages' versions; part of its key."""
        return {}

    def missing(self) -> str | None:
        """Return why the engine cannot run here at all; None where it can."""
        return lacking(self.packages)


def two_of(samples: Given) -> Given:
    """The first two samples, to trace a network with a free batch: exporters take a batch of 1 for a
    constant. A single sample comes twice.
    """
    return samples[[0, min(1, len(samples) - 1)]]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the deprecation warnings of the engines' packages: the user cannot mend them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
