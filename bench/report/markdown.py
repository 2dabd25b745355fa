"""Markdown in which text from files stays text."""

from __future__ import annotations

import html
from typing import Any


def escaped(value: Any) -> str:
    """Text for a markdown cell or line: no HTML, no column ends, no line ends."""
    return " ".join(html.escape(str(value), quote=False).replace("|", "\\|").split())


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a table; cells are formatted text, columns of numbers are aligned to the right."""
    import pandas as pd

    cells = pd.DataFrame([{name: escaped(cell) for name, cell in row.items()} for row in rows])
    right = [
        all(cell == "-" or cell[:1].isdigit() or cell[:2].strip("-")[:1].isdigit() for cell in cells[name])
        for name in cells
    ]
    return cells.to_markdown(
        index=False, disable_numparse=True, colalign=["right" if flag else "left" for flag in right]
    )
