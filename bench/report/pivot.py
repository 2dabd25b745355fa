"""Any figures of any cases, laid out by any axes, with a single case in each cell."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.records.figures import Metrics, figure_text
from bench.records.runs import METRICS
from bench.report.markdown import escaped, markdown_table
from bench.report.notes import NOTED, doubts, notes_of
from bench.spec.case import AXES
from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

KEYS = (*AXES, "run", "machine")  # what rows and columns may be named by


def formed(name: str, value: Any, metrics: Metrics = MappingProxyType({})) -> str:
    """A cell as text: a number in the unit of its figure, a text escaped, anything else "-"."""
    if not is_number(value):
        return escaped(value) if isinstance(value, str) else "-"
    return figure_text(name, value, metrics)


def cell_text(case: Any, figures: Sequence[str], metrics: Metrics = MappingProxyType({})) -> str:
    """A case's figures, separated by commas; a speed-up has the ends of its interval."""
    parts = []
    for name in figures:
        text = formed(name, case.get(name), metrics)
        ends = [case.get(f"speedup.{end}") for end in ("low", "high")]
        if name == "speedup.ratio" and text != "-":
            sure = all(map(is_number, ends))
            text += f" ({ends[0]:.2f}-{ends[1]:.2f})" if sure else " (no interval)"
        parts.append(text)
    return ", ".join(parts)


def laid_out(
    table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], figures: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A frame of texts, a row and a column for each combination of the named axes, and notes: the reason for each cell
    without figures, and the notes on measured cases.

    Axes that are not named but have several values are added to the rows, so that no two cases share a cell. Raises
    RunFileError for an unknown axis or figure.
    """
    notes: dict[tuple[str, str], int] = {}

    def text(case: Mapping[Hashable, Any]) -> str:
        if case["status"] == "ok":
            return cell_text(case, figures, table.attrs.get(METRICS, {}))
        reason = (
            str(case["status"]),
            str(case["reason"] if isinstance(case["reason"], str) else "no reason on record"),
        )
        return f"{case['status']} [{notes.setdefault(reason, len(notes) + 1)}]"

    head = "" if columns else ", ".join(figures)
    wide = _spread(table, rows, columns, figures, lambda case: {head: text(case)}).fillna("-")
    lines = [f"[{number}] {status}: {reason}" for (status, reason), number in notes.items()]
    measured = table[table["status"] == "ok"].to_dict("records")
    return wide, [*lines, *(f"{name}: {'; '.join(remarks)}" for name, remarks in notes_of(measured))]


def numbers(table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], figures: Sequence[str]) -> pd.DataFrame:
    """The same layout for programs: a column for each figure in its own unit, two for the ends of a speed-up's
    interval, and columns for notes and for why a case has no figures. Raises RunFileError as `laid_out` does.
    """
    ends = ("speedup.low", "speedup.high")
    shown = [part for name in figures for part in (name, *(ends if name == "speedup.ratio" else ()))]

    def cells(case: Mapping[Hashable, Any]) -> Mapping[str, object]:
        if case["status"] == "ok":
            remarks = doubts(case)
            return {name: case[name] for name in shown} | ({"notes": "; ".join(remarks)} if remarks else {})
        why = f": {case['reason']}" if isinstance(case["reason"], str) else ""
        return dict.fromkeys(shown) | {"reason": f"{case['status']}{why}"}

    return _spread(table, rows, columns, figures, cells)


def _spread(
    table: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    figures: Sequence[str],
    cells: Callable[[Mapping[Hashable, Any]], Mapping[str, object]],
) -> pd.DataFrame:
    """A frame with the entries that `cells` gives of each case, in its row, below its column headings."""
    import pandas as pd

    for name in (*rows, *columns):
        if name not in KEYS:
            raise RunFileError(f"no axis is named {name!r}; there are {', '.join(KEYS)}")
    for name in figures:
        if name not in table.columns:
            near = ", ".join(column for column in table.columns if _is_figure(table, column))
            raise RunFileError(f"no case of these runs has a figure {name!r}; there are {near}")
    more = [key for key in KEYS if key not in (*rows, *columns) and table[key].nunique() > 1]
    if table.duplicated(list(KEYS)).any():  # several tests measured a case
        more.append("name")
    if "run" in more and "machine" in more and table["run"].nunique() == table["machine"].nunique():
        more.remove("machine")  # either identifies the other
    keys = [*rows, *more]
    noted = [name for name in NOTED if name in table]
    needed = dict.fromkeys([*KEYS, "name", "status", "reason", *figures, "speedup.low", "speedup.high", *noted])
    lines: dict[tuple[Any, ...], dict[str, object]] = {}
    for case in table[list(needed)].to_dict("records"):
        heads = [str(case[name]) for name in columns]
        entries = {" ".join(filter(None, [*heads, name])): value for name, value in cells(case).items()}
        lines.setdefault(tuple(case[name] for name in keys), {}).update(entries)
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | line for key, line in lines.items()])


def pivot(table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], figures: Sequence[str]) -> str:
    """The layout as markdown, its notes below. Raises RunFileError as `laid_out` does."""
    wide, notes = laid_out(table, rows, columns, figures)
    lines = [{str(name): str(value) for name, value in row.items()} for row in wide.to_dict("records")]
    return "\n".join(
        [f"### {escaped(', '.join(figures))}", "", markdown_table(lines), "", *(f"- {escaped(note)}" for note in notes)]
    )


def _is_figure(table: pd.DataFrame, column: str) -> bool:
    return "." in column and bool(table[column].map(is_number).any())
