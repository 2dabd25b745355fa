"""Typed values from any file: what is not of its type is absent, the rest is kept."""

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
    """A value in a file is not of the type asked for."""


def tolerant(kind: type[Value], told: Any) -> Value:
    """The mapping `told` as a dataclass.

    A field whose value is not of its type keeps its default. Dicts and tuples of dataclasses or texts lose the items
    that are not of their type; tuples of numbers are whole or absent. Raises Unfit where `told` is no mapping, or lacks
    a field that has no default.
    """
    value: Value = _fitting(kind, told)
    return value


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _fitting(kind: Any, value: Any) -> Any:
    import msgspec

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(args, value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value)
    if origin is tuple and isinstance(value, (list, tuple)) and args[0] not in (int, float):
        return tuple(_each(args[0], dict(enumerate(value))).values())
    if origin is dict and isinstance(value, dict):
        return _each(args[1], {name: item for name, item in value.items() if isinstance(name, str)})
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise Unfit(str(error)) from None


def _first_fitting(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return _fitting(kind, value)
        except Unfit:
            continue
    raise Unfit(f"{value!r} is none of {kinds}")


def _each(kind: Any, values: Mapping[Any, Any]) -> dict[Any, Any]:
    fitted = {}
    for name, value in values.items():
        try:
            fitted[name] = _fitting(kind, value)
        except Unfit:
            continue
    return fitted


def _dataclass(kind: type, fields: Any) -> Any:
    if not isinstance(fields, Mapping) or not fields:  # what was not measured is an empty object
        raise Unfit(f"no object with fields: {fields!r}")
    hints = _hints(kind)
    given = {name: fields[name] for name in hints if name in fields}
    fitted: dict[str, object] = {}
    for name, value in given.items():
        fitted |= _each(hints[name], {name: value})
    try:
        return kind(**fitted)
    except (TypeError, BenchError) as error:  # a field is lacking, or Case refuses its axes
        raise Unfit(str(error)) from None
