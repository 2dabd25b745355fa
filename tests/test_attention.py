"""Claims about attention told by linear layers: it gives what PyTorch's own gives, and all of it is open to FX."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bench.engines import engines
from bench.engines.attention import closed_attention, with_open_attention
from bench.engines.engine import session_of
from bench.spec.recipe import recipes
from bench.statistics import sqnr_db

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:Support for mismatched")

BATCH, LENGTH, SIZE, HEADS = 3, 5, 8, 2
LATER = torch.triu(torch.ones(LENGTH, LENGTH), 1).bool()
PADDED = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [3], [4]])


class Calling(nn.Module):
    def __init__(self, box, call):
        super().__init__()
        self.box, self.call = box, call

    def forward(self, x):
        return self.call(self.box, x)


def sequences(batch_first):
    x = torch.randn(BATCH, LENGTH, SIZE)
    return x if batch_first else x.transpose(0, 1).contiguous()


def assert_opened(box, call, batch_first=True):
    """The opened module gives the same within 1e-5, also as FX traces it, and nothing in it is closed."""
    torch.manual_seed(0)
    for parameter in box.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    network, x = Calling(box, call).eval().requires_grad_(False), sequences(batch_first)
    found = with_open_attention(network, x.numpy())
    assert not closed_attention(found)
    torch.testing.assert_close(found(x), network(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.fx.symbolic_trace(found)(x), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average_attn_weights": False},
        {"need_weights": False, "attn_mask": LATER},
        {"attn_mask": torch.randn(LENGTH, LENGTH), "key_padding_mask": PADDED},
        {"attn_mask": torch.randn(BATCH * HEADS, LENGTH, LENGTH), "need_weights": False},
        {"attn_mask": LATER, "is_causal": True, "need_weights": False},
    ],
)
def test_attention_to_itself_is_one_linear_layer_a_product_and_another(options, batch_first):
    box = nn.MultiheadAttention(SIZE, HEADS, batch_first=batch_first, dropout=0.5)
    assert_opened(
        box, lambda box, x: [one for one in box(x, x, x, **options) if one is not None], batch_first=batch_first
    )


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 4, "vdim": 6}])
def test_attention_to_others_is_three_linear_layers_a_product_and_another(options):
    box = nn.MultiheadAttention(SIZE, HEADS, batch_first=True, **options)
    assert_opened(box, lambda box, x: box(x, 2 * x[..., : box.kdim], x[..., : box.vdim] + 1)[0])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", nn.SiLU()])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_encoders_and_decoders_are_told_by_their_parts(norm_first, activation, bias):
    options = {"norm_first": norm_first, "activation": activation, "bias": bias, "batch_first": True}
    encoder = nn.TransformerEncoderLayer(SIZE, HEADS, 16, **options)
    decoder = nn.TransformerDecoderLayer(SIZE, HEADS, 16, **options)
    assert_opened(encoder, lambda box, x: box(x, src_mask=LATER))
    assert_opened(encoder, lambda box, x: box(x, src_key_padding_mask=PADDED))
    assert_opened(decoder, lambda box, x: box(x, 2 * x, LATER, memory_key_padding_mask=PADDED))
    assert_opened(nn.TransformerEncoder(encoder, 2, nn.LayerNorm(SIZE)), lambda box, x: box(x, LATER))
    plain = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
    assert_opened(plain, lambda box, x: box(x, src_key_padding_mask=PADDED))
    assert_opened(nn.TransformerDecoder(decoder, 2), lambda box, x: box(x, 2 * x, tgt_mask=LATER))
    whole = nn.Transformer(SIZE, HEADS, 1, 1, 16, **options)
    assert_opened(whole, lambda box, x: box(x, 2 * x, tgt_mask=LATER))


def test_the_names_of_the_parts_stay():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(SIZE, HEADS, 16, batch_first=True), 2).eval()
    found = dict(with_open_attention(nn.Sequential(encoder), sequences(True).numpy()).named_modules())
    for name in ("linear1", "linear2", "norm1", "self_attn.out_proj", "self_attn.in_proj"):
        assert f"0.layers.1.{name}" in found


class Derived(nn.TransformerEncoderLayer):
    pass


@pytest.mark.parametrize(
    ("box", "call"),
    [
        (nn.MultiheadAttention(SIZE, HEADS, add_zero_attn=True), lambda box, x: box(x, x, x)[0]),
        (nn.MultiheadAttention(SIZE, HEADS, add_bias_kv=True), lambda box, x: box(x, x, x)[0]),
        (nn.MultiheadAttention(SIZE, HEADS), lambda box, x: box(x[0], x[0], x[0])[0]),
        (nn.MultiheadAttention(SIZE, HEADS), lambda box, x: box(x, x, x)[0] + box(x, 2 * x, x)[0]),
        (Derived(SIZE, HEADS, 16), lambda box, x: box(x)),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(SIZE, HEADS, 16, batch_first=True), 1),
            lambda box, x: box(x, src_key_padding_mask=PADDED),  # its fast path gives zeros where there is padding
        ),
    ],
)
def test_what_is_not_told_exactly_is_left(box, call):
    network = Calling(box, call).eval()
    assert with_open_attention(network, sequences(True).numpy()) is network


class Masked(nn.Module):
    """Attention of word numbers (n, 12) under a mask of the words that are 0, written in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.words, self.out = way, nn.Embedding(40, 32), nn.Linear(32, 4)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, words):
        x, padding = self.words(words), words == 0
        if self.way == "layer":
            return self.out(self.layer(x, src_key_padding_mask=padding)[:, 0])
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5
        mask = padding.unsqueeze(1)
        if self.way == "fill":
            scores = scores.masked_fill(mask, -math.inf)
        elif self.way == "where":
            scores = torch.where(mask, torch.tensor(-1e9), scores)
        else:
            scores = scores + mask.float() * -10000.0
        return self.out((scores.softmax(-1) @ self.value(x))[:, 0])


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # ONNX Runtime's scale of a mask, unused
@pytest.mark.parametrize("way", ["layer", "fill", "where", "product"])
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_static_int8_leaves_out_what_a_mask_leaves_out(engine, way, tmp_path):
    torch.manual_seed(0)
    network = Masked(way).eval().requires_grad_(False)
    words = np.random.default_rng(0).integers(1, 40, (32, 12))
    words[np.arange(12) >= np.random.default_rng(1).integers(3, 9, 32)[:, None]] = 0
    known, builder, recipe = network(torch.from_numpy(words)).numpy(), engines.get(engine), recipes.get("int8_static")
    builder.build(network, recipe, words, tmp_path)
    session = session_of(builder.load(tmp_path, recipe, lambda: Masked(way).eval(), words[:1], 1))
    outputs = np.concatenate([session.predict(words[place : place + 1]) for place in range(32)])
    assert sqnr_db(outputs, known) > 17
