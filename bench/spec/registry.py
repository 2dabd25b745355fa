"""A plain table for everything that has a name: models, recipes, engines, tasks, datasets."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from bench.errors import UnknownMember

Member = TypeVar("Member")

_loaded: set[str] = set()  # the files that `Origin.load` has imported
_places = itertools.count()  # the order of registration over all tables


@dataclass(frozen=True)
class Origin:
    """The module that registered a member, so that a worker process can import it too.

    module  its name; file  its path; root  the folder from which `module` can be imported.
    """

    module: str
    file: str
    root: str

    def load(self) -> None:
        """Import the module once: by its name where that finds the same file, else from the file.

        Several files may be modules of the same name, such as `conftest`: each is loaded, and the last keeps the name,
        as in pytest.
        """
        if self.file in _loaded or _is_of(self.module, self.file):
            return
        if self.root not in sys.path:
            sys.path.insert(0, self.root)
        _loaded.add(self.file)
        try:
            spec = None if self.module in sys.modules else importlib.util.find_spec(self.module)
        except ImportError:  # pytest's importlib mode gives module names whose packages do not exist
            spec = None
        if spec is not None and spec.origin is not None and Path(spec.origin).samefile(self.file):
            importlib.import_module(self.module)
            return
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        if spec is None or spec.loader is None:
            raise UnknownMember(f"cannot import {self.file}, which registers a member")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        spec.loader.exec_module(module)

    def files(self) -> list[str]:
        """This file and, recursively, the modules of its project that it imports: they may shape the members."""
        from bench.spec.code import code_of

        return sorted(str(file) for file in code_of([(self.module, Path(self.file))]).files)

    @classmethod
    def of(cls, module: str) -> Origin:
        """The origin of an imported module, by its name."""
        file = Path(str(sys.modules[module].__file__)).resolve()
        parents = len(module.split(".")) + (file.name == "__init__.py")
        return cls(module, str(file), str(file.parents[parents - 1]))


def _is_of(module: str, file: str) -> bool:
    """Whether the module with this name was imported from the file."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    return loaded is not None and Path(loaded).resolve() == Path(file)


class Registry(Generic[Member]):
    """Members by name, in the order of their registration.

    A member may be given as "module:attribute", which is imported when first asked for. Other packages add members by
    the entry-point group `bench.<kind>s`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, Member | str | importlib.metadata.EntryPoint] = {}
        self._origins: dict[str, Origin] = {}
        self._outside: dict[str, Origin] = {}
        self._order: dict[Origin, int] = {}
        self._outsiders_known = False

    def add(self, name: str, member: Member | str, module: str | None = None) -> None:
        """Register a member; `module` names the module that a worker must import to have it too."""
        self._members[name] = member
        if module is not None:
            self._origins[name] = Origin.of(module)
            self._order.setdefault(self._origins[name], next(_places))

    def get(self, name: str) -> Member:
        """Return the member of this name. Raises UnknownMember, which lists the registered names."""
        self._ask_outsiders()
        try:
            member = self._members[name]
        except KeyError:
            names = ", ".join(self._members) or "none"
            raise UnknownMember(f"no {self.kind} is named {name!r}; registered: {names}") from None
        if isinstance(member, str):
            module, _, attribute = member.partition(":")
            member = getattr(importlib.import_module(module), attribute)
        elif isinstance(member, importlib.metadata.EntryPoint):
            entry, member = member, member.load()
            self._outside[name] = Origin.of(entry.module)
        self._members[name] = member
        return cast(Member, member)

    def names(self) -> tuple[str, ...]:
        """All names, in the order of their registration."""
        self._ask_outsiders()
        return tuple(self._members)

    def origins(self) -> dict[str, Origin]:
        """The modules that a worker must import to have the same members, by member name."""
        return dict(self._origins)

    def origin(self, name: str) -> Origin | None:
        """The module that registered a member, or its package's entry point; None for the harness's own members."""
        return self._origins.get(name) or self._outside.get(name)

    def order(self) -> dict[Origin, int]:
        """When each module that a worker must import registered its first member, counted over all tables.

        The order matters: a module may build on another's members, and of two with the same name the last keeps it.
        """
        needed = set(self._origins.values())
        return {origin: place for origin, place in self._order.items() if origin in needed}

    def _ask_outsiders(self) -> None:
        if not self._outsiders_known:
            self._outsiders_known = True
            for entry in importlib.metadata.entry_points(group=f"bench.{self.kind}s"):
                self._members.setdefault(entry.name, entry)
