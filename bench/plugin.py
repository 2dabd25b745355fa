"""The thin face to pytest: options, parametrization, the `measure` fixture and the report at the end of the run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.case import AXES, COUNTED_AXES, Case, Grid, baseline_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.journal import Journal
    from bench.record import Record
    from bench.session import Bench, Shared

JOURNAL: pytest.StashKey[Journal | None] = pytest.StashKey()
FINISHED: pytest.StashKey[dict[str, Record]] = pytest.StashKey()
BENCH: pytest.StashKey[Bench] = pytest.StashKey()
MEASURED: pytest.StashKey[Record] = pytest.StashKey()
RECORDS: pytest.StashKey[list[Record]] = pytest.StashKey()
NAMED_AXES = ("model", "precision", "engine", "device")


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


def _axes(text: str) -> dict[str, Any]:
    try:
        pairs = dict(pair.split("=", 1) for pair in text.split(","))
        axes = {axis: int(value) if axis in COUNTED_AXES else value for axis, value in pairs.items()}
    except ValueError:
        axes = {"": ""}
    if not set(axes) <= set(AXES) or not all(axes.values()):
        raise argparse.ArgumentTypeError(f"wants AXIS=VALUE with commas between, not {text!r}; axes: {', '.join(AXES)}")
    return axes


def _limits(text: str) -> dict[str, float]:
    try:
        return {name: float(limit) for name, limit in (pair.split("=", 1) for pair in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants NAME=LIMIT with commas between, not {text!r}") from None


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"wants a number above 0, not {text!r}")
    return number


def _percent(text: str) -> float:
    return _positive(text.removesuffix("%")) / 100


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
        "--bench-baseline",
        type=_axes,
        metavar="AXIS=VALUE,...",
        help="the case that each is compared with, by the axes in which it differs (default: the suite's, else "
        "engine=torch,precision=fp32)",
    )
    group.addoption(
        "--bench-gate",
        type=_limits,
        metavar="NAME=LIMIT,...",
        help="fail cases that do not surely reach it: speedup=1.5 and the most that a metric may drop, top1=0.01",
    )
    group.addoption(
        "--bench-baseline-python",
        metavar="PATH",
        help="run the baselines in this interpreter, of another environment with other versions",
    )
    group.addoption(
        "--bench-interval",
        type=_percent,
        default=0.005,
        metavar="PERCENT",
        help="stop when a speed-up's 95%% interval is this half-width (default 0.5%%)",
    )
    group.addoption(
        "--bench-budget",
        type=_positive,
        default=20.0,
        metavar="S",
        help="begin no further launch of a case after so long (default 20)",
    )
    group.addoption("--bench-quick", action="store_true", help="one launch a case: figures without an interval")
    group.addoption(
        "--bench-max-drop",
        type=_percent,
        metavar="PERCENT",
        help="the most that int8_auto may let quality fall, on the training side (default 1%%)",
    )
    group.addoption(
        "--bench-explain",
        action="store_true",
        help="tell what each case executed, in which number format, by the runtime's profiler",
    )
    group.addoption(
        "--bench-resume",
        action="store_true",
        help="take finished cases over from interrupted runs of the same code, machine and options",
    )
    group.addoption(
        "--bench-memory", type=_positive, metavar="GB", help="the most private memory of a worker (default: no limit)"
    )
    group.addoption(
        "--bench-timeout",
        type=_positive,
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
    config.addinivalue_line("markers", "grid(*grids): measure the cases of these Grids with this test, each by itself")
    config.addinivalue_line("markers", "baseline(axis=value, ...): the axes in which a case's baseline differs from it")
    config.addinivalue_line(
        "markers", "case(model, precision, engine, batch, threads, device): the axes of a case, set by the harness"
    )
    config.addinivalue_line(
        "markers", "gate(speedup, max_drop): the least speed-up and the most drop of each metric that a case may have"
    )
    config.stash[RECORDS] = []
    config.stash[JOURNAL] = None
    config.stash[FINISHED] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case of the function's grids, as the options narrow or widen them."""
    marker = metafunc.definition.get_closest_marker("grid")
    if marker is None:
        return
    grids: tuple[Grid, ...] = marker.args
    choices = {axis: metafunc.config.getoption(f"bench_{axis}") for axis in (*NAMED_AXES, *COUNTED_AXES)}
    cases = {case: grid.baseline for grid in grids for case in grid.chosen(**choices)}
    metafunc.parametrize(
        "case", [pytest.param(case, id=case.id, marks=_marks(case, differs)) for case, differs in cases.items()]
    )


