"""Claims about what of a network an artefact holds in which number format, by counting."""

import os

import counting
import numpy as np
import pytest
from networks import closed_attention, encoder

from bench import engines, recipes
from bench.build.reference import macs_per_item
from bench.engines.contradiction import contradiction
from bench.engines.lowered import Layer, lowered, promised, with_reasons
from bench.errors import Unsupported
from bench.spec.outcome import Likeness
from bench.spec.recipe import Recipe

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


def test_what_a_users_own_operator_multiplies_is_counted():
    import torch

    @torch.library.custom_op("bench_tests::scaled_product", mutates_args=())
    def scaled_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (x.round() @ weight) * 2

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, 3))

        def forward(self, x):
            return scaled_product(x, self.weight)

    assert macs_per_item(Own().eval().requires_grad_(False), samples(4)[:1]) == 12


@pytest.mark.parametrize(("step", "passes"), [("", 1), ("_step", 3)])
def test_img2col_multiplies_as_often_as_the_convolutions_it_stands_for(step, passes):
    import fixtures.models  # noqa: F401 - registers them
    from bench import models

    inputs = samples(16, 32, 32)[:1]
    for kind in ("conv", "img2col"):
        found = macs_per_item(models.get(f"{kind}_k3{step}").network().eval(), inputs)
        assert found == passes * 3 * 32 * 32 * 16 * 16 * 9  # backward: to the weights, and to the input


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
        ("openvino", {"lstm": "OpenVINO's INT8 kernel for an LSTM errs"}),
    ],
)
def test_what_static_int8_leaves_is_named_with_its_share_and_reason(engine, left, tmp_path):
    found = lowered(layers(engine, "int8_static", mixed, samples(3, 8, 8), tmp_path), "int8")
    assert {layer.kind: layer.reason for layer in found.left} == left
    stayed = sum(MACS[name] for name in left)
    assert found.macs["int8"] == pytest.approx(1 - stayed / sum(MACS.values()))
    assert sum(layer.macs for layer in found.left) == pytest.approx(stayed / sum(MACS.values()))


@pytest.mark.parametrize("precision", ["int8_static", "int8_dynamic"])
def test_torchs_int8_of_an_encoder_layer_is_all_but_products_of_activations(precision, tmp_path):
    found = lowered(layers("torch", precision, encoder, samples(12, 16), tmp_path), "int8")
    assert found.macs["int8"] == pytest.approx(1 - 2 * 12 * 12 * 16 / 41520)
    assert {layer.kind for layer in found.left} == {"matmul"}
    if precision == "int8_static":
        reasons = {layer.reason for layer in found.left}
        assert reasons == {"torch.ao has no INT8 kernel for a product of two activations"}


def test_openvinos_grouped_transposed_convolution_stays_and_says_so(tmp_path):
    from torch import nn

    def network():
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2, 2, groups=2)).eval().requires_grad_(False)

    left = lowered(layers("openvino", "int8_static", network, samples(3, 8, 8), tmp_path), "int8").left
    assert [(layer.name, layer.reason) for layer in left] == [
        ("1", "OpenVINO's CPU plugin has no INT8 kernel for grouped transposed convolutions")
    ]


def test_openvinos_attention_run_as_two_products_keeps_their_formats_apart():
    """What AVX2 executes: the product before the softmax in INT8, the one behind it, which bears the name, in FP32."""
    import openvino
    from openvino import opset13 as op

    from bench.engines.openvino_count import layers_of

    def read():
        return [op.parameter([1, 4, 16, 8], np.float32) for _ in range(3)]

    def executed(product, name, kernel):
        product.set_friendly_name(name)
        told = {"layerType": "MatMul", "primitiveType": kernel, "originalLayersNames": name}
        for key, value in told.items():
            product.rt_info[key] = value
        return product

    inputs = read()
    attention = op.scaled_dot_product_attention(*inputs)
    attention.set_friendly_name("attention")
    q, k, v = read()
    scores = executed(op.matmul(q, k, False, True), "MatMul_3662", "jit_gemm_i8")
    values = executed(op.matmul(op.softmax(scores, 3), v, False, False), "attention", "brgemm_avx2_f32")
    counted = layers_of(openvino.Model([attention], inputs), openvino.Model([values], [q, k, v]), 1)
    assert [(layer.name, layer.format) for layer in counted] == [
        ("attention (queries by keys)", "int8"),
        ("attention (weights by values)", "fp32"),
    ]
    assert {layer.macs for layer in counted} == {4 * 16 * 16 * 8}


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own import uses what Python and torch will drop
@pytest.mark.parametrize("engine", ["torch", "inductor", "openvino", "executorch"])
def test_dynamic_int8_of_convolutions_alone_is_unsupported(engine, tmp_path):
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval().requires_grad_(False)
    with pytest.raises(Unsupported, match=r"at run time|dynamic scales"):
        engines.get(engine).build(network, recipes.get("int8_dynamic"), samples(3, 8, 8), tmp_path)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("engine", ["torch", "torchscript"])
