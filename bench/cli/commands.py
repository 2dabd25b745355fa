"""What each command does, by its parsed arguments; each function returns the exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BadCase, DataError, RunFileError

if TYPE_CHECKING:
    from bench.timing.sampling import Plan
    from bench.timing.settings import Bench

PYTEST_FILES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")  # they mark a project's root
PATIENCE = 100  # a build for one layer may compute for this many times the limit without a message


def _write(text: str, output: Path | None) -> None:
    """Print a text, or write it to a file."""
    if output is None:
        print(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFileError(f"cannot write {output}: {error.strerror}") from error


def report(args: argparse.Namespace) -> int:
    from bench.records.runs import frame, read_all
    from bench.report import pivot, summary

    runs = read_all(args.runs)
    tables = args.tables if args.tables.is_dir() else None
    pivoted = args.table == summary.PIVOT or bool(args.rows or args.columns or args.cell)
    layout = (
        args.rows or ("model", "precision"),
        args.columns or ("engine",),
        args.cell or ("latency.p50_s", "speedup.ratio"),
    )
    if args.format == "html":
        from bench.report.page import page

        _write(page(runs, tables), args.output)
    elif args.format == "csv":
        table = frame(runs)
        shown = pivot.numbers(table, *layout) if pivoted else summary.plain(table)
        _write(shown.to_csv(index=False).rstrip("\n"), args.output)
    else:
        text = (
            f"{summary.head(runs)}\n\n{pivot.pivot(frame(runs), *layout)}"
            if pivoted
            else summary.render(runs, tables, args.table)
        )
        if args.plots is not None:
            from bench.report.plots import images

            drawn = images(frame(runs), args.plots, args.plots_as)
            text = "\n\n".join([text, *(f"### {title}\n\n![{title}]({file})" for title, file in drawn.items())])
        summary.summarize(text)
        _write(text, args.output)
    return 0


def compare(args: argparse.Namespace) -> int:
    from bench.records import compare
    from bench.records.runs import read_all
    from bench.report import comparison, summary

    limits = comparison.limits_of(args.fail_on) if args.fail_on else {}
    base, *others = read_all(args.runs)
    if not others:
        raise RunFileError(f"one run is compared with nothing: {args.runs[0]} is one; name two or more")
    changes = compare.compare(base, others, args.absolute, args.margin)
    beyond = comparison.broken([base, *others], changes, limits)
    text = "\n\n".join(
        [comparison.rendered(base, others, changes), *(f"- beyond the limit: {line}" for line in beyond)]
    )
    summary.summarize(text)
    _write(text, args.output)
    return 1 if beyond else 0


def merge(args: argparse.Namespace) -> int:
    import json

    from bench.records.merge import merged
    from bench.records.runs import saved_files

    files = saved_files(args.runs)
    whole = merged(files)
    _write(json.dumps(whole, indent=1), args.output)
    measured, others = len(whole["benchmarks"]), len(whole["bench"]["cases"])
    print(f"{measured} measured and {others} other cases of {len(files)} files in {args.output}")
    return 0


def history(args: argparse.Namespace) -> int:
    from bench.records import history
    from bench.records.runs import read_all
    from bench.report import chronicle

    histories = history.histories(read_all(args.runs), args.case, args.cell)
    if args.plot is not None:
        from bench.report.plots import drawn, over_time

        drawn(over_time(histories), args.plot)
    _write(chronicle.rendered(histories), args.output)
    return 0


def doctor(args: argparse.Namespace) -> int:
    from bench.machine.doctor import examine

    lines = examine()
    print("\n".join(f"- {line}" for line in lines) or "nothing stands in the way of good figures")
    return 1 if lines else 0


def _bench(args: argparse.Namespace, plan: Plan) -> Bench:
    """The Bench that a command's options describe."""
    from platformdirs import user_cache_path

    from bench.timing.settings import Bench

    load_conftest(Path.cwd())
    cache = Path(args.bench_cache or user_cache_path("bench-harness", appauthor=False)).expanduser().absolute()
    return Bench(cache, Path(args.bench_data).expanduser().absolute() if args.bench_data else None, plan)


