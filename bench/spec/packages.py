"""Which packages are installed, and which extra of this one brings those that are not."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

HARNESS = "bench-harness"


def lacking(packages: Iterable[str]) -> str | None:
    """Give the reason why something that needs these distributions cannot run, None where all are installed."""
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"package {package} is not installed; pip install {_brought_by(package)}"
    return None


def _brought_by(package: str) -> str:
    """What to install to have a distribution: this package with the extra that names it, else the distribution."""
    try:
        required = importlib.metadata.requires(HARNESS) or []
    except importlib.metadata.PackageNotFoundError:  # this runs from its folder
        required = []
    for line in required:
        named = re.match(rf"{re.escape(package)}\b(?!-).*extra == [\"']([\w-]+)[\"']", line)
        if named:
            return f"'{HARNESS}[{named[1]}]'"
    return package