def _marks(case: Case, differs: dict[str, Any]) -> list[pytest.MarkDecorator]:
    group = f"{case.model} b{case.batch} t{case.threads}"
    return [
        pytest.mark.case(**case.axes()),
        pytest.mark.baseline(**differs),
        pytest.mark.benchmark(timer=Replay(), group=group),
    ]


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put cases with the same baseline beside each other, so that its workers need to be started once."""
    places = [place for place, item in enumerate(items) if _case(item) is not None]
    order: dict[Case, int] = {}
    for place in places:
        order.setdefault(_baseline(items[place]), len(order))
    for place, item in zip(places, sorted((items[p] for p in places), key=lambda i: order[_baseline(i)]), strict=True):
        items[place] = item


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
        for case in {
            (case.model, case.precision, case.engine): case for case in [*cases, *_baselines(session)]
        }.values():
            check(case, _folder(session.config, "data"))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what the chosen cases need before the first of them is measured."""
    cases = _cases(session)
    if not cases or session.config.option.collectonly:
        return
    from bench.journal import Journal
    from bench.measure import identity, prepare
    from bench.progress import Bar

    bench = bench_of(session.config)
    with Bar() as bar:
        try:
            here = [] if bench.baseline_python else _baselines(session)
            prepare([*cases, *here], bench, bar.told)
        except BenchError as error:
            raise pytest.UsageError(str(error)) from None
    _store_by_machine(session.config)
    journal = Journal(bench.cache / "journal", identity(bench))
    session.config.stash[JOURNAL] = journal
    if session.config.option.bench_resume:
        session.config.stash[FINISHED] = journal.finished()


