"""Claims about what of a network an artefact holds in which number format, by counting."""

import numpy as np
import pytest

from bench import engines, recipes
from bench.build import macs_per_item
from bench.lowered import Layer, lowered, promised, with_reasons
from bench.measure import contradiction
from bench.recipe import Recipe

COUNTED = ("torch", "torchscript", "onnxruntime", "onnxruntime_mobile", "openvino")


def mixed():
    """Convolutions of three kinds, an LSTM and a linear layer, of inputs (n, 3, 8, 8)."""
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.up = nn.ConvTranspose2d(8, 4, 2, 2)
            self.lstm, self.head = nn.LSTM(16, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x):
            x = torch.relu(self.up(torch.relu(self.depthwise(torch.relu(self.first(x))))))
            return self.head(self.lstm(x.flatten(2).transpose(1, 2).reshape(-1, 64, 16))[0][:, -1])

    torch.manual_seed(0)
    return Mixed().eval().requires_grad_(False)


MACS = {
    "first": 8 * 8 * 8 * 27,
    "depthwise": 8 * 8 * 8 * 9,
    "up": 8 * 8 * 8 * 4 * 4,
    "lstm": 64 * 4 * 6 * (16 + 6),
    "head": 6 * 5,
}
WEIGHTS = 8 * 27 + 8 * 9 + 8 * 4 * 4 + 4 * 6 * (16 + 6) + 6 * 5


def encoder():
    """PyTorch's own transformer layer and a head, of inputs (n, 12, 16): 41520 multiply-accumulates."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.layer(x).mean(1))

    torch.manual_seed(0)
    return Encoder().eval().requires_grad_(False)


def samples(*shape):
    return np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)


def layers(engine, precision, network, inputs, folder):
    recipe = recipes.get(precision)
    engines.get(engine).build(network(), recipe, inputs, folder)
    return engines.get(engine).layers(folder, recipe, network, inputs[:2], 1)


def recurrent(kind):
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = getattr(nn, kind)(8, 50, batch_first=True), nn.Linear(50, 1)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    return Recurrent().eval()


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_are_multiplications(kind, gates):
    assert macs_per_item(recurrent(kind), samples(16, 8)[:1]) == 16 * gates * 50 * (8 + 50) + 50


def test_the_fast_path_of_an_encoder_layer_hides_no_multiplication():
    assert macs_per_item(encoder(), samples(12, 16)[:1]) == 12 * (4 * 16 * 16 + 2 * 16 * 64) + 2 * 12 * 12 * 16 + 16 * 3


def test_counting_leaves_the_input_as_it_is():
    import torch

    class InPlace(torch.nn.Module):
        def forward(self, x):
            return x.mul_(2.0) @ torch.ones(4, 3)

    inputs = samples(4)[:1]
    known = inputs.copy()
    assert macs_per_item(InPlace(), inputs) == 12
    np.testing.assert_array_equal(inputs, known)


@pytest.mark.parametrize("engine", COUNTED)
def test_every_multiplication_and_weight_of_fp32_is_counted_in_fp32(engine, tmp_path):
    found = layers(engine, "fp32", mixed, samples(3, 8, 8), tmp_path)
    assert sum(layer.macs for layer in found) == sum(MACS.values())
    assert sum(layer.weights for layer in found) == WEIGHTS
    assert {(layer.format, layer.stored) for layer in found} == {("fp32", "fp32")}
    assert {layer.kind for layer in found} == {"conv2d", "depthwise", "transposed", "lstm", "linear"}


@pytest.mark.parametrize(
    ("engine", "left"),
    [
        ("torch", {"lstm": "torch.ao's static INT8 leaves recurrent layers"}),
        ("torchscript", {"lstm": "torch.ao's static INT8 leaves recurrent layers"}),
        ("onnxruntime", {"lstm": "ONNX Runtime's static quantizer leaves recurrent layers"}),
        ("onnxruntime_mobile", {"lstm": "ONNX Runtime's static quantizer leaves recurrent layers"}),
        ("openvino", {}),
    ],
)
def test_what_static_int8_leaves_is_named_with_its_share_and_reason(engine, left, tmp_path):
    found = lowered(layers(engine, "int8_static", mixed, samples(3, 8, 8), tmp_path), "int8")
    assert {layer["kind"]: layer["reason"] for layer in found["left"]} == left
    stayed = sum(MACS[name] for name in left)
    assert found["macs"]["int8"] == pytest.approx(1 - stayed / sum(MACS.values()))
    assert sum(layer["macs"] for layer in found["left"]) == pytest.approx(stayed / sum(MACS.values()))
