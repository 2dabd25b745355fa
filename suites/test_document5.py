"""Document 5: convolutions as img2col and a product, forward and backward, and segmentation of streets."""

import os

import pytest

from bench import Grid, engines_on

THREADS = min(2, os.cpu_count() or 1)
OF_OWN = {"model": "fpn_resnext50", "engine": "torch", "precision": "fp32"}
KERNELS = (1, 3, 5, 7, 9, 11)
STACKS = [
    Grid(
        model=[f"{kind}_k{kernel}{step}" for kind in ("conv", "img2col")],
        precision="fp32",
        engine="torch",
        batch=[1, 2, 4, 8, 16, 32, 64],
        threads=THREADS,
        baseline={"model": f"conv_k{kernel}{step}"},
    )
    for kernel in KERNELS
    for step in ("", "_step")
]
SEGMENTATION = Grid("fpn_resnext50", ["fp32", "bf16", "int8_static"], engines_on("cpu"), batch=[1, 4], threads=THREADS)
OWN = [
    Grid("fpn_resnext50_img2col", precision, engines, threads=THREADS, baseline=OF_OWN)
    for precision, engines in (("fp32", ["torch"]), ("qat_int8", ["torch", "onnxruntime", "openvino"]))
]
GPU = Grid(
    "fpn_resnext50",
    ["fp32", "tf32", "fp16_autocast", "fp16"],
    ["torch", "inductor_graph"],
    batch=[1, 4],
    threads=THREADS,
    device="cuda",
    baseline={"engine": "torch", "precision": "fp32", "device": "cpu"},
)


@pytest.mark.grid(*STACKS)
def test_convolution(case, measure):
    record = measure(case)
    assert record.fidelity["max_error"] < 1e-4


@pytest.mark.grid(SEGMENTATION, *OWN)
def test_segmentation(case, measure):
    record = measure(case)
    assert record.fidelity["agreement"] > 0.5, "pixels that sure must keep their class"


@pytest.mark.grid(GPU)
def test_segmentation_on_gpu(case, measure):
    test_segmentation(case, measure)
