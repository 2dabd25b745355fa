"""Typed values as JSON, and back: what workers, journals and manifests say."""

from __future__ import annotations

import json
import numbers
from pathlib import PurePath
from typing import TypeVar

Value = TypeVar("Value")


def to_json(value: object) -> str:
    """Dataclasses and plain values as one line of JSON: NaN and infinity stay as they are, a path is its name,
    numpy's numbers are Python's. Raises TypeError for other objects.
    """
    import msgspec

    return json.dumps(msgspec.to_builtins(value, enc_hook=_plain))


def _plain(value: object) -> object:
    """A path's name, or the Python number of one of numpy's. Raises TypeError for anything else."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, numbers.Number) or type(value).__module__ == "numpy":
        return value.item()  # type: ignore[attr-defined]
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")


def of_type(kind: type[Value], told: object) -> Value:
    """What JSON says, as a value of a type. Raises ValueError where it is none."""
    import msgspec

    value: Value = msgspec.convert(told, kind, dec_hook=lambda kind, value: kind(value))
    return value
