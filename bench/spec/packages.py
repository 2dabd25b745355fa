"""Which packages are installed, and which extra of the harness brings a missing package."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

HARNESS = "bench-harness"  # the name of this distribution


def lacking(packages: Iterable[str]) -> str | None:
    """Name the first of these distributions that is not installed, and how to install it; None where all are."""
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"package {package} is not installed; pip install {_brought_by(package)}"
    return None


def _brought_by(package: str) -> str:
    """What pip is to install for a distribution: the harness with the extra that names it, else the distribution."""
    try:
        required = importlib.metadata.requires(HARNESS) or []
    except importlib.metadata.PackageNotFoundError:  # the harness runs from its folder, uninstalled
        required = []
    for line in required:
        match = re.match(rf"{re.escape(package)}\b(?!-).*extra == [\"']([\w-]+)[\"']", line)
        if match:
            return f"'{HARNESS}[{match[1]}]'"
    return package
