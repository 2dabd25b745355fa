"""Document 3: ResNet20 at lower precisions, on every engine."""

import pytest

from bench import Grid, engines

GRID = Grid(
    model="resnet20",
    precision=["fp32", "bf16", "int8_static", "int8_dynamic"],
    engine=engines.names(),
    batch=1,
    threads=1,
)


@pytest.mark.grid(GRID)
def test_resnet20(case, measure):
    record = measure(case)
    assert record.quality["top1"] > 0.5, "a network that is wrong more often than right was not measured but broken"
