"""Which packages are installed, and which extra of the harness brings a missing package."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

HARNESS = "bench-harness"  # the name of this distribution
STANDS_IN = {"onnxruntime": "onnxruntime-gpu"}  # a distribution of the same modules, of which only one is installed


def distribution(package: str) -> importlib.metadata.Distribution:
    """A distribution, or the one that stands in for it. Raises PackageNotFoundError."""
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        if package not in STANDS_IN:
            raise
        return importlib.metadata.distribution(STANDS_IN[package])


def version(package: str) -> str:
    """The version of a distribution; after it the name of the one that stands in. Raises PackageNotFoundError."""
    found = distribution(package)
    name = str(found.metadata["Name"]).lower().replace("_", "-")
    return f"{found.version} ({name})" if name == STANDS_IN.get(package) else found.version


def lacking(packages: Iterable[str]) -> str | None:
    """Name the first of these distributions that is not installed, and how to install it; None where all are."""
    for package in packages:
        try:
            distribution(package)
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
