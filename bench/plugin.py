"""The thin face to pytest: options, parametrization, the `measure` fixture and the report at the end of the run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.case import Case, Grid
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.measure import Bench
    from bench.record import Record

RECORDS = pytest.StashKey["list[Record]"]()
NAMED_AXES = ("model", "precision", "engine", "device")
COUNTED_AXES = ("batch", "threads")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"wants names with commas between, not {text!r}")
    return names


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"wants whole numbers >= 1 with commas between, not {text!r}")
    return counts


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the harness."""
    group = parser.getgroup("bench", "benchmarks of compressed networks")
    for axis in NAMED_AXES:
        group.addoption(
            f"--bench-{axis}", type=_names, metavar="NAME,...", help=f"take these for the {axis} axis of each grid"
        )
    for axis in COUNTED_AXES:
        group.addoption(
            f"--bench-{axis}", type=_counts, metavar="N,...", help=f"take these for the {axis} axis of each grid"
        )
    group.addoption(
        "--bench-cache", metavar="DIR", help="where built artefacts are kept (BENCH_CACHE; default: the user's cache)"
    )
    group.addoption(
        "--bench-data", metavar="DIR", help="a folder with real data and weights (BENCH_DATA; default: embedded data)"
    )
    group.addoption(
        "--bench-timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="give a case up that hangs for so long (default 120)",
    )
    group.addoption(
        "--bench-reports",
        default="reports",
        metavar="DIR",
        help="folder of the table definitions; reports go to its out/ (default: reports)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and make room for the session's records.

    pytest looks for its ini file before it knows the options of plugins: a folder that follows one after a space is
    then taken for the place of the tests, and the ini file is not found. Such a run is refused.
    """
    for option in ("--bench-cache", "--bench-data", "--bench-reports"):
        if option in config.invocation_params.args and config.inipath is None:
            place = config.invocation_params.dir
            if config.rootpath != place:
                raise pytest.UsageError(
                    f"pytest took the folder after {option} for the place of the tests, and looks for the project in "
                    f"{config.rootpath} instead of {place}; write {option}=DIR"
                )
    config.addinivalue_line("markers", "grid(grid): measure the cases of this Grid with this test, one test for each")
    config.addinivalue_line(
        "markers", "case(model, precision, engine, batch, threads, device): the axes of a case, set by the harness"
    )
    config.stash[RECORDS] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case of the function's grid, as the options narrow or widen it."""
    marker = metafunc.definition.get_closest_marker("grid")
    if marker is None:
        return
    grid: Grid = marker.args[0]
    choices = {axis: metafunc.config.getoption(f"bench_{axis}") for axis in (*NAMED_AXES, *COUNTED_AXES)}
    metafunc.parametrize(
        "case", [pytest.param(case, id=case.id, marks=_marks(case)) for case in grid.chosen(**choices)]
    )


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    group = f"{case.model} b{case.batch} t{case.threads}"
    return [pytest.mark.case(**case.axes()), pytest.mark.benchmark(timer=Replay(), group=group)]


class Replay:
    """A clock that shows, at two readings a round, samples that were taken by another clock in a worker.

    With it as its timer pytest-benchmark makes an ordinary record of them: each round lasts exactly one sample.
    """

    __name__ = "Replay"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def __call__(self) -> float:
        return next(self._readings)

    def show(self, samples_s: tuple[float, ...]) -> None:
        """Show these samples, in seconds, from the next reading on."""
        self._readings = (reading for sample_s in samples_s for reading in (0.0, sample_s))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse the run in one line where a name is unknown or a model's data are not there."""
    cases = _cases(session)
    options = session.config.option
    if not cases and not any(getattr(options, f"bench_{axis}") for axis in NAMED_AXES):
        return
    from bench.engines import engines
    from bench.measure import check
    from bench.model import models
    from bench.recipe import recipes

    try:
        for registry, axis in ((models, "model"), (recipes, "precision"), (engines, "engine")):
            for name in getattr(options, f"bench_{axis}") or ():
                registry.get(name)
        for case in {(case.model, case.precision, case.engine): case for case in cases}.values():
            check(case, _folder(session.config, "data"))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what the chosen cases need before the first of them is measured."""
    cases = _cases(session)
    if not cases or session.config.option.collectonly:
        return
    from bench.measure import prepare

    with Bar(session.config) as bar:
        try:
            prepare(cases, bench_of(session.config), bar.told)
        except BenchError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """Where this session measures: its cache, its data, how long it samples."""
    return bench_of(pytestconfig)


@pytest.fixture
def supported(case: Case, pytestconfig: pytest.Config) -> None:
    """Skip the test, with the reason on record, where the case's engine cannot run it here."""
    from bench.measure import unsupported
    from bench.record import Record

    reason = unsupported(case)
    if reason is not None:
        pytestconfig.stash[RECORDS].append(Record(case, "unsupported", reason))
        pytest.skip(f"unsupported: {reason}")


@pytest.fixture
def measure(supported: None, benchmark: Any, bench: Bench, request: pytest.FixtureRequest) -> Callable[[Case], Record]:
    """Measure a case in a worker process of its own and enter it as this test's benchmark; give its Record.

    The test fails with the reason where the case breaks.
    """
    from bench import measure as room

    def measured(case: Case) -> Record:
        record = room.measure(case, bench)
        request.config.stash[RECORDS].append(record)
        if record.status != "ok":
            benchmark.disabled = True
            benchmark.pedantic(lambda: None)
            pytest.fail(record.reason or record.status, pytrace=False)
        request.node.get_closest_marker("benchmark").kwargs["timer"].show(record.samples_s)
        benchmark.params = case.axes()  # a Case would be saved as UNSERIALIZABLE[...]
        benchmark.extra_info |= record.saved()
        benchmark.pedantic(lambda: None, rounds=len(record.samples_s), iterations=1)
        return record

    return measured


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what ran the benchmarks."""
    from bench.machine import describe

    machine_info["bench"] = describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the cases that have no benchmark: those that are unsupported or failed."""
    lost = [record.saved() for record in config.stash[RECORDS] if record.status != "ok"]
    output_json["bench"] = {"schema": 1, "cases": lost}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the tables of this run and write them to the reports folder."""
    records = config.stash[RECORDS]
    if not records:
        return
    from bench import report

    text, path = report.session(
        [record.saved() for record in records], Path(config.rootpath / config.option.bench_reports)
    )
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {path}")


def bench_of(config: pytest.Config) -> Bench:
    """The Bench that the options and the environment describe."""
    from platformdirs import user_cache_path

    from bench.measure import Bench

    cache = _folder(config, "cache") or user_cache_path("bench-harness", appauthor=False)
    return Bench(cache=cache, data=_folder(config, "data"), timeout_s=config.option.bench_timeout)


def _folder(config: pytest.Config, name: str) -> Path | None:
    given = getattr(config.option, f"bench_{name}") or os.environ.get(f"BENCH_{name.upper()}")
    return Path(given).expanduser().absolute() if given else None


def _cases(session: pytest.Session) -> list[Case]:
    """The cases among the collected tests."""
    params = (item.callspec.params for item in session.items if hasattr(item, "callspec"))
    return [case for case in (param.get("case") for param in params) if isinstance(case, Case)]


@dataclass
class Bar:
    """Progress of building: a bar on a terminal, else a line for each thing that is begun."""

    config: pytest.Config
    bar: Any = None
    begun: set[str] = field(default_factory=set)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def told(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` of what the label names are done."""
        import sys

        from tqdm import tqdm

        if not sys.stderr.isatty():
            if label not in self.begun:
                self.begun.add(label)
                print(f"{label} ({done}/{total})", file=sys.stderr, flush=True)
            return
        if self.bar is None:
            self.bar = tqdm(total=total, leave=False)
        self.bar.total, self.bar.n = total, done
        self.bar.set_description(label)
