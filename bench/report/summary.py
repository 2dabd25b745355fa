"""Saved or finished runs as markdown: the general table, and the tables that a folder defines."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunFileError
from bench.records.figures import Metrics
from bench.records.record import Record
from bench.records.runs import METRICS, Run, frame, names
from bench.report.beside_fp32 import SMALLER, baseline_of, fp32_of, gains, ratio
from bench.report.definition import defined
from bench.report.markdown import escaped, markdown_table
from bench.report.notes import notes_of
from bench.report.pivot import formed
from bench.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd

    from bench.machine.facts import Machine

GENERAL, PIVOT = "cases", "pivot"  # names of tables that no folder defines
# columns left out where no case has them
LOWERED, TIME, COLD, GZIP = "lowered", "time in INT8", "first call cold ms", "gzip MB"
HUFFMAN, PACKED, GAINS = "Huffman MB", "packed MB", "gains"
ON_DEVICE, DEVICE_MB, DEVICE_J = "on device ms", "device MB", "device J"
CPU = "cpu"
NAMED = 6  # cases that a line on several names


def session(records: list[Record], reports: Path) -> tuple[str, Path]:
    """Render what a session has just measured into a file below `reports/out`. Returns the text and the file."""
    from bench.machine.facts import describe

    now = datetime.datetime.now(datetime.UTC)
    run = Run(records, describe(), now.isoformat(timespec="seconds"))
    text = render([run], reports if reports.is_dir() else None)
    path = reports / "out" / f"run-{now:%Y%m%d-%H%M%S}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([text, *_pictures(run)]) + "\n", encoding="utf-8")
    summarize(text)
    return text, path


def summarize(text: str) -> None:
    """Append markdown to the summary of the current GitHub Actions step, if there is one."""
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        with Path(place).open("a", encoding="utf-8") as summary:
            summary.write(f"{text}\n\n")


def _pictures(run: Run) -> list[str]:
    """Links to the strips of pictures of the cases, which lie beside the report."""
    cases = zip(names([run])[0], run.records, strict=True)
    shown = [(case, name) for case, record in cases for name in record.pictures]
    links = [f"![{escaped(case)}](pictures/{escaped(name)}) {escaped(case)}" for case, name in shown]
    return ["### Pictures", *links] if links else []


def render(runs: Sequence[Run], tables: Path | None = None, wanted: str | None = None) -> str:
    """Runs as markdown: what was measured on which machines, then for each run the general table and each table of the
    folder `tables` that has something to show of it; or only the table named `wanted`. Raises RunFileError where no
    table has that name, or it has nothing to show.
    """
    files = {path.stem: path for path in sorted(tables.glob("*.toml"))} if tables is not None else {}
    if wanted is not None and wanted not in (GENERAL, *files):
        raise RunFileError(f"no table is named {wanted!r}; there are {', '.join([GENERAL, PIVOT, *files])}")
    parts = [head(runs)]
    for run in runs:
        table = frame(run)
        shown = [general(table)] if wanted in (None, GENERAL) else []
        shown += [text for name, path in files.items() if wanted in (None, name) for text in defined(path, table)]
        parts += [f"## {escaped(run.name)}", *shown] if len(runs) > 1 and shown else shown
    if len(parts) == 1:
        raise RunFileError(f"the table {wanted!r} has nothing to show of these runs")
    return "\n\n".join(parts)


def head(runs: Sequence[Run]) -> str:
    """A line each on models, machines, versions and times of the runs."""
    table = frame(runs)
    lines = []
    for model, rows in table.groupby("model", sort=False):
        judged = rows[(rows["status"] == "ok") & rows["judged.n"].map(is_number)]
        if len(judged):
            first = judged.iloc[0]
            weights, dataset = (_text(first[f"judged.{name}"]) for name in ("weights", "dataset"))
            reasons = dict.fromkeys(reason for reason in rows["judged.reason"] if isinstance(reason, str))
            missing = f"; no quality: {', '.join(reasons)}" if reasons else ""
            lines.append(
                f"Model {model}: weights {weights}, judged on {dataset} (n = {first['judged.n']:.0f}){missing}."
            )
    machines: dict[str, list[Run]] = {}
    for run in runs:
        machines.setdefault(run.fingerprint, []).append(run)
    for key, group in machines.items():
        label = f"Machine {key}" + (f" ({', '.join(run.name for run in group)})" if len(machines) > 1 else "")
        lines.append(f"{label}: {described(group[0].machine)}.")
    versions: dict[str, list[str]] = {}
    for run in runs:
        versions.setdefault(_versions(run.machine, table), []).append(run.name)
    for packages, called in versions.items():
        label = f"Versions ({', '.join(called)})" if len(versions) > 1 else "Versions"
        lines += [f"{label}: {packages}."] if packages else []
    for run in runs:
        label = f"Measured {run.name}" if len(runs) > 1 else "Measured"
        at = f" at commit {run.commit[:10]}" if run.commit else ""
        lines += [f"{label}: {run.when}{at}."] if run.when else []
        lines += _resumed(run)
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "-"


def _resumed(run: Run) -> list[str]:
    """A line on how many records an interrupted run had measured before, and when; no line where there are none."""
    taken = [record.resumed.get("from") for record in run.records]
    times = sorted(at for at in taken if at is not None)
    span = " to ".join(dict.fromkeys([times[0], times[-1]])) if times else ""
    return [f"Resumed {run.name}: {len(times)} of {len(taken)} records were measured before, {span}."] if times else []


def described(machine: Machine) -> str:
    """A machine in words: processor, cores, memory, instructions for INT8, system."""
    isa = machine.isa
    parts = (
        machine.cpu,
        None if machine.cores_physical is None else f"{machine.cores_physical} cores",
        None if machine.ram_bytes is None else f"{machine.ram_bytes / 1e9:.0f} GB",
        None if isa is None else " ".join(isa) or "no known INT8 instructions",
        machine.system,
    )
    return ", ".join(part for part in parts if part) or "not on record"


def _versions(machine: Machine, table: pd.DataFrame) -> str:
    wanted = _engines_of(table)
    named = [f"{name} {version}" for name, version in machine.versions.items() if version and name in wanted]
    return ", ".join([*named, *([f"python {machine.python}"] if machine.python else [])])


def _engines_of(table: pd.DataFrame) -> set[str]:
    from bench.engines import engines

    return {package for name in set(table["engine"]) & set(engines.names()) for package in engines.get(name).packages}


def general(table: pd.DataFrame) -> str:
    """One row for each measured case; unsupported and failed cases as notes below, with their reasons.

    A case that was measured but failed its test has a row too, marked so. Cases that several tests measured name the
    test. The speed-up is from paired samples; the other ratios go through the baseline and have a star in the heading.
    `lowered` is the share of multiply-accumulates in the number format of a precision below FP32, counted from the
    artefact. `time in INT8` is the share of a call's time in INT8, by the runtime's profiler.
    """
    good = table[table["status"] == "ok"]
    measured = table[[row["status"] == "ok" or is_number(row.get("latency.p50_s")) for _, row in table.iterrows()]]
    columns: dict[str, Callable[[Any], str]] = {
        "model": lambda row: row["model"] if row["status"] == "ok" else f"{row['model']} ({row['status']})",
        "precision": lambda row: row["precision"],
        "engine": lambda row: row["engine"],
        "batch": lambda row: f"{row['batch']:d}",
        "threads": lambda row: f"{row['threads']:d}",
    }
    if (measured["device"] != CPU).any():
        columns["device"] = lambda row: row["device"]
    if (measured["name"] != measured["id"]).any():
        columns["test"] = lambda row: row["name"].removeprefix(row["id"]).strip(" ()") or "-"
    for prefix, suffix in (("quality.", ""), ("fidelity.", " to FP32")):
        for column in measured.columns:
            metric = column.removeprefix(prefix)
            headline = metric != column and "." not in metric and metric != "sqnr_db"
            if headline and measured[column].map(is_number).any():
                columns[metric + suffix] = partial(_text_of, column, table.attrs.get(METRICS, {}))
    columns |= {
        "SQNR dB": lambda row: _number(row["fidelity.sqnr_db"], "{:.1f}".format),
        LOWERED: lambda row: _number(row.get("lowered.share"), "{:.1%}".format),
        "p50 ms": lambda row: _number(row["latency.p50_s"], _ms),
        "p90 ms": lambda row: _number(row["latency.p90_s"], _ms),
        "items/s": lambda row: _number(row["throughput_items_per_s"], "{:.0f}".format),
        ON_DEVICE: lambda row: _number(row.get("on_device.device_s"), _ms),
        "speed-up": _speedup,
        "x own FP32*": lambda row: ratio(row, fp32_of(good, row, {"engine": row["engine"]})),
        "x best FP32*": lambda row: ratio(row, fp32_of(good, row, {})),
        "of peak": lambda row: _number(row.get("efficiency.share_of_peak"), "{:.0%}".format),
        TIME: lambda row: _number(row.get("explained.time.int8"), "{:.0%}".format),
        "size MB": lambda row: _number(row["artifact.bytes"], lambda b: f"{b / 1e6:.3f}"),
        GZIP: lambda row: _number(row.get("artifact.gzip_bytes"), lambda b: f"{b / 1e6:.3f}"),
        HUFFMAN: lambda row: _number(row.get("artifact.huffman_bytes"), lambda b: f"{b / 1e6:.3f}"),
        PACKED: lambda row: _number(row.get("artifact.packed_bytes"), lambda b: f"{b / 1e6:.3f}"),
        GAINS: lambda row: gains(row, fp32_of(good, row, {"engine": row["engine"]})),
        "peak RSS MB": lambda row: _number(row["peak_rss_bytes"], lambda b: f"{b / 1e6:.0f}"),
        DEVICE_MB: lambda row: _number(row.get("on_device.used_bytes"), lambda b: f"{b / 1e6:.0f}"),
        DEVICE_J: lambda row: _number(row.get("on_device.energy_j_per_call"), "{:.3g}".format),
        "load s": lambda row: _number(row["load_s"], "{:.2f}".format),
        "first call ms": lambda row: _number(row["first_call_s"], lambda s: f"{s * 1e3:.1f}"),
        COLD: lambda row: _number(row["first_call_cold_s"], lambda s: f"{s * 1e3:.1f}"),
    }
    if "on_device.device.kind" not in measured:
        del columns[ON_DEVICE], columns[DEVICE_MB], columns[DEVICE_J]
    if not measured["first_call_cold_s"].map(is_number).any():
        del columns[COLD]
    if "explained.diagnosis" not in measured:
        del columns[TIME]
    if "lowered.share" not in measured:
        del columns[LOWERED]
    if not any(map(is_number, measured.get("artifact.gzip_bytes", ()))):
        del columns[GZIP]
    if not any(map(is_number, measured.get("artifact.huffman_bytes", ()))):
        del columns[HUFFMAN], columns[GAINS]
    if not any(map(is_number, measured.get("artifact.packed_bytes", ()))):
        del columns[PACKED]
    lines = ["### All cases"]
    if len(measured):
        rows = [{name: cell(row) for name, cell in columns.items()} for _, row in measured.iterrows()]
        lines += [
            "",
            markdown_table(rows),
            "",
            *_footnotes(measured, columns),
        ]
    lines += ["", *notes(table)] if len(good) < len(table) else []
    diagnoses = [(row["name"], row.get("explained.diagnosis")) for _, row in measured.iterrows()]
    why = [f"- {escaped(case)}: {escaped(text)}" for case, text in diagnoses if isinstance(text, str)]
    lines += ["", "### What was executed", "", *why] if why else []
    return "\n".join(lines)


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The frame for other programs. Lists of texts, such as warnings, become a text. Columns of other lists or dicts
    and empty columns are dropped, and so are the cases' names and tests where ids alone tell cases apart.
    """
    table = table.map(lambda cell: _joined(cell) if isinstance(cell, list) else cell)
    lists = [name for name in table.columns if table[name].map(lambda cell: isinstance(cell, (list, dict))).any()]
    same = ["name", "test"] if (table["name"] == table["id"]).all() else []
    return table.drop(columns=[*lists, *same]).dropna(axis="columns", how="all")


