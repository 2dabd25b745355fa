"""The harness's pytest options, and the keys under which a session keeps its state."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.spec import options
from bench.spec.case import COUNTED_AXES
from bench.spec.limits import Limits
from bench.spec.network import NAMED

if TYPE_CHECKING:
    from bench.build.network_files import GivenFile
    from bench.records.journal import Journal
    from bench.records.record import Record
    from bench.timing.settings import Bench

BENCHMARKS = "pytest-benchmark"  # its name among pytest's plugins

COMPARED: pytest.StashKey[Any] = pytest.StashKey()  # --benchmark-compare, put off until the machine's id is set
JOURNAL: pytest.StashKey[Journal | None] = pytest.StashKey()  # None until cases are to be measured
FINISHED: pytest.StashKey[dict[str, Record]] = pytest.StashKey()  # of interrupted runs, by test; --bench-resume
BENCH: pytest.StashKey[Bench] = pytest.StashKey()  # one a session: it remembers what failed
FILES: pytest.StashKey[dict[str, GivenFile]] = pytest.StashKey()  # network files that are models here
# networks by name on the command line, such as hf:NAME, with the tests of each that are asked for; "": all
NETWORKS: pytest.StashKey[dict[Path, list[str]]] = pytest.StashKey()
REFUSED: pytest.StashKey[list[str]] = pytest.StashKey()  # why network files cannot be measured
RECORDS: pytest.StashKey[dict[str, Record]] = pytest.StashKey()  # of this session, by test

NAMED_AXES = ("model", "precision", "engine", "device")  # the other axes are COUNTED_AXES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the harness."""
    group = parser.getgroup("bench", "benchmarks of compressed networks")
    for axis in NAMED_AXES:
        group.addoption(
            f"--bench-{axis}",
            type=options.names,
            metavar="NAME,...",
            help=f"values for the {axis} axis of each grid",
        )
    for axis in COUNTED_AXES:
        group.addoption(
            f"--bench-{axis}", type=options.counts, metavar="N,...", help=f"values for the {axis} axis of each grid"
        )
    group.addoption(
        "--bench-device-index",
        type=options.natural,
        default=0,
        metavar="N",
        help="which device of its kind, where there are several (default: 0, the first)",
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
        help="each case's baseline, by the axes in which it differs from the case (default: the suite's, else "
        "engine=torch,precision=fp32)",
    )
    group.addoption(
        "--bench-gate",
        type=options.limits,
        metavar="NAME=LIMIT,...",
        help="fail cases that do not surely reach a limit: speedup=1.5, or the most that a metric may drop, top1=0.01",
    )
    group.addoption(
        "--bench-baseline-python",
        metavar="PATH",
        help="run the baselines in this interpreter, which has its own environment and versions",
    )
    group.addoption(
        "--bench-interval",
        type=options.percent,
        default=0.005,
        metavar="PERCENT",
        help="stop when half the width of a speed-up's 95%% interval is at most this (default 0.5%%)",
    )
    group.addoption(
        "--bench-budget",
        type=options.positive,
        default=20.0,
        metavar="S",
        help="begin no further launch of a case after this time (default 20)",
    )
    group.addoption(
        "--bench-shape",
        type=options.shapes,
        action="append",
        metavar="INPUT=1x3x640x640,...",
        help="the shape of a network file's inputs, where the file leaves it free; several times: each is measured",
    )
    group.addoption(
        "--bench-inputs",
        metavar="PATH",
        help="real inputs of network files: a folder with one .npz an item, or one .npz with a leading axis; names as "
        "the file's inputs (default: drawn numbers)",
    )
    group.addoption(
        "--bench-preprocess",
        metavar="MODULE:FUNCTION",
        help="--bench-inputs is a folder of pictures, and this function makes inputs of each (height, width, 3) uint8",
    )
    group.addoption("--bench-quick", action="store_true", help="one launch a case: figures without an interval")
    group.addoption(
        "--bench-max-drop",
        type=options.percent,
        metavar="PERCENT",
        help="the most that int8_auto and mixed_int8 may let quality fall, on the training side (default 1%%)",
    )
    group.addoption(
        "--bench-max-size",
        type=options.size,
        metavar="SIZE",
        help="the most that the weights of mixed_int8 may take, packed by their bits: 60KB, 1.5MB, or 20%% of FP32's",
    )
    group.addoption(
        "--bench-explain",
        action="store_true",
        help="show what each case executed, in which number format, by the runtime's profiler",
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
        help="give up a case that hangs for this time (default 120)",
    )
    group.addoption(
        "--bench-reports",
        default="reports",
        metavar="DIR",
        help="folder of the table definitions; reports go to its out/ (default: reports)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and make room for the session's records.

    Raises UsageError where a folder follows its option after a space and pytest finds no ini file for that reason: it
    looks for the ini file before it knows the options of plugins, and takes the folder for the place of the tests.
    """
    for option in ("--bench-cache", "--bench-data", "--bench-inputs", "--bench-reports"):
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
    config.stash[FILES] = {}
    config.stash[REFUSED] = []
    named = [name.partition("::") for name in config.args if name.startswith(tuple(NAMED))]
    config.stash[NETWORKS] = {}
    for name, _, test in named:
        config.stash[NETWORKS].setdefault(_network(name, config), []).append(test)
    config.args = [name for name in config.args if not name.startswith(tuple(NAMED))]  # pytest would look for a file
    config.stash[JOURNAL] = None
    config.stash[FINISHED] = {}
    config.stash[COMPARED] = None if beside_others(config) else getattr(config.option, "benchmark_compare", None)
    if config.stash[COMPARED]:  # looked up once the machine's id is set
        config.option.benchmark_compare = []


def _network(name: str, config: pytest.Config) -> Path:
    """A network by its name; a folder in it by its absolute path."""
    library, _, rest = name.partition(":")
    folder = config.invocation_params.dir / Path(rest).expanduser()
    return Path(f"{library}:{folder}" if library == "hf" and rest and folder.is_dir() else name)


def benchmarks_of(config: pytest.Config) -> Any:
    """pytest-benchmark's session, which has no public name; None where that plugin is switched off."""
    return config.pluginmanager.get_plugin(BENCHMARKS)


def why_off(config: pytest.Config) -> str | None:
    """Why nothing is measured: an option has pytest-benchmark skip or not time; None where cases are measured."""
    benchmarks, option = benchmarks_of(config), config.option
    if benchmarks is not None and benchmarks.skip:
        return "benchmarks are skipped (--benchmark-skip)"
    if benchmarks is not None and option.benchmark_disable and not option.benchmark_enable:
        return "benchmarks are disabled (--benchmark-disable)"
    return None


def beside_others(config: pytest.Config) -> bool:
    """Whether pytest-xdist runs tests in several processes at once: this is one of them, or controls them."""
    return hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no"


def bench_of(config: pytest.Config) -> Bench:
    """The session's only Bench, by the options and the environment; it remembers what failed."""
    if BENCH in config.stash:
        return config.stash[BENCH]
    from platformdirs import user_cache_path

    from bench.timing.sampling import QUICK, Plan
    from bench.timing.settings import Bench

    option = config.option
    config.stash[BENCH] = Bench(
        cache=folder_of(config, "cache") or user_cache_path("bench-harness", appauthor=False),
        data=folder_of(config, "data"),
        plan=QUICK if option.bench_quick else Plan.within(option.bench_budget, option.bench_interval),
        timeout_s=option.bench_timeout,
        baseline_python=_interpreter(option.bench_baseline_python),
        memory_bytes=None if option.bench_memory is None else int(option.bench_memory * 1e9),
        limits=Limits(option.bench_max_drop, option.bench_max_size),
        device_index=option.bench_device_index,
        explain=option.bench_explain,
        files=config.stash[FILES],
        pictures=config.rootpath / option.bench_reports / "out" / "pictures",
    )
    return config.stash[BENCH]


def folder_of(config: pytest.Config, name: str) -> Path | None:
    given = getattr(config.option, f"bench_{name}") or os.environ.get(f"BENCH_{name.upper()}")
    return Path(given).expanduser().absolute() if given else None


def _interpreter(given: str | None) -> str | None:
    """The interpreter that an option names, by path or as a command; links are kept, since they make it a venv's."""
    if not given:
        return None
    return shutil.which(given) or str(Path(given).expanduser().absolute())