def test_what_resizes_quantized_numbers_is_counted_through(engine, mode, tmp_path):
    from torch import nn

    def network():
        up = nn.Upsample(size=(16, 16), mode=mode)
        return nn.Sequential(nn.Conv2d(3, 4, 3), up, nn.Conv2d(4, 2, 1)).eval().requires_grad_(False)

    found = lowered(layers(engine, "int8_static", network, samples(3, 8, 8), tmp_path), "int8")
    assert found.macs == {"int8": 1.0}
    assert found.layers == 2


def test_what_fx_takes_for_one_operation_stays_and_says_so(tmp_path):
    found = layers("torch", "int8_static", closed_attention, samples(12, 16), tmp_path)
    assert [layer.name for layer in found if layer.format == "int8"] == ["head"]
    assert sum(layer.macs for layer in found if layer.format == "fp32") > 12 * 4 * 16 * 16
    inside = {layer.reason for layer in lowered(found, "int8").left}
    assert inside == {"inside MultiheadAttention, which FX takes for one operation"}


DYNAMIC = pytest.mark.skipif(
    bool(engines.get("openvino").supports(recipes.get("int8_dynamic"), "cpu")), reason="this CPU has no VNNI"
)


def two_linear_layers(width=64):
    """Linear layers of `width` and 16 inputs."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 4)).eval().requires_grad_(False)


@DYNAMIC
def test_openvinos_layers_are_in_int8_where_their_activations_are_quantized_at_run_time(tmp_path):
    found = layers("openvino", "int8_dynamic", two_linear_layers, samples(64), tmp_path)
    assert [(layer.name, layer.format, layer.stored) for layer in found] == [
        ("0", "int8", "int8"),
        ("2", "fp32", "int8"),
    ]
    assert "fewer than 32" in found[1].reason
    assert [layer.macs for layer in found] == [64 * 16, 16 * 4]


@DYNAMIC
def test_openvinos_profile_names_int8_where_activations_are_quantized_at_run_time(tmp_path):
    engine, recipe = engines.get("openvino"), recipes.get("int8_dynamic")
    engine.build(two_linear_layers(), recipe, samples(64), tmp_path)
    executed = engine.operations(tmp_path, recipe, two_linear_layers, samples(64)[:2], 1)
    products = [operation.format for operation in executed if operation.kind.startswith("FullyConnected")]
    assert products == ["int8", "float"]


@DYNAMIC
def test_narrow_layers_alone_are_no_dynamic_int8_on_openvino(tmp_path):
    with pytest.raises(Unsupported, match="linear layers of 32 inputs and more, in none of this network"):
        layers("openvino", "int8_dynamic", lambda: two_linear_layers(31), samples(31), tmp_path)


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own import uses what Python and torch will drop
def test_executorch_quantizes_an_encoder_layer_but_for_dynamic_products_of_activations(tmp_path):
    found = lowered(layers("executorch", "int8_dynamic", encoder, samples(12, 16), tmp_path), "int8")
    assert found.macs["int8"] == pytest.approx(1 - 2 * 12 * 12 * 16 / 41520)
    assert {layer.kind for layer in found.left} == {"matmul"}


def test_onnxruntime_quantizes_an_encoder_layer_but_for_dynamic_products_of_activations(tmp_path):
    found = lowered(layers("onnxruntime", "int8_dynamic", encoder, samples(12, 16), tmp_path), "int8")
    assert found.macs["int8"] == pytest.approx(1 - 2 * 12 * 12 * 16 / 41520)
    assert {layer.kind for layer in found.left} == {"matmul"}


@pytest.mark.parametrize("precision", ["fp32", "int8_static", "int8_dynamic", "int8_weights"])
def test_onnxruntime_names_linear_layers_on_sequences_by_their_modules(precision, tmp_path):
    from torch import nn

    def network():
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32, bias=False)).eval()

    assert [layer.name for layer in layers("onnxruntime", precision, network, samples(5, 64), tmp_path)] == ["0", "2"]


def test_bfloat16_is_counted_as_such(tmp_path):
    found = lowered(layers("torch", "bf16", encoder, samples(12, 16), tmp_path), "bf16")
    assert found.macs == {"bf16": 1.0}
    assert found.weights == {"bf16": 1.0}


def test_a_network_that_pytorch_cannot_compute_in_bfloat16_is_unsupported(tmp_path):
    import torch
    from torch import nn

    class Mixing(nn.Module):
        def forward(self, x):
            return x @ torch.eye(16)

    with pytest.raises(Unsupported, match="in bfloat16 here: "):
        engines.get("torch").build(Mixing().eval(), recipes.get("bf16"), samples(12, 16), tmp_path)


def test_openvinos_bfloat16_under_fp32_is_found_by_counting(tmp_path, monkeypatch):
    from bench.engines import openvino
    from bench.machine.isa import cpu_flags

    if cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16")):
        pytest.skip("this CPU has no bfloat16")
    engine, recipe = engines.get("openvino"), recipes.get("fp32")
    inputs = samples(3, 8, 8)
    engine.build(mixed(), recipe, inputs, tmp_path)
    compiled = openvino._compiled
    monkeypatch.setattr(openvino, "_compiled", lambda model, _, *more: compiled(model, recipes.get("bf16"), *more))
    found = lowered(engine.layers(tmp_path, recipe, mixed, inputs[:2], 1), "fp32")
    assert found.macs["bf16"] > 0.5
    assert "in bf16 of the multiply-accumulates" in contradiction(recipe, Likeness(120.0), found)


def test_dynamic_int8_of_recurrent_layers_in_torch_is_counted():
    import torch
    from torch.ao.quantization import quantize_dynamic

    from bench.engines.engine import quiet
    from bench.engines.torch_count import layers_of, products_of
    from bench.engines.torch_modules import predictor

    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        with quiet():
            network = quantize_dynamic(recurrent(kind), {getattr(torch.nn, kind), torch.nn.Linear})
        predict, inputs = predictor(network), samples(16, 8)
        found = layers_of(products_of(lambda predict=predict, inputs=inputs: predict(inputs)), len(inputs))
        assert {layer.name: (layer.format, layer.stored, layer.macs) for layer in found} == {
            "rnn": ("int8", "int8", 16 * gates * 50 * (8 + 50)),
            "out": ("int8", "int8", 50),
        }


LAYERS = [
    Layer("encoder.conv", "conv2d", "int8", "int8", 600, 60),
    Layer("decoder.conv", "conv2d", "fp32", "fp32", 300, 30),
    Layer("head", "linear", "fp32", "fp32", 100, 10),
]


def test_shares_are_by_multiplications_and_by_weights():
    found = lowered(LAYERS, "int8", promised=0.6)
    assert found.macs == {"int8": 0.6, "fp32": 0.4}
    assert found.weights == {"int8": 0.6, "fp32": 0.4}
    assert (found.wanted, found.promised, found.layers) == ("int8", 0.6, 3)
    assert [(layer.name, layer.macs) for layer in found.left] == [("decoder.conv", 0.3), ("head", 0.1)]
    assert lowered([], "int8") is None


def test_a_recipe_promises_all_or_its_part_or_what_dynamic_int8_covers():
    static = Recipe("int8", "int8", "static")
    assert promised(LAYERS, static, ("linear",)) == 1.0
    assert promised(LAYERS, Recipe("part", "int8", "static", only=("encoder",)), ()) == 0.6
    assert promised(LAYERS, Recipe("auto", "int8", "static", left=("head",)), ()) == 0.9
    assert promised(LAYERS, Recipe("dynamic", "int8", "dynamic"), ("linear",)) == 0.1


def test_what_stays_has_the_reason_that_is_known():
    part = Recipe("part", "int8", "static", only=("encoder", "head"), left=("head",))
    reasons = {layer.name: layer.reason for layer in with_reasons(LAYERS, part, (), {"conv2d": "no kernel"})}
    assert reasons == {
        "encoder.conv": None,
        "decoder.conv": "not in the part that the recipe lowers: encoder, head",
        "head": "left in FP32 by the recipe, to keep the quality",
    }
    whole = {
        layer.name: layer.reason for layer in with_reasons(LAYERS, Recipe("r", "int8", "static"), (), {"conv2d": "x"})
    }
    assert whole == {"encoder.conv": None, "decoder.conv": "x", "head": None}


INT8, FP32, BF16 = recipes.get("int8_static"), recipes.get("fp32"), recipes.get("bf16")


def counted(format, wanted):
    return lowered([Layer("head", "linear", format, format, 5, 5, "a closed box")], wanted)


@pytest.mark.parametrize("recipe", [INT8, BF16])
def test_nothing_lowered_is_a_failure_that_names_what_stayed(recipe):
    reason = contradiction(recipe, Likeness(30.0), counted("fp32", recipe.number_format))
    assert reason == f"nothing was computed in {recipe.number_format}: left are head (a closed box)"


def test_what_was_lowered_by_the_count_is_not_failed_for_equal_outputs():
    assert contradiction(INT8, Likeness(float("inf")), counted("int8", "int8")) is None
    assert contradiction(INT8, Likeness(95.0), counted("int8", "int8")) is None


def test_fp32_must_be_computed_in_fp32_alone():
    assert contradiction(FP32, Likeness(120.0), counted("fp32", "fp32")) is None
    reason = contradiction(FP32, Likeness(70.0), counted("bf16", "fp32"))
    assert reason == "not all was computed in FP32: 100.0% in bf16 of the multiply-accumulates"


def test_whole_numbers_are_judged_by_agreement():
    assert contradiction(INT8, Likeness(float("inf"), whole=True)) is None
    assert contradiction(FP32, Likeness(40.0, whole=True, agreement=0.999)) is None
    assert "50.0% of the outputs" in contradiction(FP32, Likeness(40.0, whole=True, agreement=0.5))


def test_outputs_that_are_no_numbers_fail():
    for figure in (float("nan"), 40.0):
        for recipe in (FP32, INT8, BF16):
            assert contradiction(recipe, Likeness(figure, finite=False)) == "the outputs hold NaN or infinity"


def test_an_engine_that_cannot_be_counted_keeps_the_rule_by_its_outputs():
    assert "nothing was computed in int8" in contradiction(INT8, Likeness(95.0))
    assert contradiction(INT8, Likeness(40.0)) is None
    assert "was not computed in FP32" in contradiction(FP32, Likeness(40.0))


CHEAP = ("resnet20", "conv_k3")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", counting.SHAPES)
def test_the_share_in_int8_is_that_of_a_second_count_by_shapes_and_profilers(name, engine, tmp_path):
    import torch

    import fixtures.models  # noqa: F401 - registers them
    from bench import models

    if name not in CHEAP and not os.environ.get("BENCH_ALL_MODELS"):
        pytest.skip("takes minutes: set BENCH_ALL_MODELS")

    def network():
        torch.manual_seed(0)
        return models.get(name).network().eval().requires_grad_(False)

    inputs = np.random.default_rng(0).random((2, *counting.SHAPES[name])).astype(np.float32)
    recipe = recipes.get("int8_static")
    found = lowered(layers(engine, "int8_static", network, inputs, tmp_path), "int8")
    if engine == "onnxruntime":
        share, _ = counting.by_onnxruntime(tmp_path / "model.onnx", inputs[:2])
    else:
        from bench.engines import openvino

        model = openvino._read(tmp_path, inputs[:2])
        compiled = openvino._compiled(model, recipe, 1, {"PERF_COUNT": True})
        share, _ = counting.by_openvino(compiled, inputs[:2])
    assert found.macs["int8"] == pytest.approx(share, abs=0.001)
