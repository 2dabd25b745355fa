"""The arguments of each command, and which function does it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.cli import commands as do
from bench.errors import BenchError
from bench.spec import options


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
    report.set_defaults(do=do.report)
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
    compare.set_defaults(do=do.compare)
    merge = commands.add_parser("merge", help="put shards of one run together")
    _runs(merge)
    merge.add_argument("--output", type=Path, required=True, metavar="FILE", help="the saved run to write")
    merge.set_defaults(do=do.merge)
    history = commands.add_parser("history", help="a case over saved runs, its changes marked")
    _runs(history)
    history.add_argument("--case", action="append", default=[], metavar="ID", help="only this case; may be repeated")
    history.add_argument("--cell", default="latency.p50_s", metavar="FIGURE", help="default: latency.p50_s")
    history.add_argument("--plot", type=Path, metavar="FILE", help="draw the plot there, as .svg, .png or .html")
    _output(history)
    history.set_defaults(do=do.history)
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
        action_parser.set_defaults(do=do.data, action=action)
    tiles = data.add_parser("tiles", help="cut a calibration set from photographs: bright, dark, flat, detailed")
    tiles.add_argument("pictures", type=Path, metavar="SRC", help="a folder of photographs")
    tiles.add_argument("place", type=Path, metavar="DST", help="an empty or new folder")
    tiles.add_argument("--size", type=options.count, default=256, metavar="N", help="pixels of a side (default: 256)")
    tiles.add_argument("--count", type=options.count, default=50, metavar="N", help="number of tiles (default: 50)")
    tiles.add_argument("--seed", type=options.natural, default=0, metavar="N", help="of the selection (default: 0)")
    tiles.set_defaults(do=do.tiles)
    sensitivity = commands.add_parser("sensitivity", help="which layers of a case cost quality")
    sensitivity.add_argument("case", metavar="CASE", help="a case's id, such as resnet20-int8_static-torch-b1-t1")
    sensitivity.add_argument("--plot", type=Path, metavar="FILE", help="draw the plot there, as .svg, .png or .html")
    _folders(sensitivity)
    _output(sensitivity)
    sensitivity.set_defaults(do=do.sensitivity)
    train = commands.add_parser("train", help="train a model from chance, by a JSON configuration")
    train.add_argument("model", metavar="MODEL", help="a registered model")
    train.add_argument("--config", type=Path, required=True, metavar="FILE", help="see docs/compression.md")
    train.add_argument("--bench-data", type=Path, metavar="DIR", help="a data folder in place of the configuration's")
    train.set_defaults(do=do.train)
    doctor = commands.add_parser("doctor", help="what on this machine stands in the way of good figures")
    doctor.set_defaults(do=do.doctor)
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
    selftest.set_defaults(do=do.selftest)
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
