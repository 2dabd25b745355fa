"""Claims about typed values as JSON, and back."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.spec.typed import of_type, to_json


@dataclass
class Point:
    place: Path
    figure: float | None = None
    counts: tuple[int, ...] = ()


@pytest.mark.parametrize("figure", [0.1, 1e-300, float("inf"), None, 3])
def test_what_goes_out_comes_back(figure):
    import json

    point = Point(Path("a/b"), figure, (1, 2))
    assert of_type(Point, json.loads(to_json(point))) == point


def test_nan_stays_nan():
    import json

    assert math.isnan(of_type(Point, json.loads(to_json(Point(Path(), math.nan)))).figure)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.5), "0.5"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        ({"a": np.float64(1)}, '{"a": 1.0}'),
    ],
)
def test_numbers_of_numpy_are_numbers(value, text):
    assert to_json(value) == text


@pytest.mark.parametrize("value", [np.zeros(3), object(), {"a": object()}])
def test_what_is_no_plain_value_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        to_json(value)


@pytest.mark.parametrize("told", [{}, {"place": 3}, {"place": "a", "figure": "x"}, [], None])
def test_what_is_not_of_the_type_is_refused(told):
    with pytest.raises(ValueError, match=r"bject|Expected"):
        of_type(Point, told)
