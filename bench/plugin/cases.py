"""One test per case of the grids, and the case and baseline of a test item."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.errors import BadCase, BenchError
from bench.plugin.files import named_tests
from bench.plugin.options import BENCHMARKS, NAMED_AXES, REFUSED
from bench.spec.case import COUNTED_AXES, Axes, Case, Grid, baseline_of

SHARED = "_bench_shared"  # a fixture's name; everyday names are left to users


CLOCK: pytest.StashKey[Replay] = pytest.StashKey()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per case of the function's grids, after the options narrow or widen them.

    A grid on a class or module applies only to those of its tests that take a `case`. A mark of this name without a
    Grid, on a test that does not measure, belongs to another plugin.
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
        cases = _grid_cases(marks, takes_case, metafunc.config)
    except BenchError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    params = [pytest.param(case, id=case.id, marks=_marks(case, differs)) for case, differs in cases.items()]
    models = dict.fromkeys(model for mark in marks for grid in mark.args for model in grid.axes["model"])
    reason = f"no case is left: --bench-model names none of this grid's models ({', '.join(models)})"
    metafunc.parametrize("case", params or [pytest.param(None, id="no-case", marks=pytest.mark.skip(reason=reason))])


def _grid_cases(marks: list[pytest.Mark], takes_case: bool, config: pytest.Config) -> dict[Case, Axes]:
    """The cases of a test's grid marks, each with the axes in which its baseline differs from it."""
    if not takes_case:
        raise BadCase("it has a grid, but no argument 'case'; write def test(case, measure)")
    for mark in marks:
        if not mark.args or mark.kwargs or not all(isinstance(grid, Grid) for grid in mark.args):
            given = ", ".join([*map(repr, mark.args), *(f"{name}=..." for name in mark.kwargs)])
            raise BadCase(f"@pytest.mark.grid takes Grids alone, one at least, not ({given})")
    choices = {axis: config.getoption(f"bench_{axis}") for axis in (*NAMED_AXES, *COUNTED_AXES)}
    cases: dict[Case, Axes] = {}
    for grid in (grid for mark in marks for grid in mark.args):
        for case in grid.chosen(**choices):
            if baseline_of(case, cases.setdefault(case, grid.baseline)) != baseline_of(case, grid.baseline):
                raise BadCase(f"two of its grids hold {case.id} with different baselines; write two tests")
    return cases


def _marks(case: Case, differs: Axes) -> list[pytest.MarkDecorator]:
    return [pytest.mark.case(**case.axes()), pytest.mark.baseline(**differs)]


class Replay:
    """A clock that replays, with two readings a round, samples that another clock took in a worker.

    With it as the timer, pytest-benchmark makes an ordinary record: each round lasts exactly one sample.
    """

    __name__ = "Replay"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def __call__(self) -> float:
        return next(self._readings)

    def show(self, samples_s: tuple[float, ...]) -> None:
        """Show these samples, in seconds, from the next reading on."""
        self._readings = (reading for sample_s in samples_s for reading in (0.0, sample_s))


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the networks by name, sort cases with the same baseline together, and give each item its clock and group.

    Sorted so, a baseline's workers are started once. pytest-benchmark shows a case in the group that its suite names.
    """
    items += named_tests(session)
    positions = [position for position, item in enumerate(items) if case_of(item) is not None]
    order: dict[Case, int] = {}
    try:
        for position in positions:
            order.setdefault(baseline_case(items[position]), len(order))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from None
    for position, item in zip(
        positions, sorted((items[p] for p in positions), key=lambda i: order[baseline_case(i)]), strict=True
    ):
        items[position] = item
        if config.pluginmanager.has_plugin(BENCHMARKS):
            _show_by_clock(item)


def _show_by_clock(item: pytest.Item) -> None:
    case, suite_mark = case_of(item), item.get_closest_marker("benchmark")
    assert case is not None
    clock = item.stash[CLOCK] = Replay()
    arguments, keywords = ((), {}) if suite_mark is None else (suite_mark.args, suite_mark.kwargs)
    group = keywords.get("group", f"{case.model} b{case.batch} t{case.threads}")
    keywords = {"group": group, "timer": clock, "cprofile": False}  # a profile would be of the replay, not the case
    item.add_marker(pytest.mark.benchmark(*arguments, **keywords), append=False)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Report the network files that cannot be measured, before the others are built; and the keywords of a suite's own
    benchmark marks that have no effect, since workers do the timing.
    """
    refused = [f"bench: {reason}" for reason in config.stash[REFUSED]]
    if config.option.verbose < 0:
        return refused
    idle: dict[str, str] = {}
    for item in items:
        clock = item.stash.get(CLOCK, None)
        for mark in item.iter_markers("benchmark") if clock is not None else ():
            if mark.kwargs.get("timer") is not clock:
                idle |= {word: item.nodeid.partition("[")[0] for word in mark.kwargs if word != "group"}
    where = ", ".join(dict.fromkeys(idle.values()))
    return refused + [
        f"bench: of @pytest.mark.benchmark only group has an effect on a case, not {', '.join(idle)} ({where})"
    ] * bool(idle)


def case_of(item: pytest.Item) -> Case | None:
    case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return case if isinstance(case, Case) else None


def cases_of(session: pytest.Session) -> list[Case]:
    """The cases among the collected tests."""
    return [case for case in map(case_of, session.items) if case is not None]


def differs_of(item: pytest.Item) -> Axes:
    """The axes in which an item's baseline differs from its case: by the option, else by the case's grid."""
    option = item.config.option.bench_baseline
    marker = item.get_closest_marker("baseline")
    return option if option is not None else {} if marker is None else dict(marker.kwargs)


def baseline_case(item: pytest.Item) -> Case:
    case = case_of(item)
    assert case is not None
    return baseline_of(case, differs_of(item))


def baselines_of(session: pytest.Session) -> list[Case]:
    """The baselines of the collected cases, each once."""
    return list(dict.fromkeys(baseline_case(item) for item in session.items if case_of(item) is not None))
