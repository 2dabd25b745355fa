"""Compressions of documents 3, 4 and 5 that take long: own scales, zeros, channels removed, clusters, distillation.

Most train, once, which takes minutes, and are kept in the cache: so pytest collects this file where it is named only.
"""

import os

import pytest

from bench import Grid

THREADS = min(2, os.cpu_count() or 1)
ENGINES = ["torch", "onnxruntime", "openvino", "executorch"]
SCALED = ["own_int8", "own_unfused_int8", "mixed_int8", "qat_int8", "qat_ends_int8", "sparse50_qat_int8"]
ZEROS = ["sparse30_fp32", "sparse50_fp32", "sparse70_fp32", "sparse70_held_fp32"]
REMOVED = ["channels30_fp32", "channels50_fp32", "channels70_fp32"]
OTHERS = ["sparse24_fp32", "sparse50_int8_static", "channels50_int8_static", "cluster32_fp32"]
ANEW = ["scratch_fp32", "kd_fp32", "review_fp32"]
SIMULATED = ["own_int16_simulated", "own_int4_simulated", "qat_int4_simulated", "qat_ends8_int4_simulated"]
RESNET20 = [
    Grid("resnet20", ["fp32", *SCALED], [*ENGINES, "torchscript", "inductor"]),
    Grid("resnet20", [*ZEROS, *REMOVED, *OTHERS], ENGINES),
    Grid("resnet20", [*ANEW, *SIMULATED], "torch"),
]
FACES = Grid(
    "scrfd_500m", ["fp32", "int8_static", "qat_int8", "sparse50_fp32", "channels30_fp32"], ENGINES, threads=THREADS
)
CLUSTERS = Grid("mobilenet_v2_10", ["fp32", "cluster32_fp32"], ENGINES, threads=THREADS)
STREETS = Grid(
    "fpn_resnext50", ["fp32", "int8_static", "qat_int8", "qat_ends_int8", *ZEROS, *REMOVED], ENGINES, threads=THREADS
)


@pytest.mark.grid(*RESNET20)
def test_resnet20(case, measure):
    record = measure(case)
    assert record.quality["top1"] > 0.5, "a network that is wrong more often than right was not measured but broken"


@pytest.mark.grid(FACES)
def test_faces(case, measure):
    record = measure(case)
    assert record.fidelity["agreement"] > 0.5, "faces that sure must be found again"


@pytest.mark.grid(CLUSTERS)
def test_mobilenet(case, measure):
    record = measure(case)
    assert record.quality["top1"] > 0.15, "no better than chance"


@pytest.mark.grid(STREETS)
def test_streets(case, measure):
    record = measure(case)
    assert record.fidelity["agreement"] > 0.5, "pixels that sure must keep their class"
