"""Tables that a TOML file defines: cases against figures, or cases against cases with the same figure in all cells.

title = "..."
where = { model = "resnet20" }                  # what all its cases share; a list allows any of its values
cell = { figure = "latency.p50_s", form = "ms" }  # where both rows and columns are cases
[[columns]]                                     # or [[rows]]: either may be cases or figures
label = "FP32"
case = { precision = "fp32", engine = "torch" }
[[columns]]                                     # one for each combination of these axes in the run
axes = ["precision", "engine"]
label = "{precision} {engine}"
names = { fp32 = "FP32", int8_static = "INT8" }   # labels of values, in this order; then others by registration
[[rows]]
label = "accuracy"
figure = "quality.top1"                         # a column of a run's frame; of a list, the first that the case has
form = "percent"                                # a name in FORMS, instead of the figure's own unit
ratio = true                                    # beside it, how many times less than in the first case; or than
                                                # in the case of these axes: { precision = "fp32", engine = "torch" }
absent = "..."                                  # instead of a case: why this project has none, as a note below
interval = ["speedup.low", "speedup.high"]      # beside it, the ends of its interval
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines import engines
from bench.errors import RunFileError
from bench.records.figures import Metrics, figure_text
from bench.records.runs import METRICS, Told, is_column
from bench.report.markdown import escaped, markdown_table
from bench.report.notes import notes_of
from bench.spec.case import AXES as ALL_AXES
from bench.spec.case import COUNTED_AXES
from bench.spec.model import models
from bench.spec.recipe import recipes
from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

Form = Callable[[float], str]

FORMS: dict[str, Form] = {
    "percent": lambda share: f"{share:.2%}",
    "number": lambda value: f"{value:.4g}",
    "s": lambda seconds: f"{seconds:.2f} s",
    "ms": lambda seconds: f"{seconds * 1e3:.3f} ms",
    "MB": lambda size: f"{size / 1e6:.3f} MB",
    "x": lambda ratio: f"{ratio:.2f}x",
    "dB": lambda decibel: f"{decibel:.2f} dB",
}
# a table for each of their values, where the definition does not name them
AXES = ("model", "device", "batch", "threads")


@dataclass(frozen=True)
class Figure:
    """What a cell shows of a case: the first of `names` that the case has.

    form      how it is written, None for the figure's own unit.
    ratio     whether to add how many times less it is than in the first case, or than in the case of these axes.
    interval  the figures that are the ends of its interval.
    """

    names: tuple[str, ...]
    form: Form | None
    ratio: bool | Mapping[str, object]
    interval: tuple[str, ...]

    @classmethod
    def read(cls, entry: Told) -> Figure:
        """Read a figure from the file. Raises KeyError, TypeError or ValueError where it is invalid."""
        names, interval, form = entry["figure"], entry.get("interval", []), entry.get("form")
        names, ratio = [names] if isinstance(names, str) else names, entry.get("ratio", False)
        if not _texts(names) or not names or not _texts(interval):
            raise TypeError("a figure is the name of one or a list of them, and an interval a list of such names")
        if form is not None and form not in FORMS:
            raise KeyError(f"{form!r} is no form; there are {', '.join(FORMS)}")
        if not isinstance(ratio, (bool, dict)):
            raise TypeError("a ratio is true, or a table of the axes of the case that it is to")
        for name in (*names, *interval):
            if not is_column(name):
                raise ValueError(
                    f"no record has a figure {name!r}; `bench report RUN --format csv` shows what there is"
                )
        return cls(tuple(names), None if form is None else FORMS[form], ratio, tuple(interval))

    def _of(self, case: Mapping[str, object]) -> tuple[str, float] | None:
        values = ((name, value) for name in self.names if is_number(value := case.get(name)))
        return next(values, None)

    def cell(self, case: Mapping[str, object], first: Mapping[str, object] | None, metrics: Metrics) -> str:
        """The figure of a case as text; a ratio is relative to the case `first`."""
        named_value = self._of(case)
        if named_value is None:
            return "-"
        name, value = named_value
        form = self.form or (lambda value: figure_text(name, value, metrics))
        text = form(value)
        base = None if first is None or first is case else self._of(first)
        if self.ratio and base is not None and value > 0:
            text += f" ({base[1] / value:.2f}x)"
        ends = [end for name in self.interval if is_number(end := case.get(name))]
        if ends and len(ends) == len(self.interval):
            text += f" ({'-'.join(form(end).rstrip('x') for end in ends)})"
        return text


@dataclass(frozen=True)
class Line:
    """A row or a column of the table.

    It is a case, by its axes, or why there is none; or a figure; or a line for each combination of `axes` in the run.

    label  its heading; with `axes` a pattern: `{precision} {engine}`.
    names  labels of axis values, in this order; other values follow in the order of their registration.
    """

    label: str
    case: Mapping[str, object] = field(default_factory=dict)
    absent: str | None = None
    figure: Figure | None = None
    axes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Told) -> Line:
        """Read a row or column from the file. Raises KeyError, TypeError or ValueError where it is invalid."""
        if "axes" in entry:
            return cls._read_axes(entry)
        figure = None if "case" in entry or "absent" in entry else Figure.read(entry)
        case, absent = entry.get("case", {}), entry.get("absent")
        if not isinstance(entry["label"], str) or not isinstance(case, dict) or not isinstance(absent, str | None):
            raise TypeError("a label is a text, a case a table of axes, what is absent a text that says why")
        return cls(entry["label"], case, absent, figure)

    @classmethod
    def _read_axes(cls, entry: Told) -> Line:
        axes, names = entry["axes"], entry.get("names", {})
        if not _texts(axes) or not axes or not set(axes) <= set(ALL_AXES):
            raise TypeError(f"axes is a list of some of {', '.join(ALL_AXES)}")
        label = entry.get("label", " ".join(f"{{{axis}}}" for axis in axes))
        if not isinstance(label, str) or not isinstance(names, dict) or not _texts(list(names.values())):
            raise TypeError("a label is a text, and names a table of what values of axes are called")
        line = cls(label, axes=tuple(axes), names=names)
        line.labelled(dict.fromkeys(axes, ""))
        return line

    def labelled(self, case: Mapping[str, object]) -> str:
        """The label of a combination of axis values. Raises TypeError where the pattern names anything but the axes."""
        try:
            return self.label.format(**{axis: self.names.get(str(value), value) for axis, value in case.items()})
        except (KeyError, IndexError, ValueError) as error:
            raise TypeError(f"the label {self.label!r} may name its axes alone, {', '.join(self.axes)}") from error

    def lines(self, cases: pd.DataFrame) -> list[Line]:
        """The lines of these cases: itself, or a line for each combination of its axes in them."""
        if not self.axes:
            return [self]
        records = cases[list(self.axes)].drop_duplicates().to_dict("records")
        combinations = [{str(axis): value for axis, value in record.items()} for record in records]
        ranks = {axis: _ranks(axis, [values[axis] for values in combinations], self.names) for axis in self.axes}
        combinations.sort(key=lambda values: [ranks[axis][values[axis]] for axis in self.axes])
        return [Line(self.labelled(values), values) for values in combinations]


def _ranks(axis: str, values: Sequence[Any], names: Iterable[str]) -> dict[Any, int]:
    """The rank of each value of an axis: numbers by size; others as in `names`, then by registration, then as given."""
    if axis in COUNTED_AXES:
        return {value: place for place, value in enumerate(sorted(set(values)))}
    registries: dict[str, Callable[[], tuple[str, ...]]] = {
        "model": models.names,
        "precision": recipes.names,
        "engine": engines.names,
    }
    order = (*names, *(registries[axis]() if axis in registries else ()))
    ordered = [name for name in order if name in set(values)]
    return {value: place for place, value in enumerate(dict.fromkeys([*ordered, *values]))}


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _read(definition: Told) -> tuple[str, Told, list[Line], list[Line], Figure | None]:
    """Title, what all cases share, rows, columns, the figure of all cells. Raises KeyError, TypeError or ValueError
    where they make no table: every cell needs one figure and one case.
    """
    title, where = definition["title"], definition.get("where", {})
    rows, columns = ([Line.read(entry) for entry in definition[name]] for name in ("rows", "columns"))
    shared = Figure.read(definition["cell"]) if "cell" in definition else None
    if not isinstance(title, str) or not isinstance(where, dict):
        raise TypeError("a title is a text, and where a table of what the cases have in common")
    kinds = []
    for name, lines in (("rows", rows), ("columns", columns)):
        if not lines:
            raise ValueError(f"it has no {name}")
        if len({line.figure is None for line in lines}) > 1:
            raise ValueError(f"its {name} are cases and figures; they must be of one kind")
        kinds.append(lines[0].figure is not None)
    if all(kinds) or not (any(kinds) or shared):
        raise ValueError("rows or columns must be figures, or both cases with a 'cell' that names the figure")
    labels = [line.label for line in columns]
    if len(set(labels)) < len(labels):
        raise ValueError("two of its columns have one label")
    return title, where, rows, columns, shared


def defined(path: Path, table: pd.DataFrame) -> list[str]:
    """Render the table that a file defines, once for each value of those AXES that its rows and columns do not name.

    Values without any figures give no table. Cases that this run lacks are left out. Notes below name them, and give
    the reasons of cases without figures and of those that the definition calls absent. Raises RunFileError where the
    file cannot be read or defines no table.
    """
    try:
        title, where, rows, columns, shared = _read(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunFileError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise RunFileError(f"{path} defines no table: {type(error).__name__} {what}") from error
    metrics = table.attrs.get(METRICS, {})
    named = {axis for line in (*rows, *columns) for axis in (*line.case, *line.axes)}
    groups = [axis for axis in AXES if axis not in named]
    selected = _where(table, where)
    texts = []
    for values, cases in selected.groupby(groups, sort=False) if groups else [((), selected)]:
        expanded = [[shown for line in lines for shown in line.lines(cases)] for lines in (rows, columns)]
        body = _body(cases, expanded[0], expanded[1], shared, metrics)
        if body is not None:
            group = (
                f"{axis} {value}" if axis in ("batch", "threads") else str(value)
                for axis, value in zip(groups, values, strict=True)
            )
            head = ", ".join(escaped(value) for value in group)
            texts.append(f"### {escaped(title)}\n\n{head}{body}")
    return texts


def judged(case: Any) -> str:
    """The weights of a case, the data set it was judged on, and the number of items."""
    weights, dataset, count = (case[f"judged.{name}"] for name in ("weights", "dataset", "n"))
    texts = [name if isinstance(name, str) else "-" for name in (weights, dataset)]
    return f"weights {texts[0]}, {texts[1]}, n = {f'{count:.0f}' if is_number(count) else '-'}"


def _where(table: pd.DataFrame, wanted: Mapping[str, object]) -> pd.DataFrame:
    for column, value in wanted.items():
        values = value if isinstance(value, list) else [value]
        places = [place for place, cell in enumerate(table[column]) if cell in values] if column in table else []
        table = table.iloc[places]
    return table


def _body(
    cases: pd.DataFrame, rows: list[Line], columns: list[Line], shared: Figure | None, metrics: Metrics
) -> str | None:
    """The table, its sources above, its notes below; None where no case has figures."""
    missing: dict[str, list[str]] = {}
    placed: dict[tuple[int, int], Any] = {}  # (row, column) -> the case shown there
    others: dict[str, str] = {}  # a case that fits a taken cell -> the case shown there
    for (at_row, row), (at_column, column) in itertools.product(enumerate(rows), enumerate(columns)):
        reason = row.absent or column.absent
        cells = cases.iloc[:0] if reason else _where(cases, {**row.case, **column.case})
        if len(cells):
            placed[at_row, at_column] = cells.iloc[0]
            others |= {str(name): str(cells.iloc[0]["name"]) for name in cells["name"][1:]}
        reason = reason or ("not among the cases of this run" if not len(cells) else None)
        if reason is None and cells.iloc[0]["status"] != "ok":
            why = cells.iloc[0]["reason"]
            reason = f"{cells.iloc[0]['status']}{f': {why}' if isinstance(why, str) else ''}"
        if reason is not None:
            label = " ".join(line.label for line in (row, column) if line.figure is None)
            if label not in missing.setdefault(reason, []):
                missing[reason].append(label)
    measured = list({case["name"]: case.to_dict() for case in placed.values() if case["status"] == "ok"}.values())
    if not measured:
        return None
    shown_rows = [at for at, row in enumerate(rows) if row.absent or at in {place[0] for place in placed}]
    shown_columns = [at for at, column in enumerate(columns) if column.absent or at in {place[1] for place in placed}]
    lines = []
    for at_row in shown_rows:
        line = {"": rows[at_row].label}
        for at_column in shown_columns:
            figure = rows[at_row].figure or columns[at_column].figure or shared
            assert figure is not None
            # the first case of this row where columns are cases, else of this column
            first = placed.get((at_row, 0) if columns[0].figure is None else (0, at_column))
            if not isinstance(figure.ratio, bool):
                bases = _where(cases, figure.ratio)
                first = bases.iloc[0] if len(bases) else None
            case = placed.get((at_row, at_column))
            line[columns[at_column].label] = "-" if case is None else figure.cell(case, first, metrics)
        lines.append(line)
    sources = dict.fromkeys(f"{case['model']}: {judged(case)}" for case in measured)
    remarks = [f"{', '.join(labels)}: {reason}" for reason, labels in missing.items()]
    shown = {str(case["name"]) for case in placed.values()}
    remarks += [
        f"{name}: not shown, since {first} fits its cell too" for name, first in others.items() if name not in shown
    ]
    remarks += [f"{name}: {'; '.join(lines)}" for name, lines in notes_of(measured, worst=True)]
    notes = "".join(f"\n- {escaped(line)}" for line in remarks)
    return f" ({escaped('; '.join(sources))})\n\n{markdown_table(lines)}{chr(10) if notes else ''}{notes}"
