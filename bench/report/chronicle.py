"""One figure of saved runs over time, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.records.history import History
from bench.report.markdown import escaped, markdown_table
from bench.report.pivot import formed

if TYPE_CHECKING:
    pass


def rendered(found: Sequence[History]) -> str:
    """The histories as markdown, the rows after a change marked."""
    parts = []
    for one in found:
        rows = []
        times = one.rows["value"] / one.rows["value"].mask(one.rows["noisy"]).ffill().shift()
        for place, row in enumerate(one.rows.to_dict("records")):
            told = f"changed, {times[place]:.3f}x the one before" if place in one.changes else ""
            rows.append(
                {
                    "when": row["when"][:19] if isinstance(row["when"], str) else "-",
                    "run": str(row["run"]),
                    "commit": row["commit"][:10] if isinstance(row["commit"], str) else "-",
                    one.figure: formed(one.figure, row["value"]),
                    "": "noisy" if row["noisy"] else told,
                }
            )
        parts += [f"### {escaped(one.case)}, machine {escaped(one.machine)}", markdown_table(rows)]
    return "\n\n".join(parts)
