"""A session from its collected cases to their records: all are built first, then each is measured by its test."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.errors import BadLimit, BenchError
from bench.plugin.cases import CLOCK, SHARED, baselines_of, case_of, cases_of, differs_of
from bench.plugin.options import (
    COMPARED,
    FINISHED,
    JOURNAL,
    NAMED_AXES,
    RECORDS,
    bench_of,
    benchmarks_of,
    beside_others,
    folder_of,
    why_off,
)
from bench.spec.case import Case, baseline_of

if TYPE_CHECKING:
    from bench.records.record import Record
    from bench.timing.baseline import Shared


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check the cases, then load the saved run to compare with.

    Raises UsageError in one line for an unknown name, a model's missing data or an impossible mark.
    """
    cases, config = cases_of(session), session.config
    if (cases or any(getattr(config.option, f"bench_{axis}") for axis in NAMED_AXES)) and why_off(config) is None:
        try:
            _check(session, cases)
        except BenchError as error:
            raise pytest.UsageError(str(error)) from None
    benchmarks = benchmarks_of(config)
    if benchmarks is None:
        return
    if cases:
        _store_by_machine(benchmarks)
    if config.stash[COMPARED]:
        config.option.benchmark_compare = benchmarks.compare = config.stash[COMPARED]
        benchmarks.handle_loading()


