"""Document 1: cartoon generators on the CPU and in the mobile runtime, the encoder in INT8 and all layers."""

import os

import pytest

from bench import Grid, engines

GRID = Grid(
    model=["whitebox", "cartoongan"],
    precision=["fp32", "int8_encoder", "int8_static"],
    engine=engines.names(),
    batch=1,
    threads=min(2, os.cpu_count() or 1),
)


@pytest.mark.grid(GRID)
def test_cartoon(case, measure):
    record = measure(case)
    assert record.fidelity["degradation"]["ssim"] > 0.5, "a picture that far from FP32's was not made by this generator"
