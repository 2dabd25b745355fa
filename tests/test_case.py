"""Claims about cases and grids."""

import itertools

import numpy as np
import pytest

from bench import Case, Grid
from bench.errors import BadCase


def test_an_id_names_every_axis_and_leaves_the_cpu_out():
    assert Case("resnet20", "int8_static", "onnxruntime", 1, 2).id == "resnet20-int8_static-onnxruntime-b1-t2"
    assert Case("resnet20", "fp32", "torch", device="cuda").id == "resnet20-fp32-torch-b1-t1-cuda"


@pytest.mark.parametrize(
    "axes",
    [
        {"batch": 0},
        {"threads": -1},
        {"batch": 1.0},
        {"batch": True},
        {"model": ""},
        {"batch": 1_000_001},
        {"engine": 3},
    ],
)
def test_an_axis_that_cannot_be_is_named_with_its_value(axes):
    given = {"model": "m", "precision": "p", "engine": "e"} | axes
    (axis,) = axes
    with pytest.raises(BadCase, match=f"'{axis}' must be .*{axes[axis]}"):
        Case(**given)


def test_a_grid_is_the_product_of_its_axes_in_the_order_given():
    grid = Grid("m", ["fp32", "bf16"], ["torch", "openvino"], batch=(1, 8), threads=2)
    points = [(case.precision, case.engine, case.batch, case.threads) for case in grid]
    assert points == list(itertools.product(["fp32", "bf16"], ["torch", "openvino"], [1, 8], [2]))


def test_a_grid_that_cannot_be_is_refused_where_it_is_written():
    with pytest.raises(BadCase, match="'batch'"):
        Grid("m", "fp32", "torch", batch=[1, 0])


def test_a_grid_with_an_empty_axis_is_refused_by_its_name():
    with pytest.raises(BadCase, match="at least one value of its axis 'engine'"):
        Grid("m", "fp32", [])


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ({"baseline": {"colour": "red"}}, "a baseline has no axis colour; there are model, "),
        ({"baseline": {"batch": 0}}, "'batch' must be a whole number"),
        ({"batch": 2.0}, "'batch' must be a whole number >= 1, 1000000 at most: 2.0"),
        ({"batch": "8"}, "'batch' must be a whole number >= 1, 1000000 at most: '8'"),
        ({"device": None}, "'device' must be a name, not None"),
    ],
)
def test_a_grid_says_which_of_its_axes_cannot_be(axes, line):
    with pytest.raises(BadCase, match=line):
        Grid("m", "fp32", "torch", **axes)


def test_numbers_of_numpy_are_numbers_of_a_grid():
    (first, second) = Grid("m", "fp32", "torch", batch=2 ** np.arange(2))
    assert [type(first.batch), first.batch, second.batch] == [int, 1, 2]


def test_a_choice_of_models_may_leave_none():
    assert list(Grid("a", "fp32", "torch").chosen(model=("b",))) == []


def test_a_choice_takes_the_place_of_an_axis_but_only_narrows_the_models():
    grid = Grid(["a", "b"], "fp32", "torch", batch=1)
    assert [case.id for case in grid.chosen(model=("b", "c"), batch=(4, 16), engine=None)] == [
        "b-fp32-torch-b4-t1",
        "b-fp32-torch-b16-t1",
    ]