def _joined(cell: list[Any]) -> Any:
    return ("; ".join(cell) or None) if all(isinstance(part, str) for part in cell) else cell


def notes(table: pd.DataFrame) -> list[str]:
    """A line for each reason why cases are unsupported or failed, with their names."""
    lost = table[table["status"] != "ok"]
    lines = []
    for (status, reason), rows in lost.groupby(["status", "reason"], sort=False, dropna=False):
        names = [escaped(name) for name in rows["name"][:NAMED]]
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        lines.append(f"- {escaped(status)}: {', '.join(names)}{more}: {escaped(_text(reason))}")
    return lines


def _text_of(column: str, metrics: Metrics, row: Any) -> str:
    return formed(column, row[column], metrics)


def _number(value: Any, form: Callable[[float], str]) -> str:
    return form(value) if is_number(value) else "-"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _speedup(row: Any) -> str:
    """The paired speed-up and its interval; a single launch gives no interval."""
    low, ratio, high = (row.get(f"speedup.{name}") for name in ("low", "ratio", "high"))
    if not is_number(ratio):
        return "-"
    return f"{ratio:.2f} ({low:.2f}-{high:.2f})" if is_number(low) and is_number(high) else f"{ratio:.2f} (no interval)"


def _footnotes(measured: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """The baseline and certainty of the speed-ups, what the shares are of, and the notes on single cases."""
    lines = []
    rows = measured.to_dict("records")
    if measured["speedup.ratio"].map(is_number).any():
        named = [base for base in map(baseline_of, rows) if all(isinstance(name, str) for name in base[:2])]
        elsewhere = (measured["device"] != CPU).any()
        where = {(*base[:2], *([base[4]] if elsewhere and isinstance(base[4], str) else [])) for base in named}
        bases = sorted(map(" ".join, where)) or ["a baseline that is not on record"]
        count = sorted({int(row["speedup.launches"]) for row in rows if is_number(row["speedup.launches"])})
        launches = f"{count[0]} to {count[-1]}" if len(count) > 1 else str(count[0]) if count else "no"
        sure = f"with its 95% interval over {launches} launches of fresh processes"
        if count == [1]:
            sure = "in one launch of fresh processes, which gives no interval"
        lines.append(f"Speed-up over {escaped(', '.join(bases))}, sampled in turn, {sure}.")
    lines.append("\\* through the common baseline, or a ratio of medians without one; its interval is wider.")
    shares = {
        LOWERED: "of the multiply-accumulates, counted in the artefact, in the precision's number format; of the "
        "weights, where an engine only stores them in it",
        TIME: "of the time of a call, by the runtime's profiler",
    }
    lines += [f"{name}: the share {what}." for name, what in shares.items() if name in columns]
    lines += [f"{COLD}: with nothing compiled before; first call ms: with what the engine keeps."] * (COLD in columns)
    if GAINS in columns:
        lines.append(
            f"{GAINS}: over FP32 on the same engine here. Speed: the intervals of both speed-ups part; size: below "
            f"{SMALLER:.0%}; quality only: neither."
        )
    if GZIP in columns:
        lines.append(
            f"{GZIP}: the files as gzip compresses them, of precisions with steps. {HUFFMAN}: the network's weights in "
            "Huffman's code, before an engine lowered them. Their SQNR and likeness to FP32 are "
            "to the network after its steps in FP32; quality and speed-up are against the original network."
        )
    lines += [f"{PACKED}: the same with weights at the bits that their scales give them."] * (PACKED in columns)
    if ON_DEVICE in columns:
        lines.append(
            f"{ON_DEVICE}: a call with its inputs and outputs on the device, by the device's clock; p50 and p90 are "
            f"from host to host. {DEVICE_MB}: what the process holds there. {DEVICE_J}: of a call, idle power included."
        )
    return [*lines, *(f"- {escaped(name)}: {escaped('; '.join(remarks))}" for name, remarks in notes_of(rows))]
