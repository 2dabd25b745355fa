"""The interpreter that baselines run in: which libraries it has, and that they are its own."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.spec.packages import distribution, version


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
                there = distribution(package)
            except importlib.metadata.PackageNotFoundError:
                continue
            versions[package] = version(package)
            places[package] = str(Path(str(there.locate_file(""))).resolve())
        return cls(platform.python_version(), str(Path(sys.prefix).resolve()), versions, places)

    def facts(self) -> dict[str, str | dict[str, str]]:
        """What changes the figures of its baselines, as plain JSON."""
        return {"python": self.python, "versions": self.versions}