def _check(session: pytest.Session, cases: list[Case]) -> None:
    from bench.engines import engines
    from bench.errors import BadCase
    from bench.machine.devices import devices
    from bench.measure import check
    from bench.spec.model import models
    from bench.spec.recipe import recipes

    for registry, axis in ((models, "model"), (recipes, "precision"), (engines, "engine")):
        for name in getattr(session.config.option, f"bench_{axis}") or ():
            registry.get(name)
    index = session.config.option.bench_device_index
    for name in session.config.option.bench_device or ():
        if (reason := devices.get(name).missing(index)) is not None:
            raise BadCase(f"--bench-device {name}: {reason}")
    for case in {replace(case, batch=1, threads=1): None for case in [*cases, *baselines_of(session)]}:
        check(case, folder_of(session.config, "data"))
    for item in session.items:
        if case_of(item) is not None:
            _gate(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what the collected cases need, before the first of them is measured."""
    cases, config = cases_of(session), session.config
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    if not cases or broken or config.option.collectonly or config.option.setuponly or why_off(config) is not None:
        return
    if beside_others(config):
        session.shouldfail = (
            f"bench measures one case at a time: run its {len(cases)} cases without pytest-xdist (-n0), or leave them "
            "out (--benchmark-skip)"
        )
        raise session.Failed(session.shouldfail)
    if benchmarks_of(config) is None:
        raise pytest.UsageError(
            "bench measures through pytest-benchmark, which is switched off here: take '-p no:benchmark' away, or "
            'leave the cases out by -m "not grid"'
        )
    from bench.measure import identity
    from bench.progress import Bar
    from bench.records.journal import Journal
    from bench.timing.baseline import examined
    from bench.timing.prepare import prepare

    bench, baselines = bench_of(config), baselines_of(session)
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


def _store_by_machine(benchmarks: Any) -> None:
    """Have pytest-benchmark save and look up runs by this machine's fingerprint, not by the Python version."""
    from bench.machine.facts import describe

    benchmarks.machine_id = benchmarks.storage.default_machine_id = describe().fingerprint


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the journal of a finished run; an interrupted run keeps its journal open, to be resumed."""
    journal = session.config.stash[JOURNAL]
    whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if journal is not None and whole and not (session.shouldfail or session.shouldstop):
        journal.end()


@pytest.fixture(scope="session", name=SHARED)
def shared(pytestconfig: pytest.Config) -> Iterator[Shared]:
    """What the cases share, until the session ends: their baselines' sessions and the control probes."""
    from bench.timing.baseline import Shared

    with Shared(bench_of(pytestconfig)) as common:
        yield common


@pytest.fixture
def measure(
    case: Case, benchmark: Any, _bench_shared: Shared, request: pytest.FixtureRequest
) -> Callable[[Case], Record]:
    """Measure a case in turn with its baseline and enter it as this test's benchmark; return its Record.

    The test is skipped with the reason on record where the case's engine cannot run it here, and where pytest-benchmark
    is told not to time; it fails with the reason where the case breaks.
    """
    from bench import measure as room
    from bench.records.gate import shortfalls
    from bench.records.record import Record
    from bench.timing.unsupported import unsupported

    node, stash = request.node, request.config.stash
    bench = bench_of(request.config)

    def entered(record: Record) -> Record:
        stash[RECORDS][node.nodeid] = named = replace(record, test=node.nodeid)
        if record.status != "ok":
            _enter_without_figures(benchmark)
        return named

    off = why_off(request.config)
    if off is not None:
        _enter_without_figures(benchmark)
        pytest.skip(off)
    clock, marker = node.stash.get(CLOCK, None), node.get_closest_marker("benchmark")
    if clock is None or marker is None or marker.kwargs.get("timer") is not clock:
        pytest.fail("measure is for a test with a grid, and no benchmark mark may be put before bench's", pytrace=False)
    if isinstance(case, Case) and (reason := unsupported(case, bench)) is not None:
        entered(Record(case, "unsupported", reason))
        pytest.skip(f"unsupported: {reason}")

    def measured(case: Case) -> Record:
        if benchmark.stats is not None:
            pytest.fail("a test measures one case once; parametrize it, or write another", pytrace=False)
        baseline = baseline_of(case, differs_of(node))
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
        other_params = {name: value for name, value in node.callspec.params.items() if name != "case"}
        benchmark.params = other_params | case.axes()  # a Case would be saved as UNSERIALIZABLE[...]
        benchmark.extra_info |= record.saved()
        benchmark.pedantic(lambda: None, rounds=len(record.samples_s), iterations=1)
        wanted = _gate(node)
        if wanted and (missed := shortfalls(record, wanted.speedup, wanted.max_drop)):
            pytest.fail("gate: " + "; ".join(missed), pytrace=False)
        return record

    return measured


class _NoFigures(Exception):
    """Ends a benchmark that has no samples to show."""


def _enter_without_figures(benchmark: Any) -> None:
    """Enter a benchmark as broken: pytest-benchmark shows no row for it, but saves a run of such benchmarks alone."""

    def broken() -> None:
        raise _NoFigures

    with contextlib.suppress(_NoFigures, StopIteration):  # the clock, with no samples, may end it first
        benchmark.pedantic(broken)


@dataclass(frozen=True)
class Gate:
    """The limits that a test must reach; see `shortfalls`."""

    speedup: float | None
    max_drop: Mapping[str, float]


def _gate(item: pytest.Item) -> Gate | None:
    """The limits that a test must reach: its marker's, overridden by the option's; None where there are neither.

    Raises BadLimit for a malformed marker.
    """
    marker, option = item.get_closest_marker("gate"), item.config.option.bench_gate
    if marker is None and option is None:
        return None
    keywords = {} if marker is None else marker.kwargs
    speedup, drops = keywords.get("speedup"), keywords.get("max_drop", {})
    well_formed = (
        keywords.keys() <= {"speedup", "max_drop"} and isinstance(drops, Mapping) and not (marker and marker.args)
    )
    limits = [1.0 if speedup is None else speedup, *drops.values()] if well_formed else []
    if marker is not None and (not all(map(_is_limit, limits)) or not limits or limits[0] <= 0):
        given = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())])
        raise BadLimit(f"{item.nodeid}: a gate reads gate(speedup=1.5, max_drop={{'top1': 0.01}}), not gate({given})")
    overrides = dict(option or {})
    return Gate(overrides.pop("speedup", speedup), {**drops, **overrides})


def _is_limit(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record that a measured case failed its test, so that no later run is compared with it."""
    report = yield
    records = item.config.stash[RECORDS]
    record = records.get(item.nodeid)
    if record is not None and record.status == "ok" and report.failed and call.excinfo is not None:
        reason = (str(call.excinfo.value).strip() or call.excinfo.typename).splitlines()[0]
        records[item.nodeid] = replace(record, status="failed", reason=reason)
        getattr(item, "funcargs")["benchmark"].extra_info |= {"status": "failed", "reason": reason}  # noqa: B009
    return report
