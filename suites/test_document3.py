"""Document 3: ResNet20 at lower precisions, on every engine."""

import pytest

from bench import Grid, engines_on

GRID = Grid(
    model="resnet20",
    precision=["fp32", "bf16", "int8_static", "int8_dynamic"],
    engine=engines_on("cpu"),
    batch=1,
    threads=1,
)
SIMULATED = Grid("resnet20", ["int4_simulated", "int2_simulated"], ["torch", "torchscript"])


@pytest.mark.grid(GRID)
def test_resnet20(case, measure):
    record = measure(case)
    assert record.quality["top1"] > 0.5, "a network that is wrong more often than right was not measured but broken"


@pytest.mark.grid(SIMULATED)
def test_resnet20_simulated(case, measure):
    record = measure(case)
    assert record.quality["top1"] < 1.0, "fewer levels cannot but cost answers"
