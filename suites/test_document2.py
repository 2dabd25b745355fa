"""Document 2: restoration of pictures, by tiles, FP32 against dynamic and static INT8."""

import os

import pytest

from bench import Grid, engines_on

THREADS = min(2, os.cpu_count() or 1)
GRID = Grid(
    model=["fsrcnn_x2", "fsrcnn_x3", "fsrcnn_x4", "dncnn_25", "scunet"],
    precision=["fp32", "int8_dynamic", "int8_static"],
    engine=engines_on("cpu"),
    batch=1,
    threads=THREADS,
)
GPU = Grid(
    model=["fsrcnn_x2", "fsrcnn_x3", "fsrcnn_x4", "dncnn_25", "scunet"],
    precision="fp16",
    engine=["torch", "inductor_graph"],
    threads=THREADS,
    device="cuda",
    baseline={"engine": "torch", "precision": "fp32", "device": "cpu"},
)


@pytest.mark.grid(GRID)
def test_restoration(case, measure):
    record = measure(case)
    assert record.fidelity["degradation"]["ssim"] > 0.5, "a picture that far from FP32's was not made by this network"


@pytest.mark.grid(GPU)
def test_restoration_on_gpu(case, measure):
    test_restoration(case, measure)
