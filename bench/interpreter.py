"""The interpreter that baselines run in: which libraries it has, and that they are its own."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BaselineError, BenchError
from bench.machine import LIBRARIES

if TYPE_CHECKING:
    from bench.case import Case
    from bench.session import Bench


@dataclass(frozen=True)
class Interpreter:
    """A Python and the libraries it finds.

    python    its version; prefix  the folder of its environment.
    versions  of the installed distributions, by their names; places  the folders that they are installed in.
    """

    python: str
    prefix: str
    versions: dict[str, str]
    places: dict[str, str]

    @classmethod
    def here(cls, packages: Iterable[str]) -> Interpreter:
        """This process's interpreter, with those of the distributions that it has."""
        versions, places = {}, {}
        for package in packages:
            try:
                distribution = importlib.metadata.distribution(package)
            except importlib.metadata.PackageNotFoundError:
                continue
            versions[package] = distribution.version
            places[package] = str(Path(str(distribution.locate_file(""))).resolve())
        return cls(platform.python_version(), str(Path(sys.prefix).resolve()), versions, places)

    def facts(self) -> dict[str, Any]:
        """What changes the figures of its baselines, as plain JSON."""
        return {"python": self.python, "versions": self.versions}


def examined(python: str, baselines: Iterable[Case], bench: Bench) -> Interpreter:
    """Look at the interpreter that shall run these baselines.

    Raises BaselineError where it cannot run the harness, or is of another environment but finds a baseline's engine in
    this one, as it does where PYTHONPATH names this one's folder: the comparison would be of one version with itself.
    """
    from bench.engines import engines
    from bench.session import worker_for

    cases = list(baselines)
    packages = sorted({*LIBRARIES, *(package for case in cases for package in engines.get(case.engine).packages)})
    here = Interpreter.here(packages)
    try:
        with worker_for(cases[0], bench, 1, python=python) as worker:
            there = Interpreter(**worker.ask("installed", bench.timeout_s, packages=packages))
    except (OSError, BenchError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BaselineError(f"the baseline's interpreter {python} cannot run the harness: {reason}") from error
    if there.prefix == here.prefix:
        return there
    for name in dict.fromkeys(case.engine for case in cases):
        found = [package for package in engines.get(name).packages if package in there.places]
        if found and all(there.places[package] == here.places.get(package) for package in found):
            raise BaselineError(
                f"the baseline's interpreter {python} finds {', '.join(found)} of the engine {name} in this "
                f"environment, {there.places[found[0]]}: this would compare it with itself; install them there, or "
                "clear PYTHONPATH"
            )
    return there
