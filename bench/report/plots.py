"""The plots of saved runs: a chart for each question, from the rows of `rows_of`; for the page, or as SVG or PNG."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.records.figures import column_metric
from bench.records.runs import METRICS
from bench.spec import case as cases
from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

    from bench.records.history import History

DATA = "cases"  # the name of the charts' data, which page.html fills
WIDTH, HEIGHT, LINE = 320, 220, 13  # pixels: a plot's width and height, and a line of bars
AXES = ("run", "machine", *cases.AXES)
FORMATS = (".svg", ".png", ".html")


def headline(case: Mapping[Any, Any]) -> str | None:
    """The column of the quality figure that a case is placed by: the first of its task, or None."""
    columns = (
        name
        for name, value in case.items()
        if name.startswith("quality.") and name.count(".") == 1 and is_number(value)
    )
    return next(columns, None)


@dataclass
class Row:
    """What the charts show of a measured case: times in ms, sizes in MB, None where not measured.

    kind    engine and precision.
    better  1 where a higher quality is better, else -1.
    front   whether no other case of its model, batch, threads, run and device is both faster and better.
    """

    run: str
    machine: str
    model: str
    precision: str
    engine: str
    batch: int
    threads: int
    device: str
    case: str
    kind: str
    metric: str | None
    better: int
    quality: float | None
    p50_ms: float | None
    items_per_s: float | None
    speedup: float | None
    low: float | None
    high: float | None
    size_mb: float | None
    peak_rss_mb: float | None
    share_of_peak: float | None
    load_ms: float | None
    first_call_ms: float | None
    front: bool = False

    def axes(self) -> tuple[str | int, ...]:
        """Its values of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The measured cases, as the charts show them."""
    rows: list[Row] = []
    metrics = table.attrs.get(METRICS, {})
    for case in table[table["status"] == "ok"].to_dict("records"):
        metric = headline(case)

        def figure(name: str | None, factor: float = 1.0, case: Mapping[Any, Any] = case) -> float | None:
            value = None if name is None else case.get(name)
            return float(value) * factor if is_number(value) else None

        spec = None if metric is None else column_metric(metric, metrics)
        rows.append(
            Row(
                **{axis: case[axis] for axis in AXES},
                case=case["name"],
                kind=f"{case['engine']} {case['precision']}",
                metric=None if spec is None else spec.name,
                better=1 if spec is None else spec.sign,
                quality=figure(metric),
                p50_ms=figure("latency.p50_s", 1e3),
                items_per_s=figure("throughput_items_per_s"),
                speedup=figure("speedup.ratio"),
                low=figure("speedup.low"),
                high=figure("speedup.high"),
                size_mb=figure("artifact.bytes", 1e-6),
                peak_rss_mb=figure("peak_rss_bytes", 1e-6),
                share_of_peak=figure("efficiency.share_of_peak"),
                load_ms=figure("load_s", 1e3),
                first_call_ms=figure("first_call_s", 1e3),
            )
        )
    seen: collections.Counter[tuple[str | int, ...]] = collections.Counter()
    for row in rows:
        row.front = _on_front(row, rows)
        seen[row.axes()] += 1  # another test of the same case: a line of its own
        row.kind += f" #{seen[row.axes()]}" if seen[row.axes()] > 1 else ""
    return rows


def _on_front(row: Row, rows: Sequence[Row]) -> bool:
    if row.quality is None or row.p50_ms is None:
        return False
    where = (row.run, row.model, row.batch, row.threads, row.device, row.metric)
    return not any(
        row.better * other.quality >= row.better * row.quality
        and other.p50_ms <= row.p50_ms
        and (other.quality, other.p50_ms) != (row.quality, row.p50_ms)
        for other in rows
        if (other.run, other.model, other.batch, other.threads, other.device, other.metric) == where
        and other.quality is not None
        and other.p50_ms is not None
    )


def charts(varied: set[str]) -> dict[str, Any]:
    """The charts by title. All read data named DATA, so that a page can give them the same rows. Charts by batch and
    by threads are made only where these are in `varied`, the axes that have several values.
    """
    import altair as alt

    tooltip = [
        alt.Tooltip(field) for field in ("case:N", "run:N", "quality:Q", "metric:N", "p50_ms:Q", "items_per_s:Q")
    ]
    tooltip += [alt.Tooltip(field) for field in ("speedup:Q", "low:Q", "high:Q", "size_mb:Q", "share_of_peak:Q")]
    engine, precision = alt.Color("engine:N"), alt.Shape("precision:N")
    base, by_kind = alt.Chart(alt.NamedData(name=DATA)), alt.Step(LINE)  # a line for each engine and precision

    def faceted(layer: Any, height: Any = HEIGHT) -> Any:
        return (
            layer.properties(width=WIDTH, height=height)
            .facet(facet=alt.Facet("model:N", title=None), columns=2)
            .resolve_scale(x="independent", y="independent")
        )

    def bars(field: str, title: str) -> Any:
        return base.mark_bar(opacity=0.8).encode(
            x=alt.X(field, title=title, stack=None),
            y=alt.Y("kind:N", title=None, sort=None),
            color=engine,
            tooltip=tooltip,
        )

    latency = alt.X("p50_ms:Q", title="median latency, ms", scale=alt.Scale(type="log"))
    quality = alt.Y("quality:Q", title="quality", scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=90).encode(
        x=latency, y=quality, color=engine, shape=precision, tooltip=tooltip
    )
    front = base.transform_filter("datum.front").mark_line(interpolate="step-after", strokeDash=[4, 3], color="gray")
    front = front.encode(x=latency, y=quality, detail=["batch:N", "threads:N", "run:N"])
    interval = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="speed-up over the baseline, 95% interval"),
        x2="high:Q",
        y=alt.Y("kind:N", title=None, sort=None),
        color=engine,
    )
    ratio = base.mark_point(filled=True, size=60).encode(
        x="speedup:Q", y=alt.Y("kind:N", sort=None), color=engine, tooltip=tooltip
    )

    def lines(axis: str, field: str, title: str) -> Any:
        other = "threads:N" if axis == "batch" else "batch:N"
        return base.mark_line(point=True).encode(
            x=alt.X(f"{axis}:O"),
            y=alt.Y(field, title=title, scale=alt.Scale(type="log")),
            color=engine,
            strokeDash="precision:N",
            detail=[other, "run:N"],
            tooltip=tooltip,
        )

    by_axis = {
        f"{name} by {axis}": faceted(lines(axis, field, title))
        for axis in ("batch", "threads")
        if axis in varied
        for name, field, title in (
            ("Latency", "p50_ms:Q", "median latency, ms"),
            ("Throughput", "items_per_s:Q", "items per s"),
        )
    }
    phases = (
        base.transform_fold(["load_ms", "first_call_ms", "p50_ms"], as_=["phase", "ms"])
        .transform_filter("isValid(datum.ms)")
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("ms:Q", title="ms", scale=alt.Scale(type="log")),
            y=alt.Y("kind:N", title=None, sort=None),
            shape=alt.Shape("phase:N", sort=["load_ms", "first_call_ms", "p50_ms"]),
            color=engine,
            tooltip=["case:N", "phase:N", "ms:Q"],
        )
    )
    return {
        "Quality against latency, with the Pareto front": faceted(front + points),
        "Speed-up": faceted(interval + ratio, by_kind),
        **by_axis,
        "Size": faceted(bars("size_mb:Q", "artefact, MB"), by_kind),
        "Peak memory": faceted(bars("peak_rss_mb:Q", "peak resident memory, MB"), by_kind),
        "Share of the machine's peak": faceted(bars("share_of_peak:Q", "of the best product or convolution"), by_kind),
        "Load, first call, steady": faceted(phases, by_kind),
    }


def over_time(histories: Sequence[History]) -> Any:
    """A chart of histories: a figure by run, noisy runs faint, a rule at the first run after each change."""
    import altair as alt
    import pandas as pd

    frames = [
        history.rows.assign(
            case=f"{history.case}, machine {history.machine}",
            place=range(len(history.rows)),
            changed=[place in history.changes for place in range(len(history.rows))],
        )
        for history in histories
    ]
    if not frames:
        raise RunFileError("these runs have nothing to draw")
    base = alt.Chart(pd.concat(frames).drop(columns=["commit"]).astype({"when": str, "run": str}))
    x = alt.X("place:O", title="run, oldest first")
    y = alt.Y("value:Q", title=histories[0].figure, scale=alt.Scale(zero=False))
    line = base.transform_filter("!datum.noisy").mark_line().encode(x=x, y=y)
    points = base.mark_point(filled=True, size=50).encode(
        x=x,
        y=y,
        opacity=alt.condition("datum.noisy", alt.value(0.3), alt.value(1)),
        tooltip=["run", "when", "value", "noisy"],
    )
    rule = base.transform_filter("datum.changed").mark_rule(color="crimson", strokeDash=[4, 3]).encode(x=x)
    return (
        (line + points + rule)
        .properties(width=2 * WIDTH, height=HEIGHT)
        .facet(facet=alt.Facet("case:N", title=None), columns=1)
        .resolve_scale(x="independent", y="independent")
    )


def drawn(chart: Any, file: Path, rows: Sequence[Row] | None = None) -> None:
    """Write a chart as .svg, .png or .html, by the file's name; `rows` are the data of a chart of `charts`. Raises
    RunFileError for another suffix, or where the file cannot be written.
    """
    import altair
    import vl_convert

    if file.suffix not in FORMATS:
        raise RunFileError(f"cannot draw {file}; its name must end in {', '.join(FORMATS)}")
    spec, version = chart.to_dict(), altair.SCHEMA_VERSION.rpartition(".")[0]
    if rows is not None:
        spec["datasets"] = {DATA: [asdict(row) for row in rows]}
    if file.suffix == ".png":
        content = vl_convert.vegalite_to_png(spec, version, scale=2)
    elif file.suffix == ".svg":
        content = vl_convert.vegalite_to_svg(spec, version).encode()
    else:
        content = vl_convert.vegalite_to_html(spec, version, bundle=True).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise RunFileError(f"cannot write {file}: {error.strerror}") from error


def images(table: pd.DataFrame, folder: Path, kind: str) -> dict[str, Path]:
    """Draw all the charts of a frame into a folder, as "svg" or "png". Returns the files by title."""
    rows = rows_of(table)
    files = {}
    for title, chart in charts({axis for axis in AXES if table[axis].nunique() > 1}).items():
        files[title] = folder / f"{'-'.join(re.findall('[a-z]+', title.lower()))}.{kind}"
        drawn(chart, files[title], rows)
    return files
