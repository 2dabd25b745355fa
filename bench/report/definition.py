"""Tables that a TOML file defines: which cases are its columns, which figures its rows.

title = "..."
where = { model = "resnet20" }                  # what all its cases have in common
[[columns]]
label = "FP32"
case = { precision = "fp32", engine = "torch" }
[[rows]]
label = "accuracy"
figure = "quality.top1"                         # a column of bench.runs.frame
form = "percent"                                # one of FORMS
ratio = true                                    # beside it, how many times less than in the first column
interval = ["speedup.low", "speedup.high"]      # beside it, the ends of its interval
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.report.markdown import escaped, is_number, markdown_table

if TYPE_CHECKING:
    import pandas as pd

Form = Callable[[float], str]
Row = tuple[str, str, Form, bool, list[str]]

FORMS: dict[str, Form] = {
    "percent": lambda share: f"{share:.2%}",
    "s": lambda seconds: f"{seconds:.2f} s",
    "ms": lambda seconds: f"{seconds * 1e3:.3f} ms",
    "MB": lambda size: f"{size / 1e6:.3f} MB",
    "x": lambda ratio: f"{ratio:.2f}x",
    "dB": lambda decibel: f"{decibel:.2f} dB",
}


def defined(path: Path, table: pd.DataFrame) -> list[str]:
    """Render the table that a file defines, once for each model, device, batch and threads that has figures for it.

    Columns without a case in this run are left out and named below; a case without figures has its reason there.
    Raises RunFileError where the file is no such definition.
    """
    try:
        definition = tomllib.loads(path.read_text(encoding="utf-8"))
        title, where = definition["title"], definition.get("where", {})
        columns = [(column["label"], column["case"]) for column in definition["columns"]]
        rows = [
            (row["label"], row["figure"], FORMS[row["form"]], row.get("ratio", False), row.get("interval", []))
            for row in definition["rows"]
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunFileError(f"{path} defines no table: {type(error).__name__} {error}") from error
    texts = []
    chosen = _where(table, where)
    for axes, cases in chosen.groupby(["model", "device", "batch", "threads"], sort=False):
        if (cases["status"] == "ok").any():
            model, device, batch, threads = axes
            head = f"### {escaped(title)}\n\n{escaped(model)}, {escaped(device)}, batch {batch}, threads {threads}"
            texts.append(f"{head}{_body(cases, columns, rows)}")
    return texts


def _where(table: pd.DataFrame, wanted: dict[str, Any]) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value] if column in table else table.iloc[:0]
    return table


def _body(cases: pd.DataFrame, columns: list[tuple[str, dict[str, Any]]], rows: list[Row]) -> str:
    known = cases[cases["status"] == "ok"].iloc[0]
    source = f"weights {known['quality.weights']}, {known['quality.dataset']}, n = {known['quality.n']:.0f}"
    missing: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for label, wanted in columns:
        cells = _where(cases, wanted)
        if not len(cells):
            missing.setdefault("not among the cases of this run", []).append(label)
            continue
        found[label] = cells.iloc[0]
        if found[label]["status"] != "ok":
            missing.setdefault(f"{found[label]['status']}: {found[label]['reason']}", []).append(label)
    lines = []
    for name, figure, form, ratio, interval in rows:
        line = {"": name}
        first: Any = found[columns[0][0]].get(figure) if columns[0][0] in found else None
        for label in found:
            value: Any = found[label].get(figure)
            cell = form(value) if is_number(value) else "-"
            if ratio and label != columns[0][0] and is_number(value) and is_number(first) and value > 0:
                cell += f" ({first / value:.2f}x)"
            ends = [found[label].get(end) for end in interval]
            if ends and all(map(is_number, ends)):
                cell += f" ({'-'.join(form(end).rstrip('x') for end in ends)})"
            line[label] = cell
        lines.append(line)
    notes = "".join(f"\n- {escaped(', '.join(labels))}: {escaped(reason)}" for reason, labels in missing.items())
    return f" ({escaped(source)})\n\n{markdown_table(lines)}{chr(10) if notes else ''}{notes}"
