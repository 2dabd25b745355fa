"""Any figures of any cases, laid out by any axes: one case a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.case import AXES
from bench.errors import RunFileError
from bench.record import is_number
from bench.report.markdown import escaped, markdown_table

if TYPE_CHECKING:
    import pandas as pd

KEYS = (*AXES, "run", "machine")
SHARES = (
    *("quality.top1", "quality.top5", "quality.ap_", "quality.map", "quality.miou", "quality.pixel_accuracy"),
    *("fidelity.agreement", "efficiency.share_of_peak", "explained.time"),
)


def formed(name: str, value: Any) -> str:
    """A figure as text, in the unit that its name ends with: seconds as ms, bytes as MB, decibel, ratios, shares."""
    if not is_number(value):
        return escaped(value) if isinstance(value, str) else "-"
    if name.startswith("speedup."):
        return f"{value:.2f}x" if name in ("speedup.ratio", "speedup.low", "speedup.high") else f"{value:.4g}"
    if name.endswith("_s") and not name.endswith("_per_s"):
        return f"{value * 1e3:.3f} ms" if value < 1 else f"{value:.2f} s"
    if name.endswith("bytes"):
        return f"{value / 1e6:.3f} MB"
    if name.endswith("_db"):
        return f"{value:.2f} dB"
    if name.startswith(SHARES):
        return f"{value:.2%}"
    return f"{value:.4g}"


def cell_text(case: Any, figures: Sequence[str]) -> str:
    """A case's figures beside each other, a speed-up with the ends of its interval."""
    parts = []
    for name in figures:
        text = formed(name, case.get(name))
        ends = [case.get(f"speedup.{end}") for end in ("low", "high")]
        if name == "speedup.ratio" and text != "-":
            sure = all(map(is_number, ends))
            text += f" ({ends[0]:.2f}-{ends[1]:.2f})" if sure else " (no interval)"
        parts.append(text)
    return ", ".join(parts)


def laid_out(
    table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], figures: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A frame of texts, one row and column for each combination of the axes named, and notes: the reason of each cell
    that has no figures.

    Axes that are not named but have several values are added to the rows, so that no two cases share a cell. Raises
    RunFileError for a name that is none.
    """
    import pandas as pd

    for name in (*rows, *columns):
        if name not in KEYS:
            raise RunFileError(f"no axis is named {name!r}; there are {', '.join(KEYS)}")
    for name in figures:
        if name not in table.columns:
            near = ", ".join(column for column in table.columns if _is_figure(table, column))
            raise RunFileError(f"no case of these runs has a figure {name!r}; there are {near}")
    more = [key for key in KEYS if key not in (*rows, *columns) and table[key].nunique() > 1]
    if "run" in more and "machine" in more and table["run"].nunique() == table["machine"].nunique():
        more.remove("machine")  # they tell the same
    keys = [*rows, *more]
    shown = dict.fromkeys([*KEYS, "status", "reason", *figures, "speedup.low", "speedup.high"])
    notes: dict[tuple[str, str], int] = {}
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    for case in table[list(shown)].to_dict("records"):
        if case["status"] == "ok":
            text = cell_text(case, figures)
        else:
            reason = (str(case["status"]), str(case["reason"]))
            text = f"{case['status']} [{notes.setdefault(reason, len(notes) + 1)}]"
        head = " ".join(str(case[name]) for name in columns) or ", ".join(figures)
        cells.setdefault(tuple(case[name] for name in keys), {})[head] = text
    heads = dict.fromkeys(head for line in cells.values() for head in line)
    lines = [
        dict(zip(keys, key, strict=True)) | {head: line.get(head, "-") for head in heads} for key, line in cells.items()
    ]
    return pd.DataFrame(lines), [f"[{number}] {status}: {reason}" for (status, reason), number in notes.items()]


def pivot(table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], figures: Sequence[str]) -> str:
    """The layout as markdown, its notes below. Raises RunFileError as `laid_out` does."""
    wide, notes = laid_out(table, rows, columns, figures)
    lines = [{str(name): str(value) for name, value in row.items()} for row in wide.to_dict("records")]
    return "\n".join(
        [f"### {escaped(', '.join(figures))}", "", markdown_table(lines), "", *(f"- {escaped(one)}" for one in notes)]
    )


def _is_figure(table: pd.DataFrame, column: str) -> bool:
    return "." in column and bool(table[column].map(is_number).any())
