"""The thin face to pytest: options, parametrization, the `measure` fixture and the report at the end of the run."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.errors import BadCase, BadLimit, BenchError
from bench.spec import options
from bench.spec.case import COUNTED_AXES, Case, Grid, baseline_of

if TYPE_CHECKING:
    from bench.records.journal import Journal
    from bench.records.record import Record
    from bench.timing.baseline import Shared
    from bench.timing.bench import Bench

BENCHMARKS = "pytest-benchmark"
SHARED = "_bench_shared"  # as a fixture's name: the everyday ones are its users'
COMPARED: pytest.StashKey[Any] = pytest.StashKey()
JOURNAL: pytest.StashKey[Journal | None] = pytest.StashKey()
FINISHED: pytest.StashKey[dict[str, Record]] = pytest.StashKey()
BENCH: pytest.StashKey[Bench] = pytest.StashKey()
RECORDS: pytest.StashKey[dict[str, Record]] = pytest.StashKey()
CLOCK: pytest.StashKey[Replay] = pytest.StashKey()
NAMED_AXES = ("model", "precision", "engine", "device")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the harness."""
    group = parser.getgroup("bench", "benchmarks of compressed networks")
    for axis in NAMED_AXES:
        group.addoption(
            f"--bench-{axis}",
            type=options.names,
            metavar="NAME,...",
            help=f"take these for the {axis} axis of each grid",
        )
    for axis in COUNTED_AXES:
        group.addoption(
            f"--bench-{axis}", type=options.counts, metavar="N,...", help=f"take these for the {axis} axis of each grid"
        )
    group.addoption(
        "--bench-cache", metavar="DIR", help="where built artefacts are kept (BENCH_CACHE; default: the user's cache)"
    )
    group.addoption(
        "--bench-data", metavar="DIR", help="a folder with real data and weights (BENCH_DATA; default: embedded data)"
    )
    group.addoption(
        "--bench-baseline",
        type=options.axes,
        metavar="AXIS=VALUE,...",
        help="the case that each is compared with, by the axes in which it differs (default: the suite's, else "
        "engine=torch,precision=fp32)",
    )
    group.addoption(
        "--bench-gate",
        type=options.limits,
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
        type=options.percent,
        default=0.005,
        metavar="PERCENT",
        help="stop when a speed-up's 95%% interval is this half-width (default 0.5%%)",
    )
    group.addoption(
        "--bench-budget",
        type=options.positive,
        default=20.0,
        metavar="S",
        help="begin no further launch of a case after so long (default 20)",
    )
    group.addoption("--bench-quick", action="store_true", help="one launch a case: figures without an interval")
    group.addoption(
        "--bench-max-drop",
        type=options.percent,
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
        "--bench-memory",
        type=options.positive,
        metavar="GB",
        help="the most private memory of a worker (default: no limit)",
    )
    group.addoption(
        "--bench-timeout",
        type=options.positive,
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
    config.stash[RECORDS] = {}
    config.stash[JOURNAL] = None
    config.stash[FINISHED] = {}
    config.stash[COMPARED] = None if _beside_others(config) else getattr(config.option, "benchmark_compare", None)
    if config.stash[COMPARED]:  # found once it is known by which machine's name to look
        config.option.benchmark_compare = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case of the function's grids, as the options narrow or widen them.

    A grid that a function has from its class or module is for those of their tests that take a `case`. A mark of this
    name without a Grid, on a test that does not measure, is another's.
    """
    marked = list(metafunc.definition.iter_markers_with_node("grid"))
    takes_case, measures = "case" in metafunc.fixturenames, SHARED in metafunc.fixturenames
    if not marked or not (measures or any(isinstance(given, Grid) for _, mark in marked for given in mark.args)):
        return
    node = marked[0][0]
    if not takes_case and node is not metafunc.definition:
        return
    marks = [mark for owner, mark in marked if owner is node]
    try:
        cases = _cases_of(marks, takes_case, metafunc.config)
    except BenchError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    params = [pytest.param(case, id=case.id, marks=_marks(case, differs)) for case, differs in cases.items()]
    models = dict.fromkeys(model for mark in marks for grid in mark.args for model in grid.axes["model"])
    reason = f"no case is left: --bench-model names none of this grid's models ({', '.join(models)})"
    metafunc.parametrize("case", params or [pytest.param(None, id="no-case", marks=pytest.mark.skip(reason=reason))])


def _cases_of(marks: list[pytest.Mark], takes_case: bool, config: pytest.Config) -> dict[Case, dict[str, Any]]:
    """The cases of a test's grid marks, and the axes in which each one's baseline differs from it."""
    if not takes_case:
        raise BadCase("it has a grid, but no argument 'case'; write def test(case, measure)")
    for mark in marks:
        if not mark.args or mark.kwargs or not all(isinstance(grid, Grid) for grid in mark.args):
            given = ", ".join([*map(repr, mark.args), *(f"{name}=..." for name in mark.kwargs)])
            raise BadCase(f"@pytest.mark.grid takes Grids alone, one at least, not ({given})")
    choices = {axis: config.getoption(f"bench_{axis}") for axis in (*NAMED_AXES, *COUNTED_AXES)}
    cases: dict[Case, dict[str, Any]] = {}
    for grid in (grid for mark in marks for grid in mark.args):
        for case in grid.chosen(**choices):
            if baseline_of(case, cases.setdefault(case, grid.baseline)) != baseline_of(case, grid.baseline):
                raise BadCase(f"two of its grids hold {case.id} with different baselines; write two tests")
    return cases


def _marks(case: Case, differs: dict[str, Any]) -> list[pytest.MarkDecorator]:
    return [pytest.mark.case(**case.axes()), pytest.mark.baseline(**differs)]


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put cases with the same baseline beside each other, so that its workers need to be started once, and have
    pytest-benchmark show each by its clock, in the group that its suite names.
    """
    places = [place for place, item in enumerate(items) if _case(item) is not None]
    order: dict[Case, int] = {}
    try:
        for place in places:
            order.setdefault(_baseline(items[place]), len(order))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from None
    for place, item in zip(places, sorted((items[p] for p in places), key=lambda i: order[_baseline(i)]), strict=True):
        items[place] = item
        if config.pluginmanager.has_plugin(BENCHMARKS):
            _show_by_clock(item)


def _show_by_clock(item: pytest.Item) -> None:
    case, own = _case(item), item.get_closest_marker("benchmark")
    assert case is not None
    clock = item.stash[CLOCK] = Replay()
    arguments, words = ((), {}) if own is None else (own.args, own.kwargs)
    group = words.get("group", f"{case.model} b{case.batch} t{case.threads}")
    words = {"group": group, "timer": clock, "cprofile": False}  # a profile would be that of showing the samples
    item.add_marker(pytest.mark.benchmark(*arguments, **words), append=False)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say which words of a suite's own benchmark marks have no effect on what is timed elsewhere."""
    if config.option.verbose < 0:
        return []
    idle: dict[str, str] = {}
    for item in items:
        clock = item.stash.get(CLOCK, None)
        for mark in item.iter_markers("benchmark") if clock is not None else ():
            if mark.kwargs.get("timer") is not clock:
                idle |= {word: item.nodeid.partition("[")[0] for word in mark.kwargs if word != "group"}
    where = ", ".join(dict.fromkeys(idle.values()))
    return [
        f"bench: of @pytest.mark.benchmark only group has an effect on a case, not {', '.join(idle)} ({where})"
    ] * bool(idle)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse the run in one line where a name is unknown, a model's data are not there or a mark asks for what cannot
    be; find what it is compared with.
    """
    cases, config = _cases(session), session.config
    if (cases or any(getattr(config.option, f"bench_{axis}") for axis in NAMED_AXES)) and _off(config) is None:
        try:
            _check(session, cases)
        except BenchError as error:
            raise pytest.UsageError(str(error)) from None
    benchmarks = _benchmarks(config)
    if benchmarks is None:
        return
    if cases:
        _store_by_machine(benchmarks)
    if config.stash[COMPARED]:
        config.option.benchmark_compare = benchmarks.compare = config.stash[COMPARED]
        benchmarks.handle_loading()


def _check(session: pytest.Session, cases: list[Case]) -> None:
    from bench.engines import engines
    from bench.measure import check
    from bench.spec.model import models
    from bench.spec.recipe import recipes

    for registry, axis in ((models, "model"), (recipes, "precision"), (engines, "engine")):
        for name in getattr(session.config.option, f"bench_{axis}") or ():
            registry.get(name)
    for case in {(case.model, case.precision, case.engine): case for case in [*cases, *_baselines(session)]}.values():
        check(case, _folder(session.config, "data"))
    for item in session.items:
        if _case(item) is not None:
            _gate(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what the chosen cases need before the first of them is measured."""
    cases, config = _cases(session), session.config
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    if not cases or broken or config.option.collectonly or config.option.setuponly or _off(config) is not None:
        return
    if _beside_others(config):
        session.shouldfail = (
            f"bench measures one case at a time: run its {len(cases)} cases without pytest-xdist (-n0), or leave them "
            "out (--benchmark-skip)"
        )
        raise session.Failed(session.shouldfail)
    if _benchmarks(config) is None:
        raise pytest.UsageError(
            "bench measures through pytest-benchmark, which is switched off here: take '-p no:benchmark' away, or "
            'leave the cases out by -m "not grid"'
        )
    from bench.measure import identity
    from bench.progress import Bar
    from bench.records.journal import Journal
    from bench.timing.baseline import examined
    from bench.timing.prepare import prepare

    bench, baselines = bench_of(config), _baselines(session)
    with Bar() as bar:
        try:
            _refuse_unwritable(config)
            other = examined(bench.baseline_python, baselines, bench) if bench.baseline_python else None
            prepare([*cases, *(baselines if other is None else ())], bench, bar.told)
        except BenchError as error:
            raise pytest.UsageError(str(error)) from None
    journal = Journal(bench.cache / "journal", identity(bench, other))
    config.stash[JOURNAL] = journal
    if config.option.bench_resume:
        config.stash[FINISHED] = journal.finished()


def _refuse_unwritable(config: pytest.Config) -> None:
    """Raise UsageError where the report could not be written at the end."""
    place = config.rootpath / config.option.bench_reports / "out"
    try:
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise pytest.UsageError(f"cannot write reports to {place}; choose another folder by --bench-reports")


def _benchmarks(config: pytest.Config) -> Any:
    """pytest-benchmark's session, which has no public name of its own; None where that plugin is switched off."""
    return config.pluginmanager.get_plugin(BENCHMARKS)


def _off(config: pytest.Config) -> str | None:
    """Why nothing is to be measured: pytest-benchmark is told to skip, or not to time."""
    benchmarks, option = _benchmarks(config), config.option
    if benchmarks is not None and benchmarks.skip:
        return "benchmarks are skipped (--benchmark-skip)"
    if benchmarks is not None and option.benchmark_disable and not option.benchmark_enable:
        return "benchmarks are disabled (--benchmark-disable)"
    return None


def _beside_others(config: pytest.Config) -> bool:
    """Whether pytest-xdist runs tests in several processes at once, of which this is one, or which this controls."""
    return hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no"


def _store_by_machine(benchmarks: Any) -> None:
    """Have pytest-benchmark save runs, and look for them, by this machine instead of by its Python's version."""
    from bench.machine.facts import describe

    benchmarks.machine_id = benchmarks.storage.default_machine_id = describe()["fingerprint"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the journal of a run that came to its end; an interrupted one is left to be resumed."""
    journal = session.config.stash[JOURNAL]
    whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if journal is not None and whole and not (session.shouldfail or session.shouldstop):
        journal.end()


@pytest.fixture(scope="session", name=SHARED)
def _shared(pytestconfig: pytest.Config) -> Iterator[Shared]:
    """What the cases share: the sessions of their baselines, the control probes; ended with the session."""
    from bench.timing.baseline import Shared

    with Shared(bench_of(pytestconfig)) as common:
        yield common


@pytest.fixture
def measure(
    case: Case, benchmark: Any, _bench_shared: Shared, request: pytest.FixtureRequest
) -> Callable[[Case], Record]:
    """Measure a case in turn with its baseline and enter it as this test's benchmark; give its Record.

    The test is skipped with the reason on record where the case's engine cannot run it here, and where pytest-benchmark
    is told not to time; it fails with the reason where the case breaks.
    """
    from bench import measure as room
    from bench.records.gate import shortfalls
    from bench.records.record import Record
    from bench.timing.bench import unsupported

    node, stash = request.node, request.config.stash
    bench = bench_of(request.config)

    def entered(record: Record) -> Record:
        stash[RECORDS][node.nodeid] = named = replace(record, test=node.nodeid)
        if record.status != "ok":
            _enter_without_figures(benchmark)
        return named

    off = _off(request.config)
    if off is not None:
        _enter_without_figures(benchmark)
        pytest.skip(off)
    clock, marker = node.stash.get(CLOCK, None), node.get_closest_marker("benchmark")
    if clock is None or marker is None or marker.kwargs.get("timer") is not clock:
        pytest.fail("measure is for a test with a grid, and no benchmark mark may be put before bench's", pytrace=False)
    if isinstance(case, Case) and (reason := unsupported(case, bench.data)) is not None:
        entered(Record(case, "unsupported", reason))
        pytest.skip(f"unsupported: {reason}")

    def measured(case: Case) -> Record:
        if benchmark.stats is not None:
            pytest.fail("a test measures one case once; parametrize it, or write another", pytrace=False)
        baseline = baseline_of(case, _differs(node))
        record = stash[FINISHED].get(node.nodeid)
        if record is None or not room.still_holds(record, case, baseline, bench):
            record = room.measure(case, bench, baseline, _bench_shared)
        record = entered(record)
        journal = stash[JOURNAL]
        if journal is not None:
            journal.write(node.nodeid, record)
        if record.status == "unsupported":
            pytest.skip(f"unsupported: {record.reason}")
        if record.status != "ok":
            pytest.fail(record.reason or record.status, pytrace=False)
        clock.show(record.samples_s)
        own = {name: value for name, value in node.callspec.params.items() if name != "case"}
        benchmark.params = own | case.axes()  # a Case would be saved as UNSERIALIZABLE[...]
        benchmark.extra_info |= record.saved()
        benchmark.pedantic(lambda: None, rounds=len(record.samples_s), iterations=1)
        wanted = _gate(node)
        if wanted and (missed := shortfalls(record, **wanted)):
            pytest.fail("gate: " + "; ".join(missed), pytrace=False)
        return record

    return measured


class _NoFigures(Exception):
    """What a benchmark ends with that has no samples to show."""


def _enter_without_figures(benchmark: Any) -> None:
    """Enter a benchmark that broke, as pytest-benchmark knows them: it has no row, but a run of such is saved too."""

    def broken() -> None:
        raise _NoFigures

    with contextlib.suppress(_NoFigures, StopIteration):  # the clock, which has nothing to show, breaks it already
        benchmark.pedantic(broken)


def _gate(item: pytest.Item) -> dict[str, Any] | None:
    """What a test must reach: its marker's words, each replaced by the option's where that has it.

    Raises BadLimit for a marker that does not say what it wants.
    """
    marker, option = item.get_closest_marker("gate"), item.config.option.bench_gate
    if marker is None and option is None:
        return None
    wanted: dict[str, Any] = {"speedup": None, "max_drop": {}} | ({} if marker is None else dict(marker.kwargs))
    speedup, drops = wanted["speedup"], wanted["max_drop"]
    known = wanted.keys() == {"speedup", "max_drop"} and isinstance(drops, Mapping) and not (marker and marker.args)
    limits = [1.0 if speedup is None else speedup, *drops.values()] if known else []
    if marker is not None and (not all(map(_is_limit, limits)) or not limits or limits[0] <= 0):
        given = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())])
        raise BadLimit(f"{item.nodeid}: a gate reads gate(speedup=1.5, max_drop={{'top1': 0.01}}), not gate({given})")
    asked = dict(option or {})
    return {"speedup": asked.pop("speedup", speedup), "max_drop": {**drops, **asked}}


def _is_limit(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep on record that a measured case failed its test, so that it is no baseline for any later run."""
    report = yield
    records = item.config.stash[RECORDS]
    record = records.get(item.nodeid)
    if record is not None and record.status == "ok" and report.failed and call.excinfo is not None:
        reason = (str(call.excinfo.value).strip() or call.excinfo.typename).splitlines()[0]
        records[item.nodeid] = replace(record, status="failed", reason=reason)
        getattr(item, "funcargs")["benchmark"].extra_info |= {"status": "failed", "reason": reason}  # noqa: B009
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what ran the benchmarks."""
    from bench.machine.facts import describe

    machine_info["bench"] = describe()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the cases that have no benchmark: those that are unsupported or failed."""
    records = config.stash[RECORDS].values()
    lost = [record.saved() for record in records if record.status != "ok" and not record.samples_s]
    output_json["bench"] = {"schema": 1, "cases": lost}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the tables of this run and write them to the reports folder."""
    records = config.stash[RECORDS].values()
    if not records:
        return

    from bench.report import summary

    terminalreporter.section("benchmarks")
    try:
        text, path = summary.session(
            [record.saved() for record in records], Path(config.rootpath / config.option.bench_reports)
        )
    except BenchError as error:  # in a table definition: what was measured is saved all the same
        terminalreporter.write_line(f"bench: no report: {error}", red=True)
        return
    terminalreporter.write_line(text)
    if config.option.bench_resume and not any(record.resumed for record in records):
        terminalreporter.write_line(
            "nothing was resumed: no interrupted run of this code, machine and options has finished these cases"
        )
    terminalreporter.write_line(f"written to {path}")


def bench_of(config: pytest.Config) -> Bench:
    """The Bench that the options and the environment describe, one for the whole session: it remembers what failed."""
    if BENCH in config.stash:
        return config.stash[BENCH]
    from platformdirs import user_cache_path

    from bench.timing.bench import Bench
    from bench.timing.sampling import QUICK, Plan

    option = config.option
    config.stash[BENCH] = Bench(
        cache=_folder(config, "cache") or user_cache_path("bench-harness", appauthor=False),
        data=_folder(config, "data"),
        plan=QUICK if option.bench_quick else Plan.within(option.bench_budget, option.bench_interval),
        timeout_s=option.bench_timeout,
        baseline_python=_interpreter(option.bench_baseline_python),
        memory_bytes=None if option.bench_memory is None else int(option.bench_memory * 1e9),
        most_drop=option.bench_max_drop,
        explain=option.bench_explain,
        pictures=config.rootpath / option.bench_reports / "out" / "pictures",
    )
    return config.stash[BENCH]


def _folder(config: pytest.Config, name: str) -> Path | None:
    given = getattr(config.option, f"bench_{name}") or os.environ.get(f"BENCH_{name.upper()}")
    return Path(given).expanduser().absolute() if given else None


def _interpreter(given: str | None) -> str | None:
    """The interpreter that an option names, by its path or as a command; its links are kept, they make it a venv's."""
    if not given:
        return None
    return shutil.which(given) or str(Path(given).expanduser().absolute())


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
