"""The command line: `bench report | compare | merge | history` of saved runs, `bench data list | fetch NAME | check |
tiles`, `bench sensitivity CASE`, `bench doctor`, `bench selftest MODEL`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BadCase, BenchError, DataError, RunFileError
from bench.spec import options

if TYPE_CHECKING:
    from bench.timing.bench import Bench
    from bench.timing.sampling import Plan

PYTEST_FILES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")  # they mark a project's root
PATIENCE = 100  # a build for one layer may compute for this many times the limit without a message


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 where a check finds a problem, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="bench", description="Reports and data of benchmarks of compressed networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="show saved runs as tables, or on a page")
    _runs(report)
    report.add_argument("--format", choices=("md", "html", "csv"), default="md", help="default: md")
    report.add_argument(
        "--table", metavar="NAME", help="only this table: cases, pivot, or a name that --tables defines"
    )
    report.add_argument(
        "--tables", type=Path, default=Path("reports"), metavar="DIR", help="table definitions (default: reports)"
    )
    report.add_argument("--rows", type=options.names, metavar="AXIS,...", help="of a pivot (default: model,precision)")
    report.add_argument("--columns", type=options.names, metavar="AXIS,...", help="of a pivot (default: engine)")
    report.add_argument(
        "--cell", type=options.names, metavar="FIGURE,...", help="of a pivot (default: latency.p50_s,speedup.ratio)"
    )
    report.add_argument("--plots", type=Path, metavar="DIR", help="draw the plots there and show them below the tables")
    report.add_argument("--plots-as", choices=("svg", "png"), default="svg", help="default: svg")
    _output(report)
    report.set_defaults(do=_report)
    compare = commands.add_parser(
        "compare", help="what became faster, slower, better, worse from the first run to the others"
    )
    _runs(compare)
    compare.add_argument("--absolute", action="store_true", help="compare times of different machines too")
    compare.add_argument(
        "--margin",
        type=options.percent,
        default=0.01,
        metavar="PERCENT",
        help="ignore smaller changes (default: 1%%)",
    )
    compare.add_argument(
        "--fail-on",
        metavar="NAME:LIMIT,...",
        help="exit with 1 beyond a limit: slower:2%%, top1:0.5%%; missing and failed include newly unsupported",
    )
    _output(compare)
    compare.set_defaults(do=_compare)
    merge = commands.add_parser("merge", help="put shards of one run together")
    _runs(merge)
    merge.add_argument("--output", type=Path, required=True, metavar="FILE", help="the saved run to write")
    merge.set_defaults(do=_merge)
    history = commands.add_parser("history", help="a case over saved runs, its changes marked")
    _runs(history)
    history.add_argument("--case", action="append", default=[], metavar="ID", help="only this case; may be repeated")
    history.add_argument("--cell", default="latency.p50_s", metavar="FIGURE", help="default: latency.p50_s")
    history.add_argument("--plot", type=Path, metavar="FILE", help="draw the plot there, as .svg, .png or .html")
    _output(history)
    history.set_defaults(do=_history)
    data = commands.add_parser("data", help="list, fetch and check data and weights").add_subparsers(
        required=True, metavar="ACTION"
    )
    for action, help_text in (
        ("list", "what is known"),
        ("fetch", "download a data set and its weights"),
        ("check", "read all of the folder, and report what is missing or damaged"),
    ):
        action_parser = data.add_parser(action, help=help_text)
        action_parser.add_argument(
            "--bench-data",
            type=Path,
            default=os.environ.get("BENCH_DATA"),
            metavar="DIR",
            help="the data folder (BENCH_DATA)",
        )
        if action == "fetch":
            action_parser.add_argument("name", metavar="NAME", help="a data set, with the weights that belong to it")
        action_parser.set_defaults(do=_data, action=action)
    tiles = data.add_parser("tiles", help="cut a calibration set from photographs: bright, dark, flat, detailed")
    tiles.add_argument("pictures", type=Path, metavar="SRC", help="a folder of photographs")
    tiles.add_argument("place", type=Path, metavar="DST", help="an empty or new folder")
    tiles.add_argument("--size", type=options.count, default=256, metavar="N", help="pixels of a side (default: 256)")
    tiles.add_argument("--count", type=options.count, default=50, metavar="N", help="number of tiles (default: 50)")
    tiles.add_argument("--seed", type=options.natural, default=0, metavar="N", help="of the selection (default: 0)")
    tiles.set_defaults(do=_tiles)
    sensitivity = commands.add_parser("sensitivity", help="which layers of a case cost quality")
    sensitivity.add_argument("case", metavar="CASE", help="a case's id, such as resnet20-int8_static-torch-b1-t1")
    sensitivity.add_argument("--plot", type=Path, metavar="FILE", help="draw the plot there, as .svg, .png or .html")
    _folders(sensitivity)
    _output(sensitivity)
    sensitivity.set_defaults(do=_sensitivity)
    doctor = commands.add_parser("doctor", help="what on this machine stands in the way of good figures")
    doctor.set_defaults(do=_doctor)
    selftest = commands.add_parser("selftest", help="whether the figures can be believed here: known truths, measured")
    selftest.add_argument("model", metavar="MODEL", help="a registered model")
    selftest.add_argument("trials", nargs="*", metavar="TRIAL", help="the trials to run (default: all)")
    selftest.add_argument("--repeats", type=options.count, default=10, metavar="N", help="of each trial (default: 10)")
    selftest.add_argument(
        "--busy", type=options.natural, default=0, metavar="N", help="processes that each load a CPU meanwhile"
    )
    selftest.add_argument(
        "--bench-budget", type=options.positive, default=20.0, metavar="S", help="seconds a case (default: 20)"
    )
    selftest.add_argument("--bench-device", default="cpu", metavar="NAME", help="where cases run (default: cpu)")
    _folders(selftest)
    selftest.set_defaults(do=_selftest)
    args = parser.parse_args(arguments)
    try:
        return int(args.do(args))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader closed the pipe, as `head` does
        return 0


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a file that pytest-benchmark saved, a folder or a pattern"
    )


def _folders(parser: argparse.ArgumentParser) -> None:
    for name in ("data", "cache"):
        parser.add_argument(f"--bench-{name}", default=os.environ.get(f"BENCH_{name.upper()}"), metavar="DIR")


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")


def _write(text: str, output: Path | None) -> None:
    """Print a text, or write it to a file."""
    if output is None:
        print(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFileError(f"cannot write {output}: {error.strerror}") from error


def _report(args: argparse.Namespace) -> int:
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


def _compare(args: argparse.Namespace) -> int:
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


def _merge(args: argparse.Namespace) -> int:
    import json

    from bench.records.merge import merged
    from bench.records.runs import saved_files

    files = saved_files(args.runs)
    whole = merged(files)
    _write(json.dumps(whole, indent=1), args.output)
    measured, others = len(whole["benchmarks"]), len(whole["bench"]["cases"])
    print(f"{measured} measured and {others} other cases of {len(files)} files in {args.output}")
    return 0


def _history(args: argparse.Namespace) -> int:
    from bench.records import history
    from bench.records.runs import read_all
    from bench.report import chronicle

    histories = history.histories(read_all(args.runs), args.case, args.cell)
    if args.plot is not None:
        from bench.report.plots import drawn, over_time

        drawn(over_time(histories), args.plot)
    _write(chronicle.rendered(histories), args.output)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from bench.machine.doctor import examine

    lines = examine()
    print("\n".join(f"- {line}" for line in lines) or "nothing stands in the way of good figures")
    return 1 if lines else 0


def _bench(args: argparse.Namespace, plan: Plan) -> Bench:
    """The Bench that a command's options describe."""
    from platformdirs import user_cache_path

    from bench.timing.bench import Bench

    load_conftest(Path.cwd())
    cache = Path(args.bench_cache or user_cache_path("bench-harness", appauthor=False)).expanduser().absolute()
    return Bench(cache, Path(args.bench_data).expanduser().absolute() if args.bench_data else None, plan)


def _sensitivity(args: argparse.Namespace) -> int:
    from bench.engines import engine_of
    from bench.progress import Bar
    from bench.report import ranking
    from bench.spec.case import Case
    from bench.spec.recipe import recipes
    from bench.timing.bench import unsupported
    from bench.timing.builder import target_of, worker_for
    from bench.timing.protocol import Rank
    from bench.timing.sampling import QUICK

    bench, case = _bench(args, QUICK), Case.named(args.case)
    recipe = recipes.get(case.precision)
    if recipe.number_format != "int8":
        raise BadCase(f"layers are ranked by what INT8 costs them; {case.id} is in {recipe.number_format}")
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


def _selftest(args: argparse.Namespace) -> int:
    from bench.selftest.trials import selftest
    from bench.timing.sampling import Plan

    bench = _bench(args, Plan.within(args.bench_budget))
    say = partial(print, flush=True)
    selftest(args.model, bench, args.trials, args.repeats, args.busy, say, args.bench_device)
    return 0


def _data(args: argparse.Namespace) -> int:
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


def _tiles(args: argparse.Namespace) -> int:
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