def _store_by_machine(config: pytest.Config) -> None:
    """Have pytest-benchmark save runs, and look for them, by this machine instead of by its Python's version."""
    from bench.machine import describe

    benchmarks = getattr(config, "_benchmarksession")  # noqa: B009 - it has no hook for it
    benchmarks.machine_id = benchmarks.storage.default_machine_id = describe()["fingerprint"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the journal of a run that came to its end; an interrupted one is left to be resumed."""
    journal = session.config.stash[JOURNAL]
    whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if journal is not None and whole and not (session.shouldfail or session.shouldstop):
        journal.end()


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """Where this session measures: its cache, its data, how long it samples."""
    return bench_of(pytestconfig)


@pytest.fixture(scope="session")
def shared(bench: Bench) -> Iterator[Shared]:
    """What the cases share: the sessions of their baselines, the control probes; ended with the session."""
    from bench.session import Shared

    with Shared(bench) as common:
        yield common


@pytest.fixture
def supported(case: Case, pytestconfig: pytest.Config) -> None:
    """Skip the test, with the reason on record, where the case's engine cannot run it here."""
    from bench.record import Record
    from bench.session import unsupported

    reason = unsupported(case, _folder(pytestconfig, "data"))
    if reason is not None:
        pytestconfig.stash[RECORDS].append(Record(case, "unsupported", reason))
        pytest.skip(f"unsupported: {reason}")


@pytest.fixture
def measure(
    supported: None, benchmark: Any, bench: Bench, shared: Shared, request: pytest.FixtureRequest
) -> Callable[[Case], Record]:
    """Measure a case in turn with its baseline and enter it as this test's benchmark; give its Record.

    The test fails with the reason where the case breaks.
    """
    from bench import measure as room
    from bench.gate import shortfalls

    node, stash = request.node, request.config.stash

    def measured(case: Case) -> Record:
        record = stash[FINISHED].get(node.nodeid)
        if record is None or not room.still_holds(record, bench):
            record = room.measure(case, bench, baseline_of(case, _differs(node)), shared)
        stash[RECORDS].append(record)
        journal = stash[JOURNAL]
        if journal is not None:
            journal.write(node.nodeid, record)
        if record.status != "ok":
            benchmark.disabled = True
            benchmark.pedantic(lambda: None)
            if record.status == "unsupported":
                pytest.skip(f"unsupported: {record.reason}")
            pytest.fail(record.reason or record.status, pytrace=False)
        node.get_closest_marker("benchmark").kwargs["timer"].show(record.samples_s)
        benchmark.params = case.axes()  # a Case would be saved as UNSERIALIZABLE[...]
        benchmark.extra_info |= record.saved()
        benchmark.pedantic(lambda: None, rounds=len(record.samples_s), iterations=1)
        node.stash[MEASURED] = record
        wanted = _gate(node)
        if wanted and (missed := shortfalls(record, **wanted)):
            pytest.fail("gate: " + "; ".join(missed), pytrace=False)
        return record

    return measured


def _gate(item: pytest.Item) -> dict[str, Any] | None:
    """What a test must reach: its marker's words, each replaced by the option's where that has it."""
    marker, option = item.get_closest_marker("gate"), item.config.option.bench_gate
    if marker is None and option is None:
        return None
    wanted: dict[str, Any] = {"speedup": None, "max_drop": {}}
    wanted |= {} if marker is None else marker.kwargs
    given = dict(option or {})
    if "speedup" in given:
        wanted["speedup"] = given.pop("speedup")
    return wanted | {"max_drop": wanted["max_drop"] | given}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep on record that a measured case failed its test, so that it is no baseline for any later run."""
    report = yield
    record = item.stash.get(MEASURED, None)
    if record is not None and report.failed and call.excinfo is not None:
        reason = (str(call.excinfo.value).strip() or call.excinfo.typename).splitlines()[0]
        failed = replace(record, status="failed", reason=reason)
        records = item.config.stash[RECORDS]
        records[records.index(record)] = failed
        getattr(item, "funcargs")["benchmark"].extra_info |= {"status": "failed", "reason": reason}  # noqa: B009
    return report


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what ran the benchmarks."""
    from bench.machine import describe

    machine_info["bench"] = describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the cases that have no benchmark: those that are unsupported or failed."""
    lost = [record.saved() for record in config.stash[RECORDS] if record.status != "ok" and not record.samples_s]
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
    """The Bench that the options and the environment describe, one for the whole session: it remembers what failed."""
    if BENCH in config.stash:
        return config.stash[BENCH]
    from platformdirs import user_cache_path

    from bench.sampling import QUICK, Plan
    from bench.session import Bench

    option = config.option
    config.stash[BENCH] = Bench(
        cache=_folder(config, "cache") or user_cache_path("bench-harness", appauthor=False),
        data=_folder(config, "data"),
        plan=QUICK if option.bench_quick else Plan.within(option.bench_budget, option.bench_interval),
        timeout_s=option.bench_timeout,
        baseline_python=option.bench_baseline_python,
        memory_bytes=None if option.bench_memory is None else int(option.bench_memory * 1e9),
        most_drop=option.bench_max_drop,
        explain=option.bench_explain,
        pictures=config.rootpath / option.bench_reports / "out" / "pictures",
    )
    return config.stash[BENCH]


def _folder(config: pytest.Config, name: str) -> Path | None:
    given = getattr(config.option, f"bench_{name}") or os.environ.get(f"BENCH_{name.upper()}")
    return Path(given).expanduser().absolute() if given else None


def _case(item: pytest.Item) -> Case | None:
    case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return case if isinstance(case, Case) else None


def _cases(session: pytest.Session) -> list[Case]:
    """The cases among the collected tests."""
    return [case for case in map(_case, session.items) if case is not None]


def _differs(item: pytest.Item) -> dict[str, Any]:
    """The axes in which an item's baseline differs from its case: the option's, else those of the case's grid."""
    chosen = item.config.option.bench_baseline
    marker = item.get_closest_marker("baseline")
    return chosen if chosen is not None else {} if marker is None else dict(marker.kwargs)


def _baseline(item: pytest.Item) -> Case:
    case = _case(item)
    assert case is not None
    return baseline_of(case, _differs(item))


def _baselines(session: pytest.Session) -> list[Case]:
    """The cases that those among the collected tests are compared with."""
    return list(dict.fromkeys(_baseline(item) for item in session.items if _case(item) is not None))
