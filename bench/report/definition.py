"""Tables that a TOML file defines: cases one way, figures the other; or cases both ways and one figure in all cells.

title = "..."
where = { model = "resnet20" }                  # what all its cases have in common; of a list, one of its values
cell = { figure = "latency.p50_s", form = "ms" }  # where both rows and columns are cases
[[columns]]                                     # or [[rows]]: either may be cases or figures
label = "FP32"
case = { precision = "fp32", engine = "torch" }
[[rows]]
label = "accuracy"
figure = "quality.top1"                         # a column of a run's frame; of several, the first that the case has
form = "percent"                                # one of FORMS
ratio = true                                    # beside it, how many times less than in the first case
absent = "..."                                  # instead of a case: why this project has none, told below the table
interval = ["speedup.low", "speedup.high"]      # beside it, the ends of its interval
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.report.markdown import escaped, markdown_table
from bench.report.notes import notes_of
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
AXES = ("model", "device", "batch", "threads")


@dataclass(frozen=True)
class Figure:
    """What a cell shows of a case."""

    names: tuple[str, ...]
    form: Form
    ratio: bool
    interval: tuple[str, ...]

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Figure:
        """A figure as the file tells it. Raises KeyError or TypeError where it is none."""
        names, interval = entry["figure"], entry.get("interval", [])
        names = [names] if isinstance(names, str) else names
        if not _texts(names) or not names or not _texts(interval):
            raise TypeError("a figure is the name of one or a list of them, and an interval a list of such names")
        if entry["form"] not in FORMS:
            raise KeyError(f"{entry['form']!r} is no form; there are {', '.join(FORMS)}")
        return cls(tuple(names), FORMS[entry["form"]], bool(entry.get("ratio", False)), tuple(interval))

    def of(self, case: Any) -> Any:
        """The figure of a case, None where it has none."""
        return next((case.get(name) for name in self.names if is_number(case.get(name))), None)

    def cell(self, case: Any, first: Any) -> str:
        """The figure of a case as text; `first` is the case that a ratio is to."""
        value = self.of(case)
        if not is_number(value):
            return "-"
        text = self.form(value)
        base = None if first is None or first is case else self.of(first)
        if self.ratio and is_number(base) and value > 0:
            text += f" ({base / value:.2f}x)"
        ends = [case.get(end) for end in self.interval]
        if ends and all(map(is_number, ends)):
            text += f" ({'-'.join(self.form(end).rstrip('x') for end in ends)})"
        return text


@dataclass(frozen=True)
class Line:
    """A row or a column: a case, by the axes that tell it from others, or why there is none; or a figure."""

    label: str
    case: dict[str, Any]
    absent: str | None
    figure: Figure | None

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Line:
        """A row or column as the file tells it. Raises KeyError or TypeError where it is none."""
        figure = None if "case" in entry or "absent" in entry else Figure.read(entry)
        case, absent = entry.get("case", {}), entry.get("absent")
        if not isinstance(entry["label"], str) or not isinstance(case, dict) or not isinstance(absent, str | None):
            raise TypeError("a label is a text, a case a table of axes, what is absent a text that says why")
        return cls(entry["label"], case, absent, figure)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _read(definition: dict[str, Any]) -> tuple[str, dict[str, Any], list[Line], list[Line], Figure | None]:
    """Title, what all cases have in common, rows, columns, the cells' figure. Raises KeyError, TypeError or ValueError
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
    """Render the table that a file defines, once for each model, device, batch and threads that has figures for it,
    where its own cases do not name these.

    Cases that this run has not are left out and named below; a case without figures has its reason there, and so has
    what the definition itself says to be absent. Raises RunFileError where the file is no such definition.
    """
    try:
        title, where, rows, columns, shared = _read(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunFileError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise RunFileError(f"{path} defines no table: {type(error).__name__} {what}") from error
    named = {axis for line in (*rows, *columns) for axis in line.case}
    groups = [axis for axis in AXES if axis not in named]
    chosen = _where(table, where)
    texts = []
    for values, cases in chosen.groupby(groups, sort=False) if groups else [((), chosen)]:
        body = _body(cases, rows, columns, shared)
        if body is not None:
            told = (
                f"{axis} {value}" if axis in ("batch", "threads") else str(value)
                for axis, value in zip(groups, values, strict=True)
            )
            head = ", ".join(escaped(one) for one in told)
            texts.append(f"### {escaped(title)}\n\n{head}{body}")
    return texts


def judged(case: Any) -> str:
    """Which weights a case has, what it was judged on, and by how many."""
    weights, dataset, count = (case[f"judged.{name}"] for name in ("weights", "dataset", "n"))
    known = [name if isinstance(name, str) else "-" for name in (weights, dataset)]
    return f"weights {known[0]}, {known[1]}, n = {f'{count:.0f}' if is_number(count) else '-'}"


def _where(table: pd.DataFrame, wanted: dict[str, Any]) -> pd.DataFrame:
    for column, value in wanted.items():
        values = value if isinstance(value, list) else [value]
        places = [place for place, cell in enumerate(table[column]) if cell in values] if column in table else []
        table = table.iloc[places]
    return table


def _body(cases: pd.DataFrame, rows: list[Line], columns: list[Line], shared: Figure | None) -> str | None:
    """The table with its sources above and what is missing below, None where no case has figures."""
    missing: dict[str, list[str]] = {}
    found: dict[tuple[int, int], Any] = {}
    others: dict[str, str] = {}
    for (at_row, row), (at_column, column) in itertools.product(enumerate(rows), enumerate(columns)):
        reason = row.absent or column.absent
        cells = cases.iloc[:0] if reason else _where(cases, row.case | column.case)
        if len(cells):
            found[at_row, at_column] = cells.iloc[0]
            others |= {str(name): str(cells.iloc[0]["name"]) for name in cells["name"][1:]}
        reason = reason or ("not among the cases of this run" if not len(cells) else None)
        if reason is None and cells.iloc[0]["status"] != "ok":
            why = cells.iloc[0]["reason"]
            reason = f"{cells.iloc[0]['status']}{f': {why}' if isinstance(why, str) else ''}"
        if reason is not None:
            label = " ".join(line.label for line in (row, column) if line.figure is None)
            if label not in missing.setdefault(reason, []):
                missing[reason].append(label)
    known = list({case["name"]: case.to_dict() for case in found.values() if case["status"] == "ok"}.values())
    if not known:
        return None
    shown_rows = [at for at, row in enumerate(rows) if row.absent or at in {place[0] for place in found}]
    shown_columns = [at for at, column in enumerate(columns) if column.absent or at in {place[1] for place in found}]
    lines = []
    for at_row in shown_rows:
        line = {"": rows[at_row].label}
        for at_column in shown_columns:
            figure = rows[at_row].figure or columns[at_column].figure or shared
            assert figure is not None
            # the first case in the way in which the cases go
            first = found.get((at_row, 0) if columns[0].figure is None else (0, at_column))
            case = found.get((at_row, at_column))
            line[columns[at_column].label] = "-" if case is None else figure.cell(case, first)
        lines.append(line)
    sources = dict.fromkeys(f"{case['model']}: {judged(case)}" for case in known)
    told = [f"{', '.join(labels)}: {reason}" for reason, labels in missing.items()]
    shown = {str(case["name"]) for case in found.values()}
    told += [
        f"{name}: not shown, since {first} fits its cell too" for name, first in others.items() if name not in shown
    ]
    told += [f"{name}: {'; '.join(lines)}" for name, lines in notes_of(known, worst=True)]
    notes = "".join(f"\n- {escaped(line)}" for line in told)
    return f" ({escaped('; '.join(sources))})\n\n{markdown_table(lines)}{chr(10) if notes else ''}{notes}"
