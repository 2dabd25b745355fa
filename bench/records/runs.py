"""Saved runs, read back and laid out as a table."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from bench.errors import RunFileError
from bench.machine.facts import Machine, fingerprint
from bench.records.figures import UNTOLD
from bench.records.json_values import Unfit, tolerant
from bench.records.record import PLAIN, Record
from bench.records.schema import MOVED, SCHEMA, upgraded
from bench.spec.case import AXES, Case
from bench.spec.metric import metric_named
from bench.spec.outcome import Calls, names_of
from bench.statistics import Latency, is_number, level_of

if TYPE_CHECKING:
    import pandas as pd

Told = dict[str, Any]  # an object of a JSON file, whoever wrote it
METRICS = "metrics"  # attribute of a frame: metric -> Metric
STATES = ("ok", "unsupported", "failed")
LEAST_S, MOST_S = 1e-12, 1e9  # seconds: what is beyond them in a file is no time of a call
IQR, MEDIAN = 1.349, 1.2533  # normal distribution: interquartile range / deviation, error of median / of mean
FIGURES = (
    *("throughput_items_per_s", "load_s", "first_call_s", "first_call_cold_s", "peak_rss_bytes", "energy_j_per_call"),
)
COLUMNS = (  # that every frame has, in this order
    *("run", "machine", "when", "name", "id", "test", *AXES, "status", "reason", *FIGURES),
    *("latency.p50_s", "latency.p90_s", "artifact.bytes", "artifact.digest"),
    *("judged.weights", "judged.dataset", "judged.n", "fidelity.sqnr_db"),
    *("speedup.ratio", "speedup.low", "speedup.high", "speedup.launches"),
)


@dataclass(frozen=True)
class Run:
    """A saved run: its records, its machine (machine_info["bench"]), when and at which commit it ran, its name."""

    records: list[Record]
    machine: Machine = field(default_factory=Machine)
    when: str | None = None
    commit: str | None = None
    name: str = "this run"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its machine: as saved, else computed from what was saved."""
        return self.machine.fingerprint or fingerprint(self.machine)


