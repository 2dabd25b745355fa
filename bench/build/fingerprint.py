"""A value's digest: 64 hexadecimal digits that are equal for equal values in any process.

Addresses, the order of sets and dictionaries, and the order of loading do not count. A function counts by its name, its
place in the source, its defaults, its closure, and the global values of its module that it names; its text is in its
file's digest. A network counts by its modules, each with every attribute; its functions count by their instructions,
wherever they are in the source.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import re
import sys
import types
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from bench.spec.code import is_users

if TYPE_CHECKING:
    import torch

PLAIN: tuple[type, ...] = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, PurePath)
PLAIN += (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID)
WRITTEN = ("dtype", "device", "Size", "layout", "memory_format")  # PyTorch's types whose text is their value
# attributes of a GraphModule that do not count: its code does
TRACES = ("_graph", "_code", "_tracer_cls", "_tracer_extras", "_graphmodule_cls_name", "_lineno_map", "_prologue_start")
DEEP = 100  # levels; a value nested deeper counts by its type


def fingerprint(value: Any, beside: Path | None = None) -> str:
    """The digest of a value, of all it holds and of all its functions close over.

    beside  a folder that paths are relative to, so that a moved project keeps its digests.
    """
    walk = _Walk(beside)
    walk.value(value)
    return walk.digest()


def structure(network: torch.nn.Module, beside: Path | None = None) -> str:
    """The digest of a network as it is built. `beside` as in `fingerprint`.

    It covers the modules' classes, names and attributes, and the names, shapes and types of parameters and buffers;
    values count only of tensors that are not in the state dict.
    """
    walk = _Walk(beside, executed=True)
    for part in network.modules():
        kept = [tensor for name, tensor in part._buffers.items() if name not in part._non_persistent_buffers_set]
        walk.in_state([tensor for tensor in (*part._parameters.values(), *kept) if tensor is not None])
    walk.value(network)
    return walk.digest()


def state(network: torch.nn.Module) -> str:
    """The digest of the names, shapes and types in a network's state dict, and of which names share a tensor."""
    named: list[list[Any]] = []
    first_names: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        facts: list[Any] = [name, type(tensor).__name__]
        if hasattr(tensor, "shape"):
            facts += [list(tensor.shape), str(tensor.dtype), first_names.setdefault(id(tensor), name)]
        named.append(facts)
    return fingerprint(named)


def modules_of(network: torch.nn.Module) -> set[str]:
    """The names of the Python modules that define the classes of a network's parts, and the functions they hold."""
    names = set()
    for part in network.modules():
        names |= {cls.__module__ for cls in type(part).__mro__ if cls is not object}
        held = (value for value in vars(part).values() if callable(value))
        names |= {name for value in held if isinstance(name := getattr(value, "__module__", None), str)}
    return names


