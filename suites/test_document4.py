"""Document 4: a face detector, a small classifier and a vision transformer."""

import os

import pytest

from bench import Grid, engines_on

THREADS = min(2, os.cpu_count() or 1)
PRECISIONS = ["fp32", "int8_static"]
FACES = Grid(["scrfd_500m", "scrfd_500m_onnx"], PRECISIONS, engines_on("cpu"), threads=sorted({1, THREADS}))
CLASSIFIERS = Grid(["mobilenet_v2", "mobilenet_v2_10", "vit_b16"], PRECISIONS, engines_on("cpu"), threads=THREADS)
LEVELS = Grid(
    "vit_b16",
    "fp32",
    ["onnxruntime_unoptimized", "onnxruntime_basic", "onnxruntime_transformers"],
    threads=THREADS,
)
WEIGHTS = Grid("vit_b16", ["int8_weights", "int4_weights"], ["onnxruntime", "openvino"], threads=THREADS)


@pytest.mark.grid(FACES)
def test_faces(case, measure):
    record = measure(case)
    assert record.fidelity["agreement"] > 0.5, "faces that sure must be found again"


@pytest.mark.grid(CLASSIFIERS, LEVELS, WEIGHTS)
def test_classifier(case, measure):
    record = measure(case)
    assert record.quality["top1"] > 0.15, "no better than chance"
