"""One test of each case of the grids, and what its item tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from bench.errors import BadCase, BenchError
from bench.plugin.options import BENCHMARKS, NAMED_AXES
from bench.spec.case import COUNTED_AXES, Axes, Case, Grid, baseline_of

if TYPE_CHECKING:
    pass

SHARED = "_bench_shared"  # as a fixture's name: the everyday ones are its users'


CLOCK: pytest.StashKey[Replay] = pytest.StashKey()


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
        cases = _grid_cases(marks, takes_case, metafunc.config)
    except BenchError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    params = [pytest.param(case, id=case.id, marks=_marks(case, differs)) for case, differs in cases.items()]
    models = dict.fromkeys(model for mark in marks for grid in mark.args for model in grid.axes["model"])
    reason = f"no case is left: --bench-model names none of this grid's models ({', '.join(models)})"
    metafunc.parametrize("case", params or [pytest.param(None, id="no-case", marks=pytest.mark.skip(reason=reason))])


def _grid_cases(marks: list[pytest.Mark], takes_case: bool, config: pytest.Config) -> dict[Case, Axes]:
    """The cases of a test's grid marks, and the axes in which each one's baseline differs from it."""
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
    places = [place for place, item in enumerate(items) if case_of(item) is not None]
    order: dict[Case, int] = {}
    try:
        for place in places:
            order.setdefault(baseline_case(items[place]), len(order))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from None
    for place, item in zip(
        places, sorted((items[p] for p in places), key=lambda i: order[baseline_case(i)]), strict=True
    ):
        items[place] = item
        if config.pluginmanager.has_plugin(BENCHMARKS):
            _show_by_clock(item)


def _show_by_clock(item: pytest.Item) -> None:
    case, own = case_of(item), item.get_closest_marker("benchmark")
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


def case_of(item: pytest.Item) -> Case | None:
    case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return case if isinstance(case, Case) else None


def cases_of(session: pytest.Session) -> list[Case]:
    """The cases among the collected tests."""
    return [case for case in map(case_of, session.items) if case is not None]


def differs_of(item: pytest.Item) -> Axes:
    """The axes in which an item's baseline differs from its case: the option's, else those of the case's grid."""
    chosen = item.config.option.bench_baseline
    marker = item.get_closest_marker("baseline")
    return chosen if chosen is not None else {} if marker is None else dict(marker.kwargs)


def baseline_case(item: pytest.Item) -> Case:
    case = case_of(item)
    assert case is not None
    return baseline_of(case, differs_of(item))


def baselines_of(session: pytest.Session) -> list[Case]:
    """The cases that those among the collected tests are compared with."""
    return list(dict.fromkeys(baseline_case(item) for item in session.items if case_of(item) is not None))
