"""A page of saved runs that opens without a network: plots, a table and pictures, filtered by any axis."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.records.figures import Metrics
from bench.records.runs import METRICS, Run, frame, names
from bench.report.notes import doubts
from bench.report.pivot import cell_text, formed
from bench.report.plots import AXES, charts, headline, rows_of
from bench.report.summary import head
from bench.statistics import is_number
from bench.tasks.pictures import panels_of

TEMPLATE = Path(__file__).with_name("page.html")
PICTURES_BYTES = 2_500_000  # the whole page is to stay below 5 MB; the plotting library takes 1 MB
SIDE, QUALITY = 320, 80  # of a picture: its longer side in pixels at most, and its JPEG quality
FIGURES = {
    "latency.p50_s": "median",
    "latency.p90_s": "90th percentile",
    "throughput_items_per_s": "items/s",
    "speedup.ratio": "speed-up (95%)",
    "lowered.share": "lowered",
    "explained.time.int8": "time in INT8",
    "kernel.kernel_db": "kernels",
    "efficiency.share_of_peak": "of peak",
    "artifact.bytes": "size",
    "peak_rss_bytes": "peak memory",
    "load_s": "load",
    "first_call_s": "first call",
    "first_call_cold_s": "first call, nothing compiled",
}


def page(runs: Sequence[Run], reports: Path | None) -> str:
    """The page as HTML, with pictures from the strips in `out/pictures` of the reports folder.

    Text from files stays text: the template escapes it, and data are JSON without markup.
    """
    import jinja2

    table = frame(runs)
    varied = {axis for axis in AXES if table[axis].nunique() > 1}
    specs = {title: chart.to_dict() for title, chart in charts(varied).items()}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        lines=[line.removeprefix("- ") for line in head(runs).splitlines()],
        library=_library(),
        specs=_json(specs),
        rows=_json([asdict(row) for row in rows_of(table)]),
        axes={axis: sorted(map(str, table[axis].unique())) for axis in AXES if axis in varied},
        columns={"case": "case", "quality": "quality"}
        | {name: label for name, label in FIGURES.items() if name in table and table[name].map(is_number).any()}
        | {"status": "status"},
        cases=[_row(case, table.attrs[METRICS]) for case in table.to_dict("records")],
        pictures=_slides(runs, reports),
        plots=list(specs),
    )


def _json(value: Any) -> Any:
    """JSON for a script element; signs that could end the element or begin another are escaped."""
    import markupsafe

    text = json.dumps(value, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return markupsafe.Markup(text)


@functools.cache
def _library() -> Any:
    """The plotting library as the text of a script element."""
    import altair
    import markupsafe
    import vl_convert

    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", altair.SCHEMA_VERSION.rpartition(".")[0])
    return markupsafe.Markup(text.replace("</script", "<\\/script"))


@dataclass(frozen=True)
class TableRow:
    """A row of the page's table: axes for the filters, cells as (text, sort key), and notes."""

    axes: dict[str, str]
    cells: dict[str, tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class Slide:
    """Two pictures of an item for the slider, FP32's and the case's, as data URLs."""

    case: str
    axes: dict[str, str]
    name: str
    FP32: str
    this_case: str


def _row(case: Mapping[Any, Any], metrics: Metrics) -> TableRow:
    metric = headline(case)
    cells = {name: (cell_text(case, [name], metrics), _order(case.get(name))) for name in FIGURES}
    cells["case"] = (str(case["name"]), str(case["name"]))
    cells["status"] = (str(case["status"]), str(case["status"]))
    cells["quality"] = (
        ("-", "")
        if metric is None
        else (f"{metric.removeprefix('quality.')} {formed(metric, case[metric], metrics)}", _order(case[metric]))
    )
    notes = doubts(case)
    diagnosis, operations = case.get("explained.diagnosis"), case.get("explained.operations")
    notes += [diagnosis] if isinstance(diagnosis, str) else []
    notes += (
        [_operation(entry) for entry in operations if isinstance(entry, dict)] if isinstance(operations, list) else []
    )
    reason = [str(case["reason"])] if isinstance(case["reason"], str) else []
    return TableRow({axis: str(case[axis]) for axis in AXES}, cells, [*reason, *notes])


def _operation(entry: Mapping[str, Any]) -> str:
    """One of the longest operations of a call, in words."""
    share = f"{entry['share']:.1%} " if is_number(entry.get("share")) else ""
    by = f", {entry['kernel']}" if entry.get("kernel") else ""
    return f"{share}{entry.get('kind')} x {entry.get('count')}: {entry.get('format')}{by}"


def _order(value: Any) -> str:
    return repr(float(value)) if is_number(value) else ""


def _slides(runs: Sequence[Run], reports: Path | None) -> list[Slide]:
    """The slides of all items of all cases, in order, as many as fit in PICTURES_BYTES."""
    if reports is None:
        return []
    folder, spent = reports / "out" / "pictures", 0
    slides: list[Slide] = []
    kept: dict[str, str] = {}  # data address -> itself: cases share one copy, counted once
    writers = _writers(runs)
    for place, (run, called) in enumerate(zip(runs, names(runs), strict=True)):
        for record, case in zip(run.records, called, strict=True):
            for name in record.pictures:
                file = folder / Path(str(name)).name
                panels = panels_of(file) if writers[str(name)] == place and file.is_file() else {}
                if "FP32" not in panels or "this case" not in panels:
                    continue
                parts = {}
                for caption in ("FP32", "this case"):
                    data = _jpeg(panels[caption])
                    spent += 0 if data in kept else len(data)
                    parts[caption] = kept.setdefault(data, data)
                if spent > PICTURES_BYTES:
                    return slides
                axes = {"run": run.name, "machine": run.fingerprint} | record.case.axes()
                slides.append(
                    Slide(
                        case,
                        {axis: str(value) for axis, value in axes.items()},
                        f"{name}, {run.name}" if len(runs) > 1 else name,
                        parts["FP32"],
                        parts["this case"],
                    )
                )
    return slides


def _writers(runs: Sequence[Run]) -> dict[str, int]:
    """Picture file name -> place of its run: the latest run that names it. Before names held a digest of the content,
    a later run overwrote an earlier run's pictures of the same name.
    """
    order = sorted(range(len(runs)), key=lambda place: (str(runs[place].when or ""), place))
    return {str(name): place for place in order for record in runs[place].records for name in record.pictures}


def _jpeg(picture: Any) -> str:
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
