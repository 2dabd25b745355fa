"""Parsers of option values, for pytest's options and the command line's.

Each function returns the value of a text, or raises argparse's error with one line that says what is wanted.
"""

from __future__ import annotations

import argparse
import math

from bench.spec.case import AXES, COUNTED_AXES, MOST, Axes
from bench.spec.limits import Size

UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "B": 1.0}  # bytes; the longer names first
LARGEST = 1e6  # seconds or gigabytes; the system's clocks and limits refuse a hundred times that


def names(text: str) -> tuple[str, ...]:
    """The names in a text such as `torch,openvino`."""
    words = tuple(name.strip() for name in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"wants names with commas between, not {text!r}")
    return words


def counts(text: str) -> tuple[int, ...]:
    """The whole numbers in a text such as `1,32`, each from 1 to a million."""
    numbers = tuple(_count(word) for word in text.split(","))
    if not all(numbers):
        raise argparse.ArgumentTypeError(f"wants whole numbers >= 1 with commas between, not {text!r}")
    if max(numbers) > MOST:
        raise argparse.ArgumentTypeError(f"wants whole numbers of {MOST} at most, not {text!r}")
    return numbers


def count(text: str) -> int:
    """A whole number from 1 to a million."""
    number = _count(text)
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"wants a whole number from 1 to {MOST}, not {text!r}")
    return number


def natural(text: str) -> int:
    """A whole number >= 0."""
    if text.strip() != "0" and not _count(text):
        raise argparse.ArgumentTypeError(f"wants a whole number >= 0, not {text!r}")
    return _count(text)


def _count(text: str) -> int:
    """A whole number in ASCII digits, 0 for any other text; 20 digits are read, enough to be above a million."""
    word = text.strip()
    return int(word[:20]) if word.isascii() and word.isdigit() else 0


def axes(text: str) -> Axes:
    """`engine=torch,precision=fp32` as values by axis."""
    pairs = [(axis.strip(), value.strip()) for axis, _, value in (pair.partition("=") for pair in text.split(","))]
    values: Axes = {axis: _count(value) if axis in COUNTED_AXES else value for axis, value in pairs}
    well_formed = len(values) == len(pairs) and set(values) <= set(AXES)
    if not well_formed or not all(values.values()) or any(int(values.get(axis, 1)) > MOST for axis in COUNTED_AXES):
        raise argparse.ArgumentTypeError(
            f"wants AXIS=VALUE with commas between, not {text!r}; axes, each once: {', '.join(AXES)}"
        )
    return values


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    """`images=1x3x640x640,state=2x1x128` as shapes by input; `sr=` is a number without axes."""
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    wanted = {name.strip(): tuple(map(_count, shape.split("x"))) if shape else () for name, _, shape in pairs}
    if len(wanted) != len(pairs) or not all(wanted) or not all(all(shape) for shape in wanted.values()):
        raise argparse.ArgumentTypeError(
            f"wants INPUT=SHAPE with commas between, each input once, such as images=1x3x640x640, not {text!r}"
        )
    return wanted


def limits(text: str) -> dict[str, float]:
    """`speedup=1.5,top1=0.01` as limits by name."""
    pairs = [(name.strip(), _number(value)) for name, _, value in (pair.partition("=") for pair in text.split(","))]
    wanted = dict(pairs)
    if len(wanted) != len(pairs) or not all(wanted) or not all(map(math.isfinite, wanted.values())):
        raise argparse.ArgumentTypeError(f"wants NAME=LIMIT with commas between, each name once, not {text!r}")
    if wanted.get("speedup", 1.0) <= 0:
        raise argparse.ArgumentTypeError(f"wants a speedup above 0, not {text!r}")
    return wanted


def positive(text: str) -> float:
    """A number above 0, at most a million."""
    number = _number(text)
    if not 0 < number <= LARGEST:
        raise argparse.ArgumentTypeError(f"wants a number above 0, {LARGEST:.0f} at most, not {text!r}")
    return number


def percent(text: str) -> float:
    """`0.5%`, or 0.5, as a share: 0.005."""
    share = _number(text.strip().removesuffix("%")) / 100
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"wants a percentage above 0 and below 100, not {text!r}")
    return share


def size(text: str) -> Size:
    """`60KB`, `1.5MB` or `20%` as a size; a KB is 1,000 bytes."""
    word = text.strip().upper()
    if word.endswith("%"):
        return Size(share=percent(text))
    unit = next((unit for unit in UNITS if word.endswith(unit)), "")
    number = _number(word.removesuffix(unit)) * UNITS.get(unit, math.nan)
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"wants a size such as 60KB, 1.5MB or 20% of FP32's, not {text!r}")
    return Size(bytes=int(number))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
