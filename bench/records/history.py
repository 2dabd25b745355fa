"""A case's figure over many saved runs, and where it changed for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.records.figures import Metrics
from bench.records.runs import METRICS, Run, frame
from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

LEAST = 2  # runs on each side of a change, at least
PENALTY = 3.0  # of a change, in units of 2 log(n) variances


@dataclass(frozen=True)
class History:
    """A figure of one case over runs of one machine, oldest first.

    rows     a frame with `when`, `run`, `commit`, `value` and `noisy`.
    metrics  the runs' metrics by name, with their units.
    changes  places in `rows` of the first row after each change; noisy rows make none.
    """

    case: str
    figure: str
    machine: str
    rows: pd.DataFrame
    changes: tuple[int, ...]
    metrics: Metrics = field(default_factory=dict)


def histories(runs: Sequence[Run], cases: Sequence[str], figure: str) -> list[History]:
    """The histories of the named cases, or of all cases where none is named, separately for each machine.

    Raises RunFileError where no run has such a case or figure.
    """
    table = frame(runs)
    commits = {run.name: run.commit for run in runs}
    unknown = set(cases) - {*table["id"], *table["name"]}
    if unknown:
        raise RunFileError(
            f"no run holds {', '.join(sorted(unknown))}; there are {', '.join(dict.fromkeys(table['id']))}"
        )
    if figure not in table or not table[figure].map(is_number).any():
        raise RunFileError(f"no case of these runs has a figure {figure!r}")
    selected = table[table["id"].isin(cases) | table["name"].isin(cases)] if cases else table
    selected = selected[(selected["status"] == "ok") & selected[figure].map(is_number)]
    collected = []
    for (case, machine), rows in selected.groupby(["name", "machine"], sort=False):
        rows = rows.sort_values(["when", "run"], na_position="first")
        noisy = rows["noise.verdict"] == "noisy" if "noise.verdict" in rows else False
        rows = rows.assign(value=rows[figure].astype(float), commit=rows["run"].map(commits), noisy=noisy)
        rows = rows[["when", "run", "commit", "value", "noisy"]].reset_index(drop=True)
        steady = rows[~rows["noisy"]]
        changes = tuple(int(steady.index[place]) for place in changes_of(steady["value"]))
        metrics = table.attrs.get(METRICS, {})
        collected.append(History(str(case), figure, str(machine), rows, changes, metrics))
    return collected


def changes_of(values: Any) -> tuple[int, ...]:
    """The places of the first values after changes of level, by PELT on the logarithms of values above 0.

    The penalty follows the differences of neighbours, so that scatter within a level is no change. Source:
    Killick, Fearnhead & Eckley 2012, "Optimal detection of changepoints with a linear computational cost"; by the
    library ruptures.
    """
    import numpy as np
    import ruptures

    logs = np.log(np.maximum(np.asarray(values, dtype=np.float64), np.finfo(np.float64).tiny))
    if len(logs) < 2 * LEAST:
        return ()
    steps = np.diff(logs)
    # a normal distribution's deviation is 1.4826 median absolute deviations; a difference has sqrt(2) of a value's
    spread = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / np.sqrt(2)
    variance = max(spread, 1e-4) ** 2
    penalty = PENALTY * variance * np.log(len(logs)) * 2
    ends = ruptures.Pelt(model="l2", min_size=LEAST, jump=1).fit(logs[:, None]).predict(pen=penalty)
    return tuple(ends[:-1])
