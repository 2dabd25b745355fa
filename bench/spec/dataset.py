"""What a model is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.spec.registry import Registry


@dataclass(frozen=True)
class Samples:
    """One split of a data set: n inputs as the data set keeps them, and n targets.

    Each is an array, or a sequence where items differ in shape or are read singly.
    """

    inputs: Sequence[Any]
    targets: Sequence[Any]


@dataclass(frozen=True)
class Dataset:
    """A data set by name.

    load      (split, folder) -> Samples; split is "train" or "test", folder the user's data folder or None.
              Raises DataError where a file is damaged.
    files     folder -> the files that `load` reads there; raises DataError where they are missing. None for a data
              set that needs no folder.
    fetch     folder -> None: downloads the files there; None where there is nothing to download.
    packages  distributions whose version shapes the data.
    unjudged  why the data can show no quality: then only the likeness to FP32 is judged.
    """

    name: str
    about: str
    load: Callable[[str, Path | None], Samples]
    files: Callable[[Path], list[Path]] | None = None
    fetch: Callable[[Path], None] | None = None
    packages: tuple[str, ...] = ()
    unjudged: str | None = None


datasets: Registry[Dataset] = Registry("dataset")
