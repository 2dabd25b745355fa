"""One figure of saved runs over time, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.history import History
from bench.report.markdown import escaped, markdown_table
from bench.report.pivot import formed


def rendered(histories: Sequence[History]) -> str:
    """The histories as markdown; the first row after each change is marked."""
    parts = []
    for history in histories:
        rows = []
        values = history.rows["value"]
        ratios = values / values.mask(history.rows["noisy"]).ffill().shift()  # to the last quiet run before
        for place, row in enumerate(history.rows.to_dict("records")):
            mark = f"changed, {ratios[place]:.3f}x the one before" if place in history.changes else ""
            rows.append(
                {
                    "when": row["when"][:19] if isinstance(row["when"], str) else "-",
                    "run": str(row["run"]),
                    "commit": row["commit"][:10] if isinstance(row["commit"], str) else "-",
                    history.figure: formed(history.figure, row["value"], history.metrics),
                    "": "noisy" if row["noisy"] else mark,
                }
            )
        parts += [f"### {escaped(history.case)}, machine {escaped(history.machine)}", markdown_table(rows)]
    return "\n\n".join(parts)