def sensitivity(args: argparse.Namespace) -> int:
    from bench.engines import engine_of
    from bench.progress import Bar
    from bench.report import ranking
    from bench.spec.case import Case
    from bench.spec.recipe import recipes
    from bench.timing.builder import target_of, worker_for
    from bench.timing.protocol import Rank
    from bench.timing.sampling import QUICK
    from bench.timing.unsupported import unsupported

    bench, case = _bench(args, QUICK), Case.named(args.case)
    recipe = recipes.get(case.precision)
    if recipe.number_format != "int8" or recipe.weights_alone:
        what = "has weights alone in INT8" if recipe.weights_alone else f"is in {recipe.number_format}"
        raise BadCase(f"layers are ranked by what INT8 costs them; {case.id} {what}")
    single_layer = replace(recipe, only=("one layer",))
    reason = unsupported(case, bench) or engine_of(case).supports(single_layer, case.device)
    if reason is not None:
        raise BadCase(f"{case.id} cannot be ranked: {reason}")
    with Bar() as bar, worker_for(case, bench, os.cpu_count() or 1, bar.told) as worker:
        layers = worker.ask(Rank(target_of(case, bench)), bench.timeout_s, PATIENCE)
    if args.plot is not None:
        from bench.report.plots import drawn

        drawn(ranking.chart(layers, case.id), args.plot)
    _write(ranking.rendered(layers), args.output)
    return 0


def train(args: argparse.Namespace) -> int:
    from bench.build.training import read_config, train
    from bench.records.figures import figure_text
    from bench.spec.model import models

    load_conftest(Path.cwd())
    trained = train(models.get(args.model), read_config(args.config), args.bench_data)
    figures = [
        f"{name} {figure_text(f'quality.{name}', value, trained.metrics)}" for name, value in trained.quality.items()
    ]
    print(f"{', '.join(figures)} on the {trained.n:,} test items of {trained.dataset}; weights in {trained.file}")
    return 0


def selftest(args: argparse.Namespace) -> int:
    from bench.selftest.trials import selftest
    from bench.timing.sampling import Plan

    bench = _bench(args, Plan.within(args.bench_budget))
    say = partial(print, flush=True)
    selftest(args.model, bench, args.trials, args.repeats, args.busy, say, args.bench_device)
    return 0


def data(args: argparse.Namespace) -> int:
    from bench.build import data

    load_conftest(Path.cwd())
    folder = Path(args.bench_data).expanduser() if args.bench_data else None
    if args.action == "fetch":
        if folder is None:
            raise DataError("name the folder to fetch to by --bench-data or BENCH_DATA")
        lines, whole = data.fetch(args.name, folder), True
    elif args.action == "check":
        if folder is None:
            raise DataError("name the folder to check by --bench-data or BENCH_DATA")
        lines, whole = data.check(folder)
    else:
        lines, whole = data.list_data(folder), True
    print("\n".join(lines))
    return 0 if whole else 1


def tiles(args: argparse.Namespace) -> int:
    from bench.build.calibration import cut_tiles

    kinds = cut_tiles(args.pictures, args.place, args.size, args.count, args.seed)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"{sum(kinds.values())} tiles of {args.size}x{args.size} in {args.place}: {counts}")
    return 0


def load_conftest(folder: Path) -> None:
    """Import the nearest conftest.py of the folder or above, and the plugins that it names, as pytest would.

    Each conftest.py above it in the same project comes first, with its plugins. They register models and data sets;
    without one only those of installed packages are known.
    """
    from bench.spec.registry import Origin

    places = [folder, *folder.parents]
    holding = [place for place in places if (place / "conftest.py").is_file()]
    root = next((place for place in places if any((place / name).is_file() for name in PYTEST_FILES)), None)
    for place in reversed(holding):
        if place == holding[0] or (root is not None and (place == root or root in place.parents)):
            Origin("conftest", str((place / "conftest.py").resolve()), str(place)).load()
            for plugin in getattr(sys.modules["conftest"], "pytest_plugins", ()):
                importlib.import_module(plugin)
