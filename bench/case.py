"""What is measured: one case is one point of a grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from bench.errors import BadCase

COUNTED_AXES = ("batch", "threads")
ID = re.compile(
    r"(?P<model>.+)-(?P<precision>[^-]+)-(?P<engine>[^-]+)-b(?P<batch>\d+)-t(?P<threads>\d+)(-(?P<device>.+))?"
)


@dataclass(frozen=True)
class Case:
    """One model in one precision on one engine, at a batch size, with a thread budget, on a device.

    `precision` names a recipe. Raises BadCase where a number is below 1 or a name is empty.
    """

    model: str
    precision: str
    engine: str
    batch: int = 1
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for axis in ("batch", "threads"):
            value = getattr(self, axis)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadCase(f"'{axis}' must be a whole number >= 1: {value!r}")
        for axis in ("model", "precision", "engine", "device"):
            if not getattr(self, axis):
                raise BadCase(f"'{axis}' must be a name, not {getattr(self, axis)!r}")

    @property
    def id(self) -> str:
        """`resnet20-int8_static-onnxruntime-b1-t2`; the device is added where it is not the CPU."""
        device = "" if self.device == "cpu" else f"-{self.device}"
        return f"{self.model}-{self.precision}-{self.engine}-b{self.batch}-t{self.threads}{device}"

    @classmethod
    def named(cls, name: str) -> Case:
        """The case of an id. Raises BadCase where it is none."""
        found = ID.fullmatch(name)
        if found is None:
            raise BadCase(
                f"{name!r} is no case; one reads MODEL-PRECISION-ENGINE-bBATCH-tTHREADS, as --collect-only lists"
            )
        axes: dict[str, Any] = found.groupdict(default="cpu")
        return cls(**(axes | {axis: int(axes[axis]) for axis in COUNTED_AXES}))

    def axes(self) -> dict[str, str | int]:
        """The axes by name, as they are saved."""
        return asdict(self)


AXES = tuple(field.name for field in fields(Case))
BASELINE: dict[str, Any] = {"engine": "torch", "precision": "fp32"}


def baseline_of(case: Case, differs: dict[str, Any]) -> Case:
    """The case that this one is compared with. Raises BadCase where `differs` names an axis that there is not."""
    unknown = differs.keys() - set(AXES)
    if unknown:
        raise BadCase(f"a baseline has no axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
    return replace(case, **differs)


class Grid:
    """The product of its axes, in the order in which they are given.

    Each axis is one value or several: `Grid(model="resnet20", precision=["fp32", "int8_static"], engine="torch")`.
    baseline names the axes in which the case that each is compared with differs from it: FP32 in PyTorch unless told.
    """

    def __init__(
        self,
        model: str | Iterable[str],
        precision: str | Iterable[str],
        engine: str | Iterable[str],
        batch: int | Iterable[int] = 1,
        threads: int | Iterable[int] = 1,
        device: str | Iterable[str] = "cpu",
        baseline: dict[str, Any] | None = None,
    ) -> None:
        self.baseline = dict(BASELINE if baseline is None else baseline)
        given: dict[str, Any] = {"model": model, "precision": precision, "engine": engine}
        given |= {"batch": batch, "threads": threads, "device": device}
        self.axes: dict[str, tuple[Any, ...]] = {
            axis: (values,) if isinstance(values, (str, int)) else tuple(values) for axis, values in given.items()
        }
        list(self)  # a grid that cannot be is refused where it is written

    def __iter__(self) -> Iterator[Case]:
        for point in itertools.product(*self.axes.values()):
            yield Case(**dict(zip(self.axes, point, strict=True)))

    def chosen(self, **choices: tuple[Any, ...] | None) -> Grid:
        """The grid with the chosen axes put in place of its own; a choice of None leaves the axis.

        The model axis only narrows: a suite about one model does not become one about another.
        """
        axes = self.axes | {axis: values for axis, values in choices.items() if values is not None}
        if choices.get("model") is not None:
            axes["model"] = tuple(name for name in self.axes["model"] if name in axes["model"])
        return Grid(**axes, baseline=self.baseline)
