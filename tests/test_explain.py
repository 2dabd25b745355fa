"""Claims about what a call executed: shares by number format, and the sentence on them."""

import numpy as np
import pytest

from bench import engines, recipes
from bench.engines.operations import CONVERSION, FLOAT, INT8, LAYOUT, Operation, explained, format_of


@pytest.mark.parametrize(
    ("kind", "int8", "wanted"),
    [
        ("QLinearConv", True, INT8),
        ("Conv", False, FLOAT),
        ("QuantizeLinear", False, CONVERSION),
        ("aten::quantize_per_tensor", False, CONVERSION),
        ("DequantizeLinear", True, CONVERSION),
        ("ReorderInput", False, LAYOUT),
        ("quantized::conv2d_relu", True, INT8),
        ("Transpose", True, LAYOUT),
        ("LayerNormalization", False, FLOAT),
    ],
)
def test_an_operation_is_of_one_kind(kind, int8, wanted):
    assert format_of(kind, int8) == wanted


def test_the_sentence_names_what_did_not_become_int8():
    found = explained(
        [
            Operation("Conv", INT8, 0.5, kernel="brgconv_avx512_I8"),
            Operation("Softmax", FLOAT, 0.2),
            Operation("LayerNormalization", FLOAT, 0.1),
            Operation("LayerNormalization", FLOAT, 0.1),
            Operation("QuantizeLinear", CONVERSION, 0.1),
        ],
        lowered=True,
    )
    assert found.time == pytest.approx({INT8: 0.5, FLOAT: 0.4, CONVERSION: 0.1, LAYOUT: 0.0})
    assert found.count_int8 == pytest.approx(1 / 5)
    assert found.diagnosis == (
        "40% of the time in floating point: Softmax, LayerNormalization; 10% in quantize/dequantize; 50% in INT8; "
        "most by brgconv_avx512_I8"
    )
    assert [one.kind for one in found.operations] == ["Conv", "Softmax", "LayerNormalization", "QuantizeLinear"]


def test_nothing_executed_is_nothing_explained():
    assert explained([], lowered=True) is None


@pytest.mark.parametrize("engine", ["torch", "torchscript", "onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8_static"])
def test_an_engine_tells_whether_it_computed_in_int8(engine, precision, tmp_path):
    import torch
    from torch import nn

    def network():
        layers = (nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        return nn.Sequential(*layers).eval()

    torch.manual_seed(0)
    samples = np.random.default_rng(0).normal(size=(8, 8, 32, 32)).astype(np.float32)
    recipe = recipes.get(precision)
    engines.get(engine).build(network(), recipe, samples, tmp_path)
    told = engines.get(engine).operations(tmp_path, recipe, network, samples[:2], 1)
    found = explained(told, precision != "fp32")
    assert sum(found.time.values()) == pytest.approx(1)
    assert (found.time[INT8] > 0) == (precision != "fp32")
