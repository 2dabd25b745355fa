"""What is measured: one case is one point of a grid."""

from __future__ import annotations

import copy
import itertools
import numbers
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.errors import BadCase

Axes = dict[str, str | int]  # axis -> value
COUNTED_AXES = ("batch", "threads")  # their values are whole numbers, all others are names
MOST = 1_000_000  # of a counted axis; a saved case above it is not read back
ID = re.compile(
    r"(?P<model>.+)-(?P<precision>[^-]+)-(?P<engine>[^-]+)-b(?P<batch>\d+)-t(?P<threads>\d+)(-(?P<device>.+))?"
)


@dataclass(frozen=True)
class Case:
    """One model in one precision on one engine, at a batch size, with a thread budget, on a device.

    `precision` names a recipe. Raises BadCase where a number is not from 1 to a million, or a name is empty or no str.
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
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST:
                raise BadCase(f"'{axis}' must be a whole number >= 1, {MOST} at most: {value!r}")
        for axis in ("model", "precision", "engine", "device"):
            value = getattr(self, axis)
            if not isinstance(value, str) or not value:
                raise BadCase(f"'{axis}' must be a name, not {value!r}")

    @property
    def id(self) -> str:
        """`resnet20-int8_static-onnxruntime-b1-t2`; the device is added where it is not the CPU."""
        device = "" if self.device == "cpu" else f"-{self.device}"
        return f"{self.model}-{self.precision}-{self.engine}-b{self.batch}-t{self.threads}{device}"

    @classmethod
    def named(cls, name: str) -> Case:
        """The case of an id. Raises BadCase where the text is no id."""
        match = ID.fullmatch(name)
        if match is None:
            raise BadCase(
                f"{name!r} is no case; one reads MODEL-PRECISION-ENGINE-bBATCH-tTHREADS, as --collect-only lists"
            )
        axes: Axes = dict(match.groupdict(default="cpu"))
        return cls(**(axes | {axis: int(axes[axis]) for axis in COUNTED_AXES}))  # type: ignore[arg-type]

    def axes(self) -> Axes:
        """The axes by name, as they are saved."""
        return asdict(self)


AXES = tuple(field.name for field in fields(Case))
BASELINE: Axes = {"engine": "torch", "precision": "fp32"}  # of a grid that states none


def baseline_of(case: Case, differs: Axes) -> Case:
    """The baseline of a case, which differs from it in the axes `differs`. Raises BadCase for an unknown axis."""
    unknown = differs.keys() - set(AXES)
    if unknown:
        raise BadCase(f"a baseline has no axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
    return Case(**(case.axes() | differs))  # type: ignore[arg-type]


class Grid:
    """The product of its axes, in the order in which they are given.

    Each axis is one value or several: `Grid(model="resnet20", precision=["fp32", "int8_static"], engine="torch")`.
    `baseline` gives the axes in which each case's baseline differs from it; the default is FP32 in PyTorch.
    Raises BadCase where an axis has no value or an invalid one, or the baseline names an unknown axis.
    """

    def __init__(
        self,
        model: str | Iterable[str],
        precision: str | Iterable[str],
        engine: str | Iterable[str],
        batch: int | Iterable[int] = 1,
        threads: int | Iterable[int] = 1,
        device: str | Iterable[str] = "cpu",
        baseline: Axes | None = None,
    ) -> None:
        self.baseline = dict(BASELINE if baseline is None else baseline)
        given = (model, precision, engine, batch, threads, device)
        self.axes = {axis: _values(axis, value) for axis, value in zip(AXES, given, strict=True)}
        for case in self:  # an invalid grid is refused where it is written
            baseline_of(case, self.baseline)

    def __iter__(self) -> Iterator[Case]:
        for point in itertools.product(*self.axes.values()):
            yield Case(**dict(zip(self.axes, point, strict=True)))

    def chosen(self, **choices: tuple[Any, ...] | None) -> Grid:
        """A copy of the grid with the given axes in place of its own; None leaves an axis as it is.

        The model axis only narrows, even to nothing: a suite about one model must not become a suite about another.
        """
        grid = copy.copy(self)
        grid.axes = self.axes | {axis: values for axis, values in choices.items() if values is not None}
        if choices.get("model") is not None:
            grid.axes["model"] = tuple(name for name in self.axes["model"] if name in grid.axes["model"])
        return grid


def _values(axis: str, given: Any) -> tuple[Any, ...]:
    """The values given for an axis, a single value or several, as a tuple; numpy's whole numbers become Python's."""
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    values = tuple(
        int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value
        for value in (given if several else (given,))
    )
    if not values:
        raise BadCase(f"a grid needs at least one value of its axis '{axis}', which is empty")
    return values
