"""Claims about gates: only what surely reaches them passes."""

import pytest

from bench import Case
from bench.records.gate import shortfalls
from bench.records.record import Record
from bench.spec.outcome import Speedup
from bench.statistics import Drop


def record(low=1.4, high=1.6, drop_low=-0.001, drop_high=0.009):
    return Record(
        Case("m", "int8", "toy"),
        "ok",
        speedup=Speedup(low=low, ratio=1.5, high=high),
        drop={"top1": Drop(drop_low, 0.004, drop_high)},
    )


def test_what_surely_reaches_both_passes():
    assert shortfalls(record(), 1.4, {"top1": 0.009}) == []
    assert shortfalls(record(), None, {}) == []


@pytest.mark.parametrize(
    ("speedup", "max_drop", "line"),
    [
        (1.7, {}, "speed-up 1.5 (95% interval 1.4 to 1.6) misses 1.7"),
        (1.5, {}, "ambiguous: speed-up 1.5 (95% interval 1.4 to 1.6) may or may not reach 1.5"),
        (None, {"top1": -0.002}, "drop of top1 0.004 (95% interval -0.001 to 0.009) misses -0.002"),
        (
            None,
            {"top1": 0.005},
            "ambiguous: drop of top1 0.004 (95% interval -0.001 to 0.009) may or may not reach 0.005",
        ),
        (None, {"ap": 0.01}, "ambiguous: no drop of 'ap' is measured for this task; there are: top1"),
    ],
)
def test_what_does_not_is_told_with_its_interval(speedup, max_drop, line):
    assert shortfalls(record(), speedup, max_drop) == [line]


def test_without_an_interval_or_a_speedup_it_is_ambiguous():
    assert shortfalls(record(low=None, high=None), 1.2, {}) == [
        "ambiguous: speed-up 1.5 has no interval (one launch), wanted 1.2"
    ]
    assert shortfalls(Record(Case("m", "int8", "toy"), "ok"), 1.2, {}) == [
        "ambiguous: there is no speed-up, wanted 1.2"
    ]
