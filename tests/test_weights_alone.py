"""Claims about weights alone in few bits: what is stored, what is computed, and what is said of it."""

import numpy as np
import pytest
import torch
from torch import nn

from bench import Case, Dataset, Model, Recipe, Samples, Weights, datasets, engines, models, recipes
from bench.engines.lowered import lowered, promised
from bench.errors import Unsupported
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported

ENGINES, BITS = ("onnxruntime", "openvino"), {"int8": 8, "int4": 4}
LEAST_DB = {"int8": 35.0, "int4": 12.0}


class Mixed(nn.Module):
    """A convolution, linear layers on rows of three axes, and one on rows of two, which is exported as Gemm."""

    def __init__(self):
        super().__init__()
        self.patches, self.inner, self.head = nn.Conv2d(3, 64, 4, 4), nn.Linear(64, 512), nn.Linear(512, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.inner(x)).mean(1))


def network():
    torch.manual_seed(0)
    return Mixed().eval().requires_grad_(False)


PICTURES = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
KNOWN = network()(torch.from_numpy(PICTURES)).numpy()


def sqnr(values, known):
    return 10 * np.log10(np.square(known).sum() / np.square(values - known).sum())


def built(engine, number_format, folder):
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    recipe = recipes.get(f"{number_format}_weights")
    engines.get(engine).build(network(), recipe, PICTURES, folder)
    return engines.get(engine), (folder, recipe, network, PICTURES, 1)


@pytest.mark.parametrize("number_format", BITS)
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_of_linear_layers_are_stored_in_few_bits_and_products_are_in_fp32(engine, number_format, tmp_path):
    member, loading = built(engine, number_format, tmp_path)
    assert sqnr(member.load(*loading)(PICTURES), KNOWN) > LEAST_DB[number_format]
    (convolution,) = [layer for layer in member.layers(*loading) if layer.kind == "conv2d"]
    assert convolution.stored == "fp32"
    linear = [layer for layer in member.layers(*loading) if layer.kind == "linear"]
    assert [(layer.format, layer.stored) for layer in linear] == [("fp32", number_format)] * 2
    assert sorted(layer.weights for layer in linear) == [512 * 10, 64 * 512]
    assert "head" in [layer.name for layer in linear]
    assert all(layer.format == "fp32" for layer in member.layers(*loading))
    assert member.only_stores(loading[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_bits_are_smaller_files_and_larger_errors(engine, tmp_path):
    sizes, errors = {}, {}
    for number_format in BITS:
        (tmp_path / number_format).mkdir()
        member, loading = built(engine, number_format, tmp_path / number_format)
        errors[number_format] = sqnr(member.load(*loading)(PICTURES), KNOWN)
        sizes[number_format] = sum(file.stat().st_size for file in (tmp_path / number_format).iterdir())
    assert sizes["int4"] < sizes["int8"]
    assert errors["int4"] < errors["int8"] - 10


@pytest.mark.parametrize("number_format", BITS)
def test_products_are_those_of_the_stored_weights_in_floating_point(number_format, tmp_path):
    """ONNX Runtime against its own weights, dequantized by hand."""
    import onnx
    from onnx import numpy_helper

    member, loading = built("onnxruntime", number_format, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    net, bits = network(), BITS[number_format]
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        settings = {attribute.name: attribute.i for attribute in node.attribute}
        assert (settings["bits"], settings["accuracy_level"]) == (bits, 1)
        packed, scales, zeros = (stored[name] for name in node.input[1:4])
        rows, columns = settings["N"], settings["K"]

        def unpacked(values, bits=bits):
            values = values.reshape(-1)
            return np.stack([values & 15, values >> 4], 1).reshape(-1) if bits == 4 else values

        whole = unpacked(packed).reshape(rows, -1, settings["block_size"]).astype(np.float32)
        blocks = whole.shape[1]
        middle = unpacked(zeros).reshape(rows, -1)[:, :blocks, None].astype(np.float32)
        weight = ((whole - middle) * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :columns]
        (layer,) = [part for part in net.modules() if isinstance(part, nn.Linear) and part.out_features == rows]
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    expected = net(torch.from_numpy(PICTURES)).numpy()
    assert sqnr(member.load(*loading)(PICTURES), expected) > 90


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_without_linear_layers_is_unsupported(engine, tmp_path):
    if (reason := engines.get(engine).missing()) is not None:
        pytest.skip(reason)
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval().requires_grad_(False)
    with pytest.raises(Unsupported, match="this network has none"):
        engines.get(engine).build(convolutions, recipes.get("int4_weights"), PICTURES, tmp_path)


def test_the_record_says_of_what_the_share_is_and_what_was_left(tmp_path):
    member, loading = built("onnxruntime", "int4", tmp_path)
    layers = member.layers(*loading)
    facts = lowered(layers, "int4", promised(layers, loading[1], member.covered(loading[1])), stored=True)
    share = (64 * 512 + 512 * 10) / (64 * 512 + 512 * 10 + 64 * 48)
    assert facts.of == "weights"
    assert facts.shares["int4"] == pytest.approx(share)
    assert facts.promised == pytest.approx(share)
    assert facts.macs["fp32"] == 1.0
    assert facts.reason == "weights are stored in INT4, and products are computed in FP32"
    (left,) = facts.left
    assert left.kind == "conv2d"
    assert left.reason == "weights alone are quantized in layers of these kinds alone: linear"


def test_engines_and_recipes_that_cannot_say_so(tmp_path):
    datasets.add("few", Dataset("few", "", lambda split, folder: Samples(PICTURES, np.zeros(8, int))))
    models.add("few", Model("few", "classification", network, (Weights("as built", "few"),), parts={"head": ("head",)}))
    bench = Bench(tmp_path)
    assert unsupported(Case("few", "int4_weights", "onnxruntime"), bench) is None
    assert "holds no weights alone in int8" in unsupported(Case("few", "int8_weights", "torch"), bench)
    assert "computes in" in unsupported(Case("few", "int4_weights", "torch"), bench)
    recipes.add("int8_weights_of_head", Recipe("int8_weights_of_head", "int8", "float", part="head"))
    assert "leaves no layers in FP32" in unsupported(Case("few", "int8_weights_of_head", "onnxruntime"), bench)
