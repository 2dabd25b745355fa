"""Typed values as JSON, and back: what workers, journals and manifests say."""

from __future__ import annotations

import json
from typing import TypeVar

Value = TypeVar("Value")


def to_json(value: object) -> str:
    """Dataclasses and plain values as one line of JSON; NaN and infinity stay what they are, a path is its name."""
    import msgspec

    return json.dumps(msgspec.to_builtins(value, enc_hook=str))


def of_type(kind: type[Value], told: object) -> Value:
    """What JSON says, as a value of a type. Raises ValueError where it is none."""
    import msgspec

    value: Value = msgspec.convert(told, kind, dec_hook=lambda kind, value: kind(value))
    return value
