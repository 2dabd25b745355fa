"""Saved runs, read back and laid out as a table."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.case import AXES, COUNTED_AXES
from bench.errors import RunFileError
from bench.machine import fingerprint
from bench.record import Record, is_number

if TYPE_CHECKING:
    import pandas as pd

MOST = 1_000_000
SECTIONS = tuple(one.name for one in dataclasses.fields(Record) if one.default_factory is dict)
FIGURES = (
    *("throughput_items_per_s", "load_s", "first_call_s", "first_call_cold_s", "peak_rss_bytes", "energy_j_per_call"),
)
COLUMNS = (
    *("run", "machine", "when", "id", *AXES, "status", "reason", *FIGURES),
    *("latency.p50_s", "latency.p90_s", "artifact.bytes", "artifact.digest"),
    *("quality.weights", "quality.dataset", "quality.n", "fidelity.sqnr_db"),
    *("speedup.ratio", "speedup.low", "speedup.high", "speedup.launches"),
)


@dataclass(frozen=True)
class Run:
    """One saved run: its records as saved, what ran it (machine_info["bench"]), when, at which commit, its name."""

    records: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=dict)
    when: str | None = None
    commit: str | None = None
    name: str = "this run"

    @property
    def fingerprint(self) -> str:
        """What tells its machine from others, as it was saved, or of what was saved."""
        told = self.machine.get("fingerprint")
        return told if isinstance(told, str) else fingerprint(self.machine)


def saved_files(names: Iterable[str]) -> list[Path]:
    """The files that names stand for: files, all .json files below folders, or patterns such as `runs/*.json`.

    Raises RunFileError for a name that stands for none.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(path.rglob("*.json"))
        else:
            found = [path] if path.exists() else sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not found:
            raise RunFileError(
                f"no saved run at {name}; name a .json file that pytest-benchmark saved, or a folder of them"
            )
        files += found
    return files


def read_all(names: Iterable[str]) -> list[Run]:
    """The runs that names stand for, each called as its file, as its path where two files are called the same, and with
    a number where it is the same file.
    """
    files = saved_files(names)
    stems = [file.stem for file in files]
    called = stems if len(set(stems)) == len(stems) else [str(file) for file in files]
    numbers = [called[:place].count(name) + 1 for place, name in enumerate(called)]
    called = [name if number == 1 else f"{name} ({number})" for name, number in zip(called, numbers, strict=True)]
    return [dataclasses.replace(read(file), name=name) for file, name in zip(files, called, strict=True)]


def read(path: Path) -> Run:
    """Read a file that pytest-benchmark saved. Raises RunFileError where it is none, or holds no benchmark.

    Benchmarks of other suites than this harness's are cases too: of the model of their name, without precision or
    engine.
    """
    try:
        saved = _parsed(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise RunFileError(f"cannot read {path}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path} is not a saved run: it is no whole JSON file ({error})") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("benchmarks"), list):
        raise RunFileError(
            f"{path} is not a saved run: it has no list of 'benchmarks'; name a file that pytest-benchmark saved"
        )
    others = _dict(saved.get("bench")).get("cases")
    entries = [(_dict(entry).get("extra_info"), _dict(entry)) for entry in saved["benchmarks"]]
    entries += [(entry, {}) for entry in (others if isinstance(others, list) else [])]
    records = [record for told, entry in entries if (record := _record(told, entry)) is not None]
    if not records:
        raise RunFileError(f"{path} holds no benchmark among its {len(saved['benchmarks'])} entries")
    when, commit = saved.get("datetime"), _dict(saved.get("commit_info")).get("id")
    return Run(
        records,
        _dict(_dict(saved.get("machine_info")).get("bench")) or _plain_machine(_dict(saved.get("machine_info"))),
        when if isinstance(when, str) else None,
        commit if isinstance(commit, str) else None,
        path.stem,
    )


def _parsed(content: bytes) -> Any:
    """What a JSON file holds; NaN and infinities, which are no JSON but which pytest-benchmark writes, as None."""
    import orjson  # five times as fast on raw samples

    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(content)
    return json.loads(content.decode("utf-8"), parse_constant=lambda name: None)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _record(told: Any, entry: dict[str, Any]) -> dict[str, Any] | None:
    """A record whose parts are of the kinds that Record states, whatever the file says; None where it is no case."""
    if not _has_case(told):
        return _plain(entry)
    record = {name: value for name, value in told.items() if isinstance(name, str)}
    record |= {name: _dict(record.get(name)) for name in SECTIONS if name in record}
    record |= {name: record[name] if is_number(record[name]) else None for name in FIGURES if name in record}
    record["case"] = {axis: told["case"][axis] for axis in AXES}
    record["id"] = record["id"] if isinstance(record.get("id"), str) else "-".join(map(str, record["case"].values()))
    record["status"] = record["status"] if record.get("status") in ("ok", "unsupported", "failed") else "failed"
    record["reason"] = record["reason"] if isinstance(record.get("reason"), str) else None
    for name in ("warnings", "pictures"):
        lines = record.get(name)
        record[name] = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    return record


def _has_case(told: Any) -> bool:
    case = _dict(_dict(told).get("case"))
    counts = all(isinstance(case.get(axis), int) and 0 < case[axis] <= MOST for axis in COUNTED_AXES)
    return counts and all(isinstance(case.get(axis), str) for axis in AXES if axis not in COUNTED_AXES)


def _plain(entry: dict[str, Any]) -> dict[str, Any] | None:
    """A benchmark of any other suite as a record: its median is its latency."""
    name, stats = entry.get("fullname"), _dict(entry.get("stats"))
    if not isinstance(name, str) or not is_number(stats.get("median")):
        return None
    case = dict.fromkeys(AXES, "-") | dict.fromkeys(COUNTED_AXES, 1) | {"model": name, "device": "cpu"}
    return {
        "id": name,
        "case": case,
        "status": "ok",
        "latency": {"p50_s": stats["median"]},
        "warnings": [],
        "pictures": [],
    }


def _plain_machine(info: dict[str, Any]) -> dict[str, Any]:
    """What pytest-benchmark itself tells of a machine, by the names that this harness has for it."""
    cpu = _dict(info.get("cpu"))
    told = {"cpu": cpu.get("brand_raw"), "cores_logical": cpu.get("count"), "system": info.get("system")}
    told |= {"python": info.get("python_version")}
    return {name: value for name, value in told.items() if isinstance(value, (str, int))}


def frame(runs: Run | Sequence[Run]) -> pd.DataFrame:
    """One row a record: its run and machine, its axes by their names, all else by dotted names such as `latency.p50_s`,
    `quality.top1`. The columns of COLUMNS are always there.
    """
    import pandas as pd

    rows = []
    for run in [runs] if isinstance(runs, Run) else runs:
        shared = {"run": run.name, "machine": run.fingerprint, "when": run.when}
        for record in run.records:
            row = dict(shared)
            _flatten({name: value for name, value in record.items() if name != "case"}, "", row)
            rows.append(row | record["case"])
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*dict.fromkeys([*COLUMNS, *table.columns])])


def _flatten(values: dict[str, Any], prefix: str, row: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", row)
        else:
            row[f"{prefix}{name}"] = value
