"""The code behind a thing: the files that a module reaches by its imports, and the installed packages.

Nothing is imported for this. Imports are read from the source, inside functions too, so that the harness and its
workers get the same result, before and after a build.
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

from bench.spec.digests import source_digest

INSTALLED = ("site-packages", "dist-packages")  # folders that pip installs to
STDLIB = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
HARNESS = Path(__file__).parents[1]
NEVER_BUILT_FROM = ("pytest", "_pytest")  # they run tests, and shape no artefact
NEVER_SHAPING = (
    "errors.py",
    "progress.py",
    "__init__.py",
)  # of the harness: they shape what it says, not what it makes


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
    """Files with their module names, and the distributions of the installed packages that they import."""

    files: dict[Path, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)

    def digests(self) -> list[list[str]]:
        """[name, sha256 of the file] of each module, sorted; a list, since two modules may have the same name."""
        return sorted([name, source_digest(file)] for file, name in self.files.items())


def is_installed(file: Path | str) -> bool:
    """Whether a file belongs to Python or to a package that pip installed: its version stands for it."""
    path = Path(file)
    return any(part in INSTALLED for part in path.parts) or str(path).startswith(STDLIB)


def is_users(file: Path | str) -> bool:
    """Whether a file is a user's own: an absolute path that is neither installed nor of this harness."""
    path = Path(file)
    return path.is_absolute() and not is_installed(path) and HARNESS not in path.parents


def distributions(top: str) -> list[str]:
    """The installed distributions that a top-level module may come from; empty where there are none."""
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
    """The files and distributions that modules, given as (name, file), reach by their imports, recursively.

    An installed package counts by its distribution, but the package of a start counts by its files.
    In a package's own `__init__` only the imports that bind the imported name are followed: otherwise each model of a
    package would depend on all of them. Of this harness the imported files count, if they shape anything; what these
    import does not.
    """
    code = Code()
    waiting = list(starts)
    start_packages = {name.partition(".")[0] for name, _ in waiting}
    followed: set[Path | tuple[str, str | None]] = set()
    while waiting:
        name, file = waiting.pop()
        if file in followed:
            continue
        followed.add(file)
        code.files[file] = name
        for imported in imports_of(file):
            _reach(imported, name, file, start_packages, code, waiting, followed)
    return code


def _reach(
    imported: Import,
    importer: str,
    file: Path,
    start_packages: set[str],
    code: Code,
    waiting: list[tuple[str, Path]],
    followed: set[Path | tuple[str, str | None]],
) -> None:
    """Add what an import brings: files to be read, or a distribution."""
    module = _absolute(imported, importer, file)
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names or top in NEVER_BUILT_FROM:
        return
    place = file_of(module)
    if top == HARNESS.name:
        for name in (module, f"{module}.{imported.name}"):
            inner = file_of(name)
            if inner is not None and inner.name not in NEVER_SHAPING:
                code.files[inner] = name
        return
    if top not in start_packages and place is not None:
        code.packages.update(distributions(top) if is_installed(place) else _same_named(top))
        if is_installed(place):
            return
    for parent in _parents(module):
        package = file_of(parent)
        if package is not None and not _only_passes_on(package):
            code.files[package] = parent
    inner = None if imported.name is None else file_of(f"{module}.{imported.name}")
    if inner is not None:
        waiting.append((f"{module}.{imported.name}", inner))
        if place is not None and not _only_passes_on(place):
            code.files[place] = module
    elif place is not None:
        binding = [entry for entry in imports_of(place) if entry.bound == imported.name and entry.name is not None]
        if place.name == "__init__.py" and binding:
            if not _only_passes_on(place):
                code.files[place] = module
            if (module, imported.name) not in followed:
                followed.add((module, imported.name))
                for passed_on in binding:
                    _reach(passed_on, module, place, start_packages, code, waiting, followed)
        else:
            waiting.append((module, place))


def _absolute(imported: Import, importer: str, file: Path) -> str:
    """The absolute name of the module that an import names; empty where its dots lead out of the package."""
    if imported.level == 0:
        return imported.module
    parts = importer.split(".")
    above = len(parts) - imported.level + (file.name == "__init__.py")
    return ".".join([*parts[:above], *filter(None, [imported.module])]) if above > 0 else ""


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def file_of(module: str) -> Path | None:
    """The file of a module, as this process has imported it or would import it; None where it has none."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is None:
        spec = _spec(module)
        loaded = spec.origin if spec is not None and spec.has_location else None
    return None if loaded is None else Path(str(loaded)).resolve()


def _spec(module: str) -> ModuleSpec | None:
    """The spec that an import of the module would use; the packages above it are not imported for this."""
    parent, _, _ = module.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(module)
        package = sys.modules.get(parent)
        parent_spec = package.__spec__ if package is not None and package.__spec__ is not None else _spec(parent)
        places = None if parent_spec is None else parent_spec.submodule_search_locations
        if places is None:
            return None
        specs = (finder.find_spec(module, list(places), None) for finder in sys.meta_path)
        return next((spec for spec in specs if spec is not None), None)
    except (ImportError, ValueError, AttributeError):  # a module that is half imported, or was made by hand
        return None


def imports_of(file: Path) -> tuple[Import, ...]:
    """All imports in a source, inside functions too, except those for type checkers alone."""
    return _read(file)[0]


def _only_passes_on(file: Path) -> bool:
    """Whether a package's `__init__` only imports names and states a version: it shapes nothing."""
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
    except (SyntaxError, ValueError):  # Python 2, or no Python: its import will say so
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
    """The Python functions that a value is or holds, such as in a partial, a method or a data class's fields."""
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
    """(name, file) of each user's module in which a value's functions were written.

    The file is that of the function's code, since two modules may have the same name.
    """
    modules: dict[tuple[str, Path], None] = {}
    for function in functions_in(value):
        file = function.__code__.co_filename
        if is_users(file) and Path(file).is_file():
            modules[(str(function.__module__), Path(file).resolve())] = None
    return list(modules)
