"""What shapes a build and is in no import statement: opened files, and modules imported by a computed name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.spec.code import HARNESS, code_of, distributions, file_of, is_installed, is_users
from bench.store import Used

_active: list[set[str]] = []
_written: list[set[str]] = []
_listening = False


def note(file: Path | str) -> None:
    """Add a file to what shapes the build under way; for files that libraries open without Python."""
    _add(_active, file)


def _add(places: list[set[str]], file: Path | str) -> None:
    for files in places:
        files.add(str(Path(file).absolute()))


@contextmanager
def following(used: Used, places: Sequence[Path], known: set[Path], but: Path) -> Iterator[None]:
    """Add to `used` the files that are read below `places`, and the user's modules that are imported, from anywhere.

    A module adds what it imports too.

    known  files that the key covers already.
    but    a folder that does not count: the cache's own.

    Left out are files that are gone at the end or were written meanwhile, such as a library's counters; hidden files;
    and files of this harness and of installed packages.
    """
    _listen()
    opened, written = set[str](), set[str]()
    before, import_module = set(sys.modules), importlib.import_module

    def noted(name: str, package: str | None = None) -> Any:
        module = import_module(name, package)
        imported.add(module.__name__)
        return module

    imported: set[str] = set()
    _active.append(opened)
    _written.append(written)
    importlib.import_module = noted
    try:
        yield
    finally:
        importlib.import_module = import_module
        _active.pop()
        _written.pop()
    for name in sorted(imported | (set(sys.modules) - before)):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and is_users(file):
            add_module(used, name, Path(file))
    folders = [place.resolve() for place in places]
    for path in map(Path, opened - written):
        file = path.resolve()
        if file.suffix != ".pyc" and is_users(file) and file.is_file():
            inside = [file.relative_to(folder) for folder in folders if folder in file.parents]
            if but.resolve() not in file.parents and any(not _hidden(place) for place in inside):
                used.files.add(file)
    used.files -= known


def add_module(used: Used, name: str, file: Path) -> None:
    """Add a user's module and what it reaches by its imports."""
    code = code_of([(name, file.resolve())])
    used.files.update(code.files)
    used.packages |= code.packages


def add_modules(used: Used, names: set[str], known: set[Path]) -> None:
    """Add the modules that a network's parts come from: a user's by its files, an installed one by its version."""
    for name in sorted(names):
        top, file = name.partition(".")[0], file_of(name)
        if file is None or top == HARNESS.name or top in sys.stdlib_module_names:
            continue
        if is_installed(file):
            used.packages.update(distributions(top))
        else:
            add_module(used, name, file)
    used.files -= known


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _listen() -> None:
    """Note opened files from now on, by a single audit hook: Python cannot remove a hook."""
    global _listening
    if not _listening:
        _listening = True
        sys.addaudithook(_heard)


def _heard(event: str, facts: tuple[Any, ...]) -> None:
    if event == "open" and _active and isinstance(facts[0], (str, bytes, os.PathLike)):
        writes = facts[2] & (os.O_WRONLY | os.O_RDWR) if isinstance(facts[2], int) else 0
        _add(_written if writes else _active, os.fsdecode(facts[0]))
