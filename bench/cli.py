"""The command line: `bench report RUN.json`, `bench data list | fetch NAME | check | tiles`,
`bench doctor`, `bench selftest MODEL`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from bench.errors import BenchError, DataError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give its exit status: 0, 1 where a check found something, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="bench", description="Reports and data of benchmarks of compressed networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="render the tables of a saved run")
    report.add_argument(
        "run", type=Path, metavar="RUN.json", help="a file written by --benchmark-save or --benchmark-json"
    )
    report.add_argument(
        "--tables", type=Path, default=Path("reports"), metavar="DIR", help="table definitions (default: reports)"
    )
    report.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    report.set_defaults(do=_report)
    data = commands.add_parser("data", help="list, fetch and check data and weights").add_subparsers(
        required=True, metavar="ACTION"
    )
    for action, help_text in (
        ("list", "what is known"),
        ("fetch", "download one"),
        ("check", "read what the folder holds"),
    ):
        one = data.add_parser(action, help=help_text)
        one.add_argument(
            "--bench-data",
            type=Path,
            default=os.environ.get("BENCH_DATA"),
            metavar="DIR",
            help="the data folder (BENCH_DATA)",
        )
        if action == "fetch":
            one.add_argument("name", metavar="NAME", help="a data set, with the weights that belong to it")
        one.set_defaults(do=_data, action=action)
    tiles = data.add_parser("tiles", help="cut a calibration set from photographs: bright, dark, flat, detailed")
    tiles.add_argument("pictures", type=Path, metavar="SRC", help="a folder of photographs")
    tiles.add_argument("place", type=Path, metavar="DST", help="an empty or new folder")
    tiles.add_argument("--size", type=int, default=256, metavar="N", help="pixels of a side (default: 256)")
    tiles.add_argument("--count", type=int, default=50, metavar="N", help="how many (default: 50)")
    tiles.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice (default: 0)")
    tiles.set_defaults(do=_tiles)
    doctor = commands.add_parser("doctor", help="what on this machine stands in the way of good figures")
    doctor.set_defaults(do=_doctor)
    selftest = commands.add_parser("selftest", help="whether the figures can be believed here: known truths, measured")
    selftest.add_argument("model", metavar="MODEL", help="a registered model")
    selftest.add_argument("trials", nargs="*", metavar="TRIAL", help="which to hold, of all that there are")
    selftest.add_argument("--repeats", type=int, default=10, metavar="N", help="of each trial (default: 10)")
    selftest.add_argument("--busy", type=int, default=0, metavar="N", help="processes that use a CPU meanwhile")
    selftest.add_argument("--bench-budget", type=float, default=20.0, metavar="S", help="seconds a case (default: 20)")
    for name in ("data", "cache"):
        selftest.add_argument(f"--bench-{name}", default=os.environ.get(f"BENCH_{name.upper()}"), metavar="DIR")
    selftest.set_defaults(do=_selftest)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.do(chosen))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has had enough
        return 0


def _report(chosen: argparse.Namespace) -> int:
    from bench.report import render
    from bench.runs import read

    text = render(read(chosen.run), chosen.tables if chosen.tables.is_dir() else None)
    if chosen.output is None:
        print(text)
    else:
        chosen.output.write_text(text + "\n")
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    from bench.doctor import examine

    lines = examine()
    print("\n".join(f"- {line}" for line in lines) or "nothing stands in the way of good figures")
    return 1 if lines else 0


def _selftest(chosen: argparse.Namespace) -> int:
    from platformdirs import user_cache_path

    from bench.sampling import Plan
    from bench.selftest import selftest
    from bench.session import Bench

    load_conftest(Path.cwd())
    cache = Path(chosen.bench_cache) if chosen.bench_cache else user_cache_path("bench-harness", appauthor=False)
    data = Path(chosen.bench_data).expanduser().absolute() if chosen.bench_data else None
    bench = Bench(cache, data, Plan.within(chosen.bench_budget))
    selftest(
        chosen.model, bench, chosen.trials, max(1, chosen.repeats), chosen.busy, lambda line: print(line, flush=True)
    )
    return 0


def _data(chosen: argparse.Namespace) -> int:
    from bench import data

    load_conftest(Path.cwd())
    folder = Path(chosen.bench_data).expanduser() if chosen.bench_data else None
    if chosen.action == "fetch":
        if folder is None:
            raise DataError("name the folder to fetch to by --bench-data or BENCH_DATA")
        lines, whole = data.fetch(chosen.name, folder), True
    elif chosen.action == "check":
        if folder is None:
            raise DataError("name the folder to check by --bench-data or BENCH_DATA")
        lines, whole = data.check(folder)
    else:
        lines, whole = data.list_data(folder), True
    print("\n".join(lines))
    return 0 if whole else 1


def _tiles(chosen: argparse.Namespace) -> int:
    from bench.calibration import cut_tiles

    kinds = cut_tiles(chosen.pictures, chosen.place, chosen.size, chosen.count, chosen.seed)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"{sum(kinds.values())} tiles of {chosen.size}x{chosen.size} in {chosen.place}: {told}")
    return 0


def load_conftest(folder: Path) -> None:
    """Import the nearest conftest.py of the folder or above, and the plugins it names, as pytest would.

    It is where models and data sets are registered; without one only those of installed packages are known.
    """
    for place in (folder, *folder.parents):
        if (place / "conftest.py").is_file():
            sys.path.insert(0, str(place))
            spec = importlib.util.spec_from_file_location("conftest", place / "conftest.py")
            assert spec is not None
            assert spec.loader is not None
            conftest: Any = importlib.util.module_from_spec(spec)
            sys.modules["conftest"] = conftest
            spec.loader.exec_module(conftest)
            for plugin in getattr(conftest, "pytest_plugins", ()):
                importlib.import_module(plugin)
            return