def saved_files(names: Iterable[str]) -> list[Path]:
    """The files that names stand for: files, all .json files below folders, or patterns such as `runs/*.json`.

    Raises RunFileError for a name that stands for none.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(path.rglob("*.json"))
        else:
            matches = [path] if path.exists() else sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise RunFileError(
                f"no saved run at {name}; name a .json file that pytest-benchmark saved, or a folder of them"
            )
        files += matches
    return files


def read_all(names: Iterable[str]) -> list[Run]:
    """The runs that names stand for, each named by its file.

    They are named by paths where two files have the same name; a file given again gets a number.
    """
    files = saved_files(names)
    stems = [file.stem for file in files]
    labels = stems if len(set(stems)) == len(stems) else [str(file) for file in files]
    numbers = [labels[:place].count(name) + 1 for place, name in enumerate(labels)]
    labels = [name if number == 1 else f"{name} ({number})" for name, number in zip(labels, numbers, strict=True)]
    return [dataclasses.replace(read(file), name=name) for file, name in zip(files, labels, strict=True)]


def saved(path: Path) -> Told:
    """The content of a file that pytest-benchmark saved, with what this harness added as `bench`.

    `benchmarks` and `cases` in `bench` are lists of dicts, whatever the file has there. Raises RunFileError where it is
    no such file.
    """
    try:
        content = _parsed(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise RunFileError(f"cannot read {path}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path} is not a saved run: it is no whole JSON file ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        raise RunFileError(
            f"{path} is not a saved run: it has no list of 'benchmarks'; name a file that pytest-benchmark saved"
        )
    added: Told = {"schema": 1} | _dict(content.get("bench"))
    if is_number(added["schema"]) and added["schema"] > SCHEMA:
        raise RunFileError(
            f"{path} was saved by a newer version (schema {added['schema']:.0f}, this one reads up to {SCHEMA}); update"
        )
    added["cases"] = _dicts(added.get("cases"))
    return content | {"benchmarks": _dicts(content["benchmarks"]), "bench": added}


def read(path: Path) -> Run:
    """Read a file that pytest-benchmark saved. Raises RunFileError where it is no such file, or holds no benchmark.

    Benchmarks of other suites are cases too: their name is the model, and they have no precision or engine.
    """
    content = saved(path)
    entries = [(entry.get("extra_info"), entry) for entry in content["benchmarks"]]
    entries += [(entry, {}) for entry in content["bench"]["cases"]]
    records = [record for facts, entry in entries if (record := record_of(facts, entry)) is not None]
    if not records:
        raise RunFileError(f"{path} holds no benchmark among its {len(content['benchmarks'])} entries")
    when, commit = content.get("datetime"), _dict(content.get("commit_info")).get("id")
    return Run(
        records,
        _machine(_dict(content.get("machine_info"))),
        when if isinstance(when, str) else None,
        commit if isinstance(commit, str) else None,
        path.stem,
    )


def _parsed(content: bytes) -> Any:
    """The value of a JSON file. NaN and infinities are no JSON, but pytest-benchmark writes them: they become None."""
    import orjson  # five times as fast on raw samples

    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(content)
    return json.loads(content.decode("utf-8"), parse_constant=lambda name: None)


def _dict(value: Any) -> Told:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Told]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def record_of(told: Any, entry: Told | None = None) -> Record | None:
    """The Record of a saved record, without what does not fit; None where it is of no case.

    told   what this harness saved of it; entry  what pytest-benchmark saved.
    """
    entry = {} if entry is None else entry
    stats = _dict(entry.get("stats"))
    facts = _dict(told)
    if "case" in facts and facts.get("status") not in STATES:
        facts = facts | {"status": "failed"}
    try:
        record = tolerant(Record, upgraded(facts))
    except Unfit:
        return _plain(entry.get("fullname"), stats)
    metrics = {name: metric_named(name, UNTOLD) for name in names_of(record.quality | record.fidelity)} | record.metrics
    test = entry.get("fullname") if record.test is None else record.test  # in old runs only pytest-benchmark has it
    return dataclasses.replace(
        record, test=test if isinstance(test, str) else None, metrics=metrics, calls=_calls(stats)
    )


def _plain(name: Any, stats: Told) -> Record | None:
    """A benchmark of any other suite as a record: its median is its latency."""
    median_s = stats.get("median")
    if not isinstance(name, str) or not name or not is_number(median_s):
        return None
    case = Case(name, PLAIN, PLAIN)
    return Record(case, "ok", latency=Latency(p50_s=median_s), test=name, calls=_calls(stats))


def _calls(stats: Told) -> Calls | None:
    """The median call in pytest-benchmark's statistics and its error; None without a median.

    The error is by raw data where they are saved, else by the spread of the rounds.
    """
    median_s, data, count = stats.get("median"), stats.get("data"), stats.get("rounds")
    if not is_time(median_s):
        return None
    if isinstance(data, list) and len(data) > 1 and all(map(is_time, data)):
        return Calls(median_s, level_of(data).error, len(data))
    if not is_number(count) or count < 2:
        return Calls(median_s)
    spreads = [stats.get("stddev"), iqr / IQR if is_number(iqr := stats.get("iqr")) else None]
    deviations = [float(spread) for spread in spreads if is_number(spread) and spread >= 0]
    error = MEDIAN * max(deviations) / math.sqrt(count) / median_s if deviations else None
    return Calls(median_s, error, int(count))


def is_time(value: Any) -> TypeGuard[float]:
    """Whether a value is a time in seconds that a call can take."""
    return is_number(value) and LEAST_S < value < MOST_S


def names(runs: Sequence[Run]) -> list[list[str]]:
    """Names for the records of each run, unique within the run.

    A name is the record's id, with its test where any of the runs has that id more than once, and with a number where
    that is not unique either.
    """
    counts = [collections.Counter(record.id for record in run.records) for run in runs]
    ambiguous = {name for count in counts for name, times in count.items() if times > 1}
    by_run = []
    for run in runs:
        labels: list[str] = []
        for record in run.records:
            name, test = record.id, record.test
            if name in ambiguous and test is not None:
                name = f"{name} ({test.removesuffix(f'[{name}]')})"
            labels.append(name)
        seen: collections.Counter[str] = collections.Counter()
        for place, name in enumerate(labels):
            seen[name] += 1
            labels[place] = name if seen[name] == 1 else f"{name} ({seen[name]})"
        by_run.append(labels)
    return by_run


def _machine(info: Told) -> Machine:
    """The machine of a run; for plain pytest-benchmark, what that says, under this harness's names."""
    cpu = _dict(info.get("cpu"))
    plain = {"cpu": cpu.get("brand_raw"), "cores_logical": cpu.get("count"), "system": info.get("system")}
    plain |= {"python": info.get("python_version")}
    return tolerant(Machine, _dict(info.get("bench")) or plain)


