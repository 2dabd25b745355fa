"""Which packages are installed, and which extra of the harness brings a missing package."""

from __future__ import annotations

import importlib.metadata
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
    missing = [package for package in packages if not _installed(package)]
    return f"package {missing[0]} is not installed; pip install {_brought_by(missing)}" if missing else None


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _brought_by(missing: list[str]) -> str:
    """What pip is to install for the first of the distributions: the extra of the harness that names it, else itself.

    Of several extras it is the one that brings most of what is missing, then the one that brings least beside it, then
    the first.
    """
    bringing = {extra: names for extra, names in _extras().items() if missing[0] in names}
    if not bringing:
        return missing[0]
    best = min(bringing, key=lambda extra: (-len(bringing[extra] & set(missing)), len(bringing[extra])))
    return f"'{HARNESS}[{best}]'"


def _extras() -> dict[str, set[str]]:
    """The distributions that each extra of the harness names; none where the harness is not installed."""
    from packaging.requirements import Requirement

    try:
        harness = importlib.metadata.distribution(HARNESS)
    except importlib.metadata.PackageNotFoundError:
        return {}
    required = [Requirement(line) for line in harness.requires or []]
    optional = [
        (each.name, each.marker) for each in required if each.marker and not each.marker.evaluate({"extra": ""})
    ]
    return {
        extra: {name for name, marker in optional if marker.evaluate({"extra": extra})}
        for extra in harness.metadata.get_all("Provides-Extra") or []
    }
