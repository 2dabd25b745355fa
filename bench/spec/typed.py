"""Typed values to JSON and back, for workers, journals and manifests."""

from __future__ import annotations

import json
import numbers
from pathlib import PurePath
from typing import TypeVar

Value = TypeVar("Value")


def to_json(value: object) -> str:
    """Dataclasses and plain values as a single line of JSON.

    NaN and infinity stay as they are, paths become text, numpy's numbers Python's. Raises TypeError for other objects.
    """
    import msgspec

    return json.dumps(msgspec.to_builtins(value, enc_hook=_plain))


def _plain(value: object) -> object:
    """A path as text, a numpy number as Python's. Raises TypeError for anything else."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, numbers.Number) or type(value).__module__ == "numpy":
        return value.item()  # type: ignore[attr-defined]
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")


def of_type(kind: type[Value], told: object) -> Value:
    """Parsed JSON as a value of type `kind`. Raises ValueError where it does not fit."""
    import msgspec

    value: Value = msgspec.convert(told, kind, dec_hook=lambda kind, value: kind(value))
    return value