def frame(runs: Run | Sequence[Run]) -> pd.DataFrame:
    """A frame with a row for each record.

    Its columns: run and machine, axes by their names, all else by dotted names such as `latency.p50_s`, `quality.top1`;
    `name`, unique within the run; `lowered.share`, the share of the multiply-accumulates in `lowered.format`, the
    number format below FP32 that the recipe asks for. COLUMNS are always there. The attribute METRICS has each metric's
    Metric: its unit, and which way is better.
    """
    import pandas as pd

    rows = []
    runs = [runs] if isinstance(runs, Run) else runs
    for run, labels in zip(runs, names(runs), strict=True):
        shared: dict[str, object] = {"run": run.name, "machine": run.fingerprint, "when": run.when}
        for record, name in zip(run.records, labels, strict=True):
            row = dict(shared)
            facts = record.facts()
            del facts["case"], facts["metrics"]
            _flatten(facts, "", row)
            lowered = share_lowered(record)
            row |= {} if lowered is None else {"lowered.format": lowered[0], "lowered.share": lowered[1]}
            rows.append(row | {"name": name} | record.case.axes())
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*dict.fromkeys([*COLUMNS, *table.columns])])
    of_records = [record.metrics for run in runs for record in run.records]
    table.attrs[METRICS] = {name: metric for metrics in of_records for name, metric in metrics.items()}
    return table


def is_column(name: str) -> bool:
    """Whether a frame of any run may have a column of this name."""
    if name in COLUMNS or name in ("lowered.format", "lowered.share"):
        return True
    if name.removeprefix("quality.") in MOVED:
        return False  # schema 1 had it there
    kind: Any = Record
    for part in name.split("."):
        kinds = [kind, *typing.get_args(kind)]
        sections = [member for member in kinds if dataclasses.is_dataclass(member)]
        if any(member is dict or typing.get_origin(member) is dict for member in kinds):
            return True  # of metrics, versions or number formats: any name may be there
        if not sections or part not in (hints := typing.get_type_hints(sections[0])):
            return False
        kind = hints[part]
    return True


def share_lowered(record: Record) -> tuple[str, float] | None:
    """The number format below FP32 that a record's recipe asks for, and the share 0..1 of the multiply-accumulates that
    its artefact computes in it, or of the weights that it stores in it; None where no such format is asked for, or that
    was not counted.
    """
    from bench.spec.recipe import recipes

    if record.lowered is None or not record.lowered.macs:
        return None
    shares, precision = record.lowered.shares, record.case.precision
    if precision in recipes.names():
        wanted = recipes.get(precision).number_format
    else:  # a recipe that this machine does not know
        wanted = max((name for name in shares if precision.startswith(name)), key=len, default="")
    share = shares.get(wanted)
    return (wanted, share) if wanted != "fp32" and share is not None and 0 <= share <= 1 else None


def _flatten(values: Mapping[str, object], prefix: str, row: dict[str, object]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", row)
        else:
            row[f"{prefix}{name}"] = value
