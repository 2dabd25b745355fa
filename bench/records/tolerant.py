"""Typed values of what a file says: what is not of its type is absent, the rest is kept."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from bench.errors import BenchError

Value = TypeVar("Value")


class Unfit(BenchError):
    """What a file says is not of the type that is asked for."""


def tolerant(kind: type[Value], told: Any) -> Value:
    """A dataclass of what a mapping says: a field whose value is not of its type keeps its default, dicts and tuples of
    dataclasses or texts lose the items that are not, tuples of numbers are whole or absent.

    Raises Unfit where it is no mapping, or lacks a field that has no default.
    """
    value: Value = _fitting(kind, told)
    return value


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _fitting(kind: Any, told: Any) -> Any:
    import msgspec

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(args, told)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, told)
    if origin is tuple and isinstance(told, (list, tuple)) and args[0] not in (int, float):
        return tuple(_each(args[0], dict(enumerate(told))).values())
    if origin is dict and isinstance(told, dict):
        return _each(args[1], {name: value for name, value in told.items() if isinstance(name, str)})
    try:
        return msgspec.convert(told, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise Unfit(str(error)) from None


def _first_fitting(kinds: tuple[Any, ...], told: Any) -> Any:
    for kind in kinds:
        try:
            return _fitting(kind, told)
        except Unfit:
            continue
    raise Unfit(f"{told!r} is none of {kinds}")


def _each(kind: Any, told: Mapping[Any, Any]) -> dict[Any, Any]:
    found = {}
    for name, value in told.items():
        try:
            found[name] = _fitting(kind, value)
        except Unfit:
            continue
    return found


def _dataclass(kind: type, told: Any) -> Any:
    if not isinstance(told, Mapping) or not told:  # what was not measured is an empty object
        raise Unfit(f"no object with fields: {told!r}")
    hints = _hints(kind)
    known = {name: told[name] for name in hints if name in told}
    found: dict[str, object] = {}
    for name, value in known.items():
        found |= _each(hints[name], {name: value})
    try:
        return kind(**found)
    except (TypeError, BenchError) as error:  # a field is lacking, or none that can be, as of a case
        raise Unfit(str(error)) from None
