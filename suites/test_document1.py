"""Document 1: cartoon generators on the CPU and in the mobile runtime, the encoder in INT8 and all layers."""

import os

import pytest

from bench import Grid, engines_on

THREADS = min(2, os.cpu_count() or 1)
GRID = Grid(
    model=["whitebox", "cartoongan"],
    precision=["fp32", "int8_encoder", "int8_static"],
    engine=engines_on("cpu"),
    batch=1,
    threads=THREADS,
)
GPU = Grid(
    model=["whitebox", "cartoongan"],
    precision=["fp32", "fp16"],
    engine=["torch", "inductor_graph"],
    threads=THREADS,
    device="cuda",
    baseline={"engine": "torch", "precision": "fp32", "device": "cpu"},
)


@pytest.mark.grid(GRID)
def test_cartoon(case, measure):
    record = measure(case)
    assert record.fidelity["degradation"]["ssim"] > 0.5, "a picture that far from FP32's was not made by this generator"


@pytest.mark.grid(GPU)
def test_cartoon_on_gpu(case, measure):
    test_cartoon(case, measure)
