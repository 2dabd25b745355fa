"""The code that a thing is made by: the files that a module reaches by its imports, and the installed packages.

Nothing is imported to know it: imports are read from the source, those inside functions too, so that the harness and
its workers come to the same, before anything is built and after.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from bench.store import source_digest

INSTALLED = ("site-packages", "dist-packages")
STDLIB = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
HARNESS = Path(__file__).parents[1]
NEVER_BUILT_FROM = ("pytest", "_pytest")
NEVER_SHAPING = ("errors.py", "progress.py", "__init__.py")  # of the harness: what it says, not what it makes


@dataclass(frozen=True)
class Import:
    """One name that a source imports: `from <module> import <name>`, or with no name `import <module>`.

    level  the dots of a relative import; bound  the name that it has in the importing module.
    """

    level: int
    module: str
    name: str | None
    bound: str


@dataclass
class Code:
    """Files with the names of their modules, and the distributions of what they import from installed packages."""

    files: dict[Path, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)

    def digests(self) -> list[list[str]]:
        """The name of each module and the sha256 of its file, in the names' order: two modules may bear one name."""
        return sorted([name, source_digest(file)] for file, name in self.files.items())


def is_installed(file: Path | str) -> bool:
    """Whether a file belongs to Python, or to a package that pip installed: its version tells of it."""
    path = Path(file)
    return any(part in INSTALLED for part in path.parts) or str(path).startswith(STDLIB)


def is_users(file: Path | str) -> bool:
    """Whether a file is a user's own: neither installed nor of this harness, nor a name that is no place."""
    path = Path(file)
    return path.is_absolute() and not is_installed(path) and HARNESS not in path.parents


def distributions(top: str) -> list[str]:
    """The installed distributions that a top-level module may come from, none where none does."""
    return _same_named(top) or sorted(set(_distributions(tuple(sys.path)).get(top, ())))


@functools.cache
def _same_named(top: str) -> list[str]:
    try:
        importlib.metadata.version(top)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    return [top]


@functools.cache
def _distributions(path: tuple[str, ...]) -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def code_of(starts: Iterable[tuple[str, Path]]) -> Code:
    """What modules, each given by its name and its file, reach by their imports, and by those of what they import.

    Of an installed package its distribution counts, but the package that a start itself is of counts by its files.
    Of a package's own `__init__` only those imports are followed that bind what is taken from it: else each model of a
    package would be made by all of them. Of this harness the files that are named count, if they shape anything, and
    nothing that they import.
    """
    found = Code()
    waiting = list(starts)
    own = {name.partition(".")[0] for name, _ in waiting}
    followed: set[Path | tuple[str, str | None]] = set()
    while waiting:
        name, file = waiting.pop()
        if file in followed:
            continue
        followed.add(file)
        found.files[file] = name
        for imported in imports_of(file):
            _reach(imported, name, file, own, found, waiting, followed)
    return found


def _reach(
    imported: Import,
    importer: str,
    file: Path,
    own: set[str],
    found: Code,
    waiting: list[tuple[str, Path]],
    followed: set[Path | tuple[str, str | None]],
) -> None:
    """Add what one import brings: files to be read, or a distribution."""
    module = _absolute(imported, importer, file)
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names or top in NEVER_BUILT_FROM:
        return
    place = file_of(module)
    if top == HARNESS.name:
        for name in (module, f"{module}.{imported.name}"):
            inner = file_of(name)
            if inner is not None and inner.name not in NEVER_SHAPING:
                found.files[inner] = name
        return
    if top not in own and place is not None:
        found.packages.update(distributions(top) if is_installed(place) else _same_named(top))
        if is_installed(place):
            return
    for parent in _parents(module):
        package = file_of(parent)
        if package is not None and not _only_passes_on(package):
            found.files[package] = parent
    inner = None if imported.name is None else file_of(f"{module}.{imported.name}")
    if inner is not None:
        waiting.append((f"{module}.{imported.name}", inner))
        if place is not None and not _only_passes_on(place):
            found.files[place] = module
    elif place is not None:
        passing = [one for one in imports_of(place) if one.bound == imported.name and one.name is not None]
        if place.name == "__init__.py" and passing:
            if not _only_passes_on(place):
                found.files[place] = module
            if (module, imported.name) not in followed:
                followed.add((module, imported.name))
                for one in passing:
                    _reach(one, module, place, own, found, waiting, followed)
        else:
            waiting.append((module, place))