class _Walk:
    """A pass over a value; an object met again counts by its number, so that circles end.

    executed  whether functions count by their instructions. These differ under pytest, which rewrites assertions, and
              in another Python: only a worker takes them, once for each network.
    """

    def __init__(self, beside: Path | None = None, executed: bool = False) -> None:
        self._beside, self._executed = beside, executed
        self._hash = hashlib.sha256()
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []
        self._state: set[int] = set()
        self._classes: set[type] = set()
        self._depth = 0

    def digest(self) -> str:
        """The digest of everything added so far."""
        return self._hash.hexdigest()

    def in_state(self, tensors: list[Any]) -> None:
        """Leave out the values of these tensors: they are the weights, which have their own digest."""
        self._alive += tensors
        self._state |= set(map(id, tensors))

    def put(self, *words: object) -> None:
        """Add words, each with its length, so that no word runs into the next."""
        for word in words:
            text = str(word).encode("utf-8", "surrogatepass")
            self._hash.update(b"%d:" % len(text) + text)

    def value(self, value: Any) -> None:
        """Add a value and what it holds."""
        if isinstance(value, enum.Enum):
            self.put("enum", _name(type(value)), value.name)
        elif isinstance(value, PLAIN):
            text = repr(value)
            if self._beside is not None and isinstance(value, (str, PurePath)):
                text = text.replace(str(self._beside), "<beside>")
            self.put(_name(type(value)), text)
        elif isinstance(value, re.Pattern):
            self.put("pattern", repr(value.pattern), value.flags)
        elif id(value) in self._met:
            self.put("again", self._met[id(value)])
        elif self._depth >= DEEP:
            self.put("deep", _name(type(value)))
        else:
            if not isinstance(value, (tuple, frozenset)):  # whether equal values share an object is chance
                self._met[id(value)] = len(self._met)
                self._alive.append(value)
            self._depth += 1
            self._within(value)
            self._depth -= 1

    def _within(self, value: Any) -> None:
        kind, torch = type(value), sys.modules.get("torch")
        self.put(_name(kind))
        if isinstance(value, Mapping):
            for key in sorted(value, key=fingerprint):
                self.value(key)
                self.value(value[key])
        elif isinstance(value, (set, frozenset)):
            self.put(*sorted(fingerprint(member) for member in value))
        elif isinstance(value, (list, tuple)):
            self.put(len(value))
            for item in value:
                self.value(item)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.value(part)
        elif isinstance(value, types.ModuleType):
            self.put(value.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.value(value.__func__)
            self.value(value.__self__)
        elif isinstance(value, (bytearray, memoryview)):
            self.put(bytes(value).hex())
        elif (kind.__module__ == "torch" and kind.__name__ in WRITTEN) or kind.__module__ == "torch._ops":
            self.put(str(value))
        elif torch is not None and isinstance(value, torch.Tensor):
            self._tensor(value)
        elif torch is not None and isinstance(value, torch.nn.Module):
            self._module(value)
        elif kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes"):
            self.put(value.dtype, value.shape)
            self.value(value.tolist() if value.dtype.hasobject else value.tobytes())
        elif hasattr(value, "__wrapped__"):
            self.value(value.__wrapped__)
        elif hasattr(value, "__qualname__"):
            self.put(getattr(value, "__module__", ""), value.__qualname__)
        else:
            self._class(kind)
            self._attributes(_held(value))

    def _attributes(self, held: Mapping[str, Any]) -> None:
        for name in sorted(held):
            self.put(name)
            self.value(held[name])

    def _class(self, cls: type) -> None:
        """Add a class: a user's by what it and its bases hold, any other by its name: its version is in the key."""
        for base in cls.__mro__:
            self.put(_name(base))
            if base in self._classes or not _is_users_class(base):
                continue
            self._classes.add(base)
            for name, member in sorted(vars(base).items()):
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, types.FunctionType) or (not name.startswith("__") and _is_plain(member)):
                    self.put(name)
                    self.value(function)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.put(function.__module__, function.__qualname__)
        if self._executed or code.co_filename.startswith("<"):  # made at run time: in no file's digest
            self._instructions(code, function.__doc__)
        else:
            self.put(code.co_firstlineno, _place(code))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.put(name)
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not bound yet
                self.put("unbound")
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        if is_users(code.co_filename):
            names = set(_names(code))
            self._named(function.__globals__, names)

    def _instructions(self, code: types.CodeType, docstring: str | None = None) -> None:
        self.put(code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars)
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                self._instructions(const)
            elif docstring is None or const != docstring:
                self.value(const)

    def _named(self, scope: Mapping[str, Any], names: set[str]) -> None:
        """Add the values that code names in a module: plain values, and the user's functions, classes and modules."""
        for name in sorted(names & scope.keys()):
            value = scope[name]
            if name.startswith(("__", "@")):  # pytest's rewriting adds names with an @
                continue
            if isinstance(value, types.ModuleType):
                file = getattr(value, "__file__", None)
                if file is not None and is_users(file) and id(value) not in self._met:
                    self._met[id(value)] = len(self._met)
                    self.put(name)
                    self._named(vars(value), names)
            elif _is_plain(value) or _is_users_function(value) or (isinstance(value, type) and _is_users_class(value)):
                self.put(name)
                self.value(value)

    def _tensor(self, tensor: torch.Tensor) -> None:
        self.put(tensor.dtype, tuple(tensor.shape), tensor.layout)
        if id(tensor) in self._state or tensor.is_meta:
            return
        import torch

        dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        dense = dense.dequantize() if dense.is_quantized else dense
        self.put(hashlib.sha256(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest())

    def _module(self, module: torch.nn.Module) -> None:
        import torch

        self._class(type(module))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                self.put(name)
                self.value(tensor)
        if isinstance(module, torch.jit.ScriptModule):
            if hasattr(module, "forward"):
                graph: Any = module.inlined_graph
                self.put(graph.str(False))  # without source paths, which are this machine's
        else:
            common = vars(torch.nn.Module()).keys() - {"training"}
            held = {name: value for name, value in vars(module).items() if name not in common}
            if isinstance(module, torch.fx.GraphModule):
                self.put(module.code)
                held = {name: value for name, value in held.items() if name not in (*TRACES, "meta")}
            self._attributes(held)
            self.put(module.training)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                self.value(list(hooks.values()))
        for name, child in module._modules.items():
            self.put(name)
            self.value(child)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _held(value: Any) -> dict[str, object]:
    """The attributes of an object, with those in slots."""
    slots: dict[str, object] = {}
    for cls in type(value).__mro__:
        names = vars(cls).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(value, name):
                slots[name] = getattr(value, name)
    slots.pop("__weakref__", None)
    return {**slots, **getattr(value, "__dict__", {})}


def _is_plain(value: Any, depth: int = 8) -> bool:
    """Whether a value holds only numbers, texts, paths and collections of these, or is an array or a tensor."""
    if isinstance(value, (*PLAIN, enum.Enum, re.Pattern)):
        return True
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(item, depth - 1) for item in value)
    if depth and isinstance(value, dict):
        return all(_is_plain(key, depth - 1) and _is_plain(item, depth - 1) for key, item in value.items())
    if depth and hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return _is_plain(_held(value), depth - 1)
    kind = type(value)
    return (kind.__module__, kind.__name__) in (("numpy", "ndarray"), ("torch", "Tensor"), ("torch", "dtype"))


def _is_users_function(value: Any) -> bool:
    while isinstance(value, functools.partial):
        value = value.func
    value = getattr(value, "__wrapped__", value)
    return isinstance(value, types.FunctionType) and is_users(value.__code__.co_filename)


def _is_users_class(cls: type) -> bool:
    """Whether a class is the user's, by the files of its functions: several files may share a module name."""
    files = [member.__code__.co_filename for member in vars(cls).values() if isinstance(member, types.FunctionType)]
    if not files:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return file is not None and is_users(file)
    return any(is_users(file) for file in files)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names (globals and attributes) that code, and the code defined in it, looks up."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _place(code: types.CodeType) -> Sequence[int | None]:
    """The lines and columns of a lambda's expression, as a line may hold several; empty for a function.

    A function's first line identifies it, and pytest's rewriting of assertions moves the rest.
    """
    places = [place for place in code.co_positions() if place[3]] if code.co_name == "<lambda>" else []
    return places[-1] if places else ()