def _absolute(imported: Import, importer: str, file: Path) -> str:
    """The name of the module that an import names, without dots before it; empty where it leads out of the package."""
    if imported.level == 0:
        return imported.module
    parts = importer.split(".")
    above = len(parts) - imported.level + (file.name == "__init__.py")
    return ".".join([*parts[:above], *filter(None, [imported.module])]) if above > 0 else ""


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def file_of(module: str) -> Path | None:
    """The file of a module, as this process has imported it or else would; None where it has none."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is None:
        spec = _spec(module)
        loaded = spec.origin if spec is not None and spec.has_location else None
    return None if loaded is None else Path(str(loaded)).resolve()


def _spec(module: str) -> ModuleSpec | None:
    """What an import of the module would find; no package above it is imported for that."""
    parent, _, _ = module.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(module)
        known = sys.modules.get(parent)
        above = known.__spec__ if known is not None and known.__spec__ is not None else _spec(parent)
        places = None if above is None else above.submodule_search_locations
        if places is None:
            return None
        found = (finder.find_spec(module, list(places), None) for finder in sys.meta_path)
        return next((spec for spec in found if spec is not None), None)
    except (ImportError, ValueError, AttributeError):  # of a module that is half there, or was made by hand
        return None


def imports_of(file: Path) -> tuple[Import, ...]:
    """The imports in a source, wherever they stand in it, but for those that are for type checkers alone."""
    return _read(file)[0]


def _only_passes_on(file: Path) -> bool:
    """Whether a package's `__init__` does nothing but import names and state a version: it shapes nothing."""
    return file.name == "__init__.py" and _read(file)[1]


def _read(file: Path) -> tuple[tuple[Import, ...], bool]:
    if file.suffix != ".py" or not file.is_file():
        return (), False
    status = file.stat()
    return _read_as_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _read_as_of(file: Path, size: int, mtime_ns: int) -> tuple[tuple[Import, ...], bool]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # Python 2, or no Python: whoever imports it learns so
        return (), False
    return tuple(_imports(tree)), all(_passes_on(statement) for statement in tree.body)


def _imports(node: ast.AST) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(0, alias.name, None, alias.asname or alias.name.partition(".")[0])
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            name = None if alias.name == "*" else alias.name
            yield Import(node.level, node.module or "", name, alias.asname or alias.name)
    inner = node.orelse if isinstance(node, ast.If) and _for_checkers(node.test) else ast.iter_child_nodes(node)
    for child in inner:
        yield from _imports(child)


def _for_checkers(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _passes_on(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return bool(targets) and all(
        isinstance(target, ast.Name) and target.id in ("__all__", "__version__") for target in targets
    )


def functions_in(value: Any) -> Iterator[Callable[..., Any]]:
    """The Python functions that a value is or holds: itself, a partial's, a method's, a data class's fields'."""
    if isinstance(value, functools.partial):
        yield from functions_in(value.func)
        for part in (*value.args, *value.keywords.values()):
            yield from functions_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from functions_in(part)
    elif hasattr(value, "__wrapped__"):
        yield from functions_in(value.__wrapped__)
    elif hasattr(value, "__func__"):
        yield from functions_in(value.__func__)
    elif hasattr(value, "__code__"):
        yield value
    elif isinstance(value, type):
        for part in vars(value).values():
            if hasattr(part, "__code__"):
                yield part
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from functions_in(getattr(value, name))
    elif callable(value) and not isinstance(value, type) and hasattr(type(value), "__module__"):
        yield from functions_in(type(value))


def users_modules(value: Any) -> list[tuple[str, Path]]:
    """The user's modules, by name and file, that the functions of a value were written in; by the code's own file:
    two modules may bear one name.
    """
    found: dict[tuple[str, Path], None] = {}
    for function in functions_in(value):
        file = function.__code__.co_filename
        if is_users(file) and Path(file).is_file():
            found[(str(function.__module__), Path(file).resolve())] = None
    return list(found)
