"""Claims about network files that run as they are: what they take, what they are given, what is said of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.build.bill import Bill
from bench.build.file_inputs import RealInputs
from bench.build.file_readers import reader_of
from bench.build.network_files import (
    given_files,
    interface_of_file,
    network_of,
    samples_of,
)
from bench.engines import engines, onnx_graphs
from bench.engines.engine import session_of
from bench.engines.onnx_graphs import Role, roles
from bench.engines.onnx_quantization import flatten_biases, unshare_weights
from bench.errors import DataError, Unsupported
from bench.spec.dataset import datasets
from bench.spec.inputs import Inputs
from bench.spec.model import models, source
from bench.spec.network import Port, Signature, sized
from bench.spec.recipe import recipes
from bench.statistics import sqnr_db
from bench.store import Store

pytest_plugins = ["pytester"]

FILE = "net.onnx"


def saved(file, nodes, tensors, inputs, outputs, opset=17):
    """Write an ONNX file of (operator, inputs, outputs, attributes), arrays by name and (name, type, shape)."""
    from onnx import TensorProto, helper, numpy_helper, save

    def values(ports):
        return [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, kind, shape in ports]

    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **more) for kind, given, made, more in nodes],
        "g",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(file))


def sentences(file, batch="batch"):
    """Word numbers and a mask: a table's rows are weighed by the mask, averaged and multiplied."""
    rng = np.random.default_rng(0)
    saved(
        file,
        [
            ("Gather", ["table", "ids"], ["rows"], {}),
            ("Cast", ["mask"], ["weights"], {"to": 1}),
            ("Unsqueeze", ["weights", "last"], ["column"], {}),
            ("Mul", ["rows", "column"], ["kept"], {}),
            ("ReduceMean", ["kept"], ["mean"], {"axes": [1], "keepdims": 0}),
            ("Gemm", ["mean", "w", "b"], ["scores"], {}),
        ],
        {
            "table": rng.normal(size=(20, 16)).astype(np.float32),
            "last": np.array([2]),
            "w": rng.normal(size=(16, 3)).astype(np.float32),
            "b": rng.normal(size=(1, 3)).astype(np.float32),
        },
        [("ids", "INT64", [batch, 6]), ("mask", "INT64", [batch, 6])],
        [("scores", "FLOAT", [batch, 3])],
    )


def recurrent(file):
    """A sequence, its initial state along the second axis, and a rate that the graph compares with 16000."""
    rng = np.random.default_rng(1)
    saved(
        file,
        [
            ("Equal", ["rate", "known"], ["same"], {}),
            ("Cast", ["same"], ["one"], {"to": 1}),
            ("Mul", ["x", "one"], ["heard"], {}),
            ("Transpose", ["heard"], ["steps"], {"perm": [1, 0, 2]}),
            ("GRU", ["steps", "w", "r", "", "", "state"], ["all", "next"], {"hidden_size": 4}),
        ],
        {
            "known": np.array(16000),
            "w": rng.normal(size=(1, 12, 8)).astype(np.float32),
            "r": rng.normal(size=(1, 12, 4)).astype(np.float32),
        },
        [("x", "FLOAT", ["batch", 5, 8]), ("rate", "INT64", []), ("state", "FLOAT", [1, "batch", 4])],
        [("next", "FLOAT", [1, "batch", 4])],
    )


def moving(file):
    """A network whose items depend on each other: a sum over the first axis."""
    saved(
        file,
        [("CumSum", ["x", "zero"], ["y"], {})],
        {"zero": np.array(0)},
        [("x", "FLOAT", ["steps", 3])],
        [("y", "FLOAT", ["steps", 3])],
    )


def convolution(file, shape=("b", 3, "h", "w")):
    saved(
        file,
        [("Conv", ["x", "k"], ["y"], {"pads": [1, 1, 1, 1]})],
        {"k": np.random.default_rng(2).normal(size=(4, 3, 3, 3)).astype(np.float32)},
        [("x", "FLOAT", list(shape))],
        [("y", "FLOAT", [shape[0], 4, *shape[2:]])],
    )


def opened(network, engine, folder, inputs, precision="fp32"):
    folder.mkdir()
    builder, recipe = engines.get(engine), recipes.get(precision)
    builder.build(network, recipe, inputs, folder)
    return lambda items: session_of(builder.load(folder, recipe, lambda: network, items, 1)).predict


def items_of(given):
    """The drawn items of a given file, joined."""
    return Inputs.joined(list(samples_of(given, "test").inputs))


@pytest.mark.parametrize("make", [sentences, recurrent])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_gives_what_the_bare_runtime_gives(make, engine, tmp_path):
    import onnxruntime

    make(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    inputs = items_of(given)[:2]
    bare = onnxruntime.InferenceSession(tmp_path / FILE, providers=["CPUExecutionProvider"])
    for items in (inputs[:1], inputs):
        (known,) = bare.run(None, dict(items.batch()))
        outputs = opened(network_of(given), engine, tmp_path / f"{engine}{len(items)}", items)(items)(items.batch())
        if engine == "onnxruntime":
            assert np.array_equal(outputs, known)
        assert np.allclose(outputs, known, atol=1e-5)


def test_onnx_runtime_runs_the_users_file_to_the_byte(tmp_path):
    convolution(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [{"x": (1, 3, 8, 8)}], None, "net")
    opened(network_of(given), "onnxruntime", tmp_path / "built", items_of(given))
    assert (tmp_path / "built" / "model.onnx").read_bytes() == (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_becomes_int8_and_stays_like_itself(engine, tmp_path):
    sentences(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    inputs = items_of(given)
    known = opened(network_of(given), "onnxruntime", tmp_path / "known", inputs)(inputs[:4])(inputs[:4].batch())
    predict = opened(network_of(given), engine, tmp_path / "int8", inputs, "int8_static")(inputs[:4])
    outputs = predict(inputs[:4].batch())
    assert 0 < np.abs(outputs - known).max() < 0.1 * np.abs(known).max()


def products(file):
    """Three products of 64 with ReLU between, whose weights lie in a file beside it."""
    import onnx

    rng = np.random.default_rng(3)
    nodes, last = [], "x"
    for place in range(3):
        nodes += [("MatMul", [last, f"w{place}"], [f"h{place}"], {}), ("Relu", [f"h{place}"], [f"y{place}"], {})]
        last = f"y{place}"
    weights = {f"w{place}": rng.normal(0, 0.2, (64, 64)).astype(np.float32) for place in range(3)}
    saved(file, nodes, weights, [("x", "FLOAT", ["b", 64])], [(last, "FLOAT", ["b", 64])])
    onnx.save(onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data")


@pytest.mark.parametrize("largest", [onnx_graphs.LARGEST, 10_000], ids=["in one file", "too large for one"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8_static", "int8_dynamic", "int8_weights"])
def test_weights_beside_a_file_and_those_too_large_for_a_single_file(precision, largest, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "LARGEST", largest)
    monkeypatch.chdir(tmp_path)  # where onnx would find the file in its way
    products(tmp_path / "model.onnx")
    (given,) = given_files(tmp_path / "model.onnx", [], None, "net")
    inputs, engine, recipe = items_of(given), engines.get("onnxruntime"), recipes.get(precision)
    known = opened(network_of(given), "openvino", tmp_path / "known", inputs)(inputs[:4])(inputs[:4].batch())
    predict = opened(network_of(given), "onnxruntime", tmp_path / "built", inputs, precision)(inputs[:4])
    outputs = predict(inputs[:4].batch())
    names = {file.name for file in (tmp_path / "built").iterdir()}
    beside = precision == "fp32" or largest < 1e6
    assert names == ({"model.onnx", "model.onnx.data"} if beside else {"model.onnx"})
    loading = (tmp_path / "built", recipe, lambda: network_of(given), inputs[:4], 1)
    assert [layer.macs for layer in engine.layers(*loading)] == [64 * 64] * 3
    assert sqnr_db(outputs, known) > {"fp32": 100, "fp16": 50}.get(precision, 25)
    if precision in ("int8_static", "int8_dynamic"):
        assert sqnr_db(outputs, engine.emulated(*loading).predict(inputs[:4].batch())) > 30


def test_a_mobile_file_of_weights_too_large_for_a_single_file_leaves_none_beside_it(tmp_path, monkeypatch):
    from torch import nn

    monkeypatch.setattr(onnx_graphs, "LARGEST", 10_000)
    inputs = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    opened(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), "onnxruntime_mobile", tmp_path / "i", inputs, "int8_static"
    )
    assert [file.name for file in (tmp_path / "i").iterdir()] == ["model.ort"]


# what a graph says of its inputs


def test_drawn_numbers_are_what_the_graph_can_take(tmp_path):
    sentences(tmp_path / FILE)
    signature = reader_of(tmp_path / FILE).signature(tmp_path / FILE)
    assert roles(tmp_path / FILE, signature) == {"ids": Role(below=20), "mask": Role()}
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    arrays = items_of(given).arrays
    assert arrays["ids"].dtype == arrays["mask"].dtype == np.int64
    assert arrays["ids"].min() >= 0
    assert arrays["ids"].max() < 20
    assert len(np.unique(arrays["ids"])) > 10
    assert (arrays["mask"] == 1).all()
    recurrent(tmp_path / "gru.onnx")
    (given,) = given_files(tmp_path / "gru.onnx", [], None, "gru")
    inputs = items_of(given)
    assert not inputs.arrays["state"].any()
    assert inputs[:1].batch()["rate"] == 16000
    assert inputs.arrays["x"].std() == pytest.approx(1, abs=0.2)
    assert np.array_equal(inputs.arrays["x"], items_of(given).arrays["x"])


def test_the_axis_of_the_items_is_found_and_checked(tmp_path):
    recurrent(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    network, inputs = network_of(given), items_of(given)
    assert network.batch_axes == {"x": 0, "rate": None, "state": 1}
    interface = interface_of_file(network, opened(network, "onnxruntime", tmp_path / "a", inputs), inputs)
    assert interface.batch_axes == (1,)
    moving(tmp_path / "moving.onnx")
    (given,) = given_files(tmp_path / "moving.onnx", [], None, "moving")
    network, inputs = network_of(given), items_of(given)
    interface = interface_of_file(network, opened(network, "onnxruntime", tmp_path / "b", inputs), inputs)
    assert interface.batch_axes == (None,)


def test_files_of_other_formats_are_recognised_as_int8_already(tmp_path):
    sentences(tmp_path / FILE)
    assert not reader_of(tmp_path / FILE).quantized(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    inputs = items_of(given)
    for precision in ("int8_static", "int8_dynamic"):
        opened(network_of(given), "onnxruntime", tmp_path / precision, inputs, precision)
        assert reader_of(tmp_path / precision / "model.onnx").quantized(tmp_path / precision / "model.onnx")
    opened(network_of(given), "openvino", tmp_path / "ov", inputs, "int8_static")
    assert reader_of(tmp_path / "ov" / "model.xml").quantized(tmp_path / "ov" / "model.xml")
    opened(network_of(given), "openvino", tmp_path / "fp32", inputs)
    assert not reader_of(tmp_path / "fp32" / "model.xml").quantized(tmp_path / "fp32" / "model.xml")


def test_an_ir_with_weights_in_int8_is_recognised_as_int8_already(tmp_path):
    import nncf
    import openvino
    from openvino import opset13 as op

    given = op.parameter([1, 64], np.float32, "x")
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    model = openvino.Model([op.matmul(given, op.constant(weights), False, False)], [given])
    openvino.save_model(model, tmp_path / "fp32.xml", compress_to_fp16=False)
    openvino.save_model(nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM), tmp_path / "int8.xml")
    assert not reader_of(tmp_path / "fp32.xml").quantized(tmp_path / "fp32.xml")
    assert reader_of(tmp_path / "int8.xml").quantized(tmp_path / "int8.xml")


def test_openvinos_ir_is_read_with_its_inputs_types_and_free_sizes(tmp_path):
    sentences(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    opened(network_of(given), "openvino", tmp_path / "ov", items_of(given))
    signature = reader_of(tmp_path / "ov" / "model.xml").signature(tmp_path / "ov" / "model.xml")
    assert signature.inputs == (Port("ids", "int64", ("?", 6)), Port("mask", "int64", ("?", 6)))
    (ir,) = given_files(tmp_path / "ov" / "model.xml", [], None, "ir")
    inputs = items_of(ir)[:2]
    assert np.shape(opened(network_of(ir), "openvino", tmp_path / "again", inputs)(inputs)(inputs.batch())) == (2, 3)


# sizes


def test_free_sizes_are_named_with_what_to_type(tmp_path):
    convolution(tmp_path / FILE)
    with pytest.raises(
        DataError, match=r"leaves sizes free, of x \(b, 3, h, w\): .*--bench-shape x=1x3x\?x\? with a nu"
    ):
        given_files(tmp_path / FILE, [], None, "net")


def test_several_shapes_are_several_models_and_shapes_of_other_files_do_not_count(tmp_path):
    convolution(tmp_path / FILE)
    shapes = [{"x": (1, 3, 8, 8)}, {"other": (1, 2)}, {"x": (1, 3, 16, 8)}, {"x": (1, 4, 8, 8)}]
    made = given_files(tmp_path / FILE, shapes, None, "net")
    assert [given.name for given in made] == ["net_1x3x8x8", "net_1x3x16x8"]
    assert [dict(given.sizes)["x"] for given in made] == [(1, 3, 8, 8), (1, 3, 16, 8)]


def test_shapes_for_different_inputs_are_combined():
    signature = Signature((Port("a", "float32", ("n", "k")), Port("b", "float32", ("n", "m"))), ())
    both = sized(signature, "f", [{"a": (1, 2)}, {"a": (1, 3)}, {"b": (1, 4)}])
    assert both == [{"a": (1, 2), "b": (1, 4)}, {"a": (1, 3), "b": (1, 4)}]


def test_another_file_under_the_same_name_is_another_network(tmp_path):
    sentences(tmp_path / FILE)
    (first,) = given_files(tmp_path / FILE, [], None, "net")
    recurrent(tmp_path / FILE)
    (second,) = given_files(tmp_path / FILE, [], None, "net")
    assert first.digest != second.digest


def test_a_file_that_changes_before_it_is_built_is_not_kept_under_its_old_digest(tmp_path, monkeypatch):
    for registry in (models, datasets):  # other tests look at all that is registered
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    sentences(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "changing")
    given.register()
    recurrent(tmp_path / FILE)
    bill = Bill(Store(tmp_path / "cache"), source(models.get("changing"), None))
    with pytest.raises(DataError, match=r"net.onnx was changed since this session began"):
        bill.weights  # noqa: B018 - it is built when it is asked for


# real inputs


def test_real_inputs_are_read_from_one_file_or_from_one_an_item(tmp_path):
    convolution(tmp_path / FILE)
    real = np.random.default_rng(3).random((4, 3, 8, 8), np.float32)
    (tmp_path / "each").mkdir()
    np.savez(tmp_path / "all.npz", x=real)
    for place, item in enumerate(real):
        np.savez(tmp_path / "each" / f"{place}.npz", x=item[None])
    for inputs in (tmp_path / "all.npz", tmp_path / "each"):
        (given,) = given_files(tmp_path / FILE, [], RealInputs.at(inputs, None, tmp_path), "net")
        assert dict(given.sizes) == {"x": (1, 3, 8, 8)}
        assert np.array_equal(items_of(given).batch()["x"], real[1::2])  # the others calibrate


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"y": np.ones((2, 3, 8, 8))}, r"takes x float32 .*, and the inputs from .*all.npz have y"),
        ({"x": np.ones((0, 3, 8, 8))}, "hold no item"),
        (None, r"no inputs \(.npz\) at .*; pictures want --bench-preprocess"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(arrays, told, tmp_path):
    convolution(tmp_path / FILE)
    if arrays is not None:
        np.savez(tmp_path / "all.npz", **arrays)
    with pytest.raises(DataError, match=told) as raised:
        given_files(tmp_path / FILE, [], RealInputs.at(tmp_path / "all.npz", None, tmp_path), "net")
    assert len(str(raised.value).splitlines()) == 1


def test_numbers_that_an_input_cannot_hold_are_refused(tmp_path):
    sentences(tmp_path / FILE)
    for ids in (np.full((2, 6), 0.5), np.full((2, 6), np.nan)):
        np.savez(tmp_path / "all.npz", ids=ids, mask=np.ones((2, 6), np.int64))
        (given,) = given_files(tmp_path / FILE, [], RealInputs.at(tmp_path / "all.npz", None, tmp_path), "net")
        with pytest.raises(DataError, match=r"takes ids int64 .*, float64, has values that this cannot hold"):
            items_of(given)


PREPROCESS = """
import numpy as np

def half(picture):
    return picture[::2, ::2].transpose(2, 0, 1) / np.float32(255)

def broken(picture):
    return picture.sideways()

def named(picture):
    return {"y": half(picture)}
"""


def test_pictures_become_inputs_by_a_users_function(tmp_path):
    from PIL import Image

    convolution(tmp_path / FILE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "halving.py").write_text(PREPROCESS)
    pictures = np.random.default_rng(5).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
    for place, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{place}.png")
    inputs = RealInputs.at(tmp_path / "photos", "halving:half", tmp_path)
    (given,) = given_files(tmp_path / FILE, [], inputs, "net")
    known = pictures[1::2, ::2, ::2].transpose(0, 3, 1, 2) / np.float32(255)
    assert np.array_equal(items_of(given).batch()["x"], known)
    wrong = RealInputs.at(tmp_path / "photos", "halving:named", tmp_path)
    with pytest.raises(DataError, match=r"takes x float32 .*, and the inputs from .*0.png have y"):
        given_files(tmp_path / FILE, [], wrong, "net")
    broken = RealInputs.at(tmp_path / "photos", "halving:broken", tmp_path)
    with pytest.raises(DataError, match=r"broken fails on .*0.png, \(16, 16, 3\): AttributeError: .*sideways"):
        given_files(tmp_path / FILE, [], broken, "net")
    (tmp_path / "misspelt.py").write_text("def half(:")
    for preprocess, told in (
        ("nowhere:half", "cannot be imported"),
        ("misspelt:half", "cannot be imported from .*: SyntaxError"),
        (":half", "'' cannot be imported"),
        ("halving:double", "has no function 'double'"),
    ):
        with pytest.raises(DataError, match=told):
            RealInputs.at(tmp_path / "photos", preprocess, tmp_path)


def test_pictures_are_measured_from_the_command_line(tmp_path):
    from PIL import Image

    convolution(tmp_path / FILE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "halving.py").write_text(PREPROCESS)
    for place in range(3):
        Image.new("RGB", (16, 16), (place * 80, 10, 200)).save(tmp_path / "photos" / f"{place}.png")
    options = ["--bench-quick", "--bench-engine=onnxruntime", "--bench-precision=fp32", "--bench-cache=cache"]
    done = run(tmp_path, FILE, "--bench-inputs=photos", "--bench-preprocess=halving:half", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(n = 1); no quality: these inputs have no targets" in done.stdout


# what ONNX Runtime's quantizer stumbles over


def test_a_bias_of_one_row_is_written_as_one_number_a_column(tmp_path):
    import onnx
    import onnxruntime

    sentences(tmp_path / FILE)
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    batch = dict(items_of(given).batch())
    known = onnxruntime.InferenceSession(tmp_path / FILE).run(None, batch)
    flatten_biases(tmp_path / FILE)
    (bias,) = (tensor for tensor in onnx.load(tmp_path / FILE).graph.initializer if tensor.name == "b")
    assert list(bias.dims) == [3]
    assert np.array_equal(onnxruntime.InferenceSession(tmp_path / FILE).run(None, batch), known)


def test_biases_that_two_layers_share_are_given_to_each(tmp_path):
    import onnx

    rng = np.random.default_rng(4)
    saved(
        tmp_path / FILE,
        [
            ("Gemm", ["x", "w1", "b"], ["b2"], {}),
            ("Gemm", ["b2", "w2", "b"], ["y"], {}),
        ],  # the quantizer's own name: b2
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in (("w1", (4, 4)), ("w2", (4, 4)), ("b", (4,)))
        },
        [("x", "FLOAT", ["n", 4])],
        [("y", "FLOAT", ["n", 4])],
    )
    (given,) = given_files(tmp_path / FILE, [], None, "net")
    inputs = items_of(given)
    known = opened(network_of(given), "onnxruntime", tmp_path / "fp32", inputs)(inputs)(inputs.batch())
    outputs = opened(network_of(given), "onnxruntime", tmp_path / "int8", inputs, "int8_static")(inputs)(inputs.batch())
    assert np.abs(outputs - known).max() < 0.1 * np.abs(known).max()
    unshare_weights(tmp_path / FILE)
    biases = [node.input[2] for node in onnx.load(tmp_path / FILE).graph.node]
    assert len(set(biases)) == 2


# pytest theirs.onnx


def run(place, *options):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_on_the_command_line_is_measured_and_saved(tmp_path):
    sentences(tmp_path / "my net.onnx")
    done = run(tmp_path, "my net.onnx", "--bench-quick", "--benchmark-json=run.json", "--bench-cache=cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        len(json.loads((tmp_path / "run.json").read_text())["benchmarks"]) == 5
    )  # too narrow for OpenVINO's dynamic INT8
    assert "my_net-int8_static-onnxruntime-b1-t1" in (tmp_path / "run.json").read_text()
    assert "no quality: these are drawn numbers" in done.stdout
    assert "Speed-up over onnxruntime fp32" in done.stdout


def test_files_that_cannot_be_measured_say_so_before_the_others_are_built(tmp_path):
    (tmp_path / "networks").mkdir()
    convolution(tmp_path / "networks" / "free.onnx")
    (tmp_path / "networks" / "broken.onnx").write_bytes(b"\x08\x08no network")
    (tmp_path / "networks" / "other.xml").write_text("<suite/>")
    done = run(tmp_path, "networks", "--bench-cache=cache")
    assert done.returncode == 1
    assert "free.onnx leaves sizes free" in done.stdout
    assert "broken.onnx cannot be read as ONNX" in done.stdout
    assert "2 failed" in done.stdout


def test_a_file_does_not_take_the_name_of_another_model(tmp_path):
    (tmp_path / "mine").mkdir()
    sentences(tmp_path / "mine" / FILE)
    (tmp_path / "conftest.py").write_text(
        "from bench import Model, models\nmodels.add('net', Model('net', 'features', None, ()), __name__)\n"
    )
    done = run(tmp_path, f"mine/{FILE}", "--collect-only")
    assert "network[mine_net-fp32-onnxruntime-b1-t1]" in done.stdout
    assert "network[net-" not in done.stdout


def test_a_folder_of_tests_stays_a_folder_of_tests(tmp_path):
    convolution(tmp_path / "data.onnx")
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    assert "1 passed" in run(tmp_path, ".").stdout
    assert "1 passed" in run(tmp_path).stdout


def test_engines_that_do_not_read_a_file_say_which_do(tmp_path):
    sentences(tmp_path / FILE)
    done = run(tmp_path, FILE, "--bench-engine=torch", "--bench-precision=fp32", "--bench-cache=cache", "-rs")
    assert "torch does not read onnx, which net is; these do: onnxruntime, openvino" in done.stdout


def write_int8(file):
    sentences(file.parent / FILE)
    (given,) = given_files(file.parent / FILE, [], None, "net")
    opened(network_of(given), "onnxruntime", file.parent / "built", items_of(given), "int8_static")
    (file.parent / "built" / "model.onnx").rename(file)


def test_a_file_that_is_int8_already_is_measured_as_it_is(tmp_path):
    write_int8(tmp_path / "mine.onnx")
    done = run(
        tmp_path,
        "mine.onnx",
        "--bench-quick",
        "--bench-engine=onnxruntime",
        "--bench-cache=cache",
        "--benchmark-json=run.json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (benchmark,) = json.loads((tmp_path / "run.json").read_text())["benchmarks"]
    assert benchmark["extra_info"]["case"]["precision"] == "as_given"
    assert benchmark["extra_info"]["lowered"]["macs"]["int8"] == 1


def test_sizes_that_the_network_does_not_run_at_are_the_reason(tmp_path):
    saved(
        tmp_path / FILE,
        [("MatMul", ["x", "w"], ["y"], {})],
        {"w": np.ones((8, 4), np.float32)},
        [("x", "FLOAT", ["n", "k"])],
        [("y", "FLOAT", ["n", 4])],
    )
    done = run(
        tmp_path, FILE, "--bench-shape=x=1x7", "--bench-quick", "--bench-cache=cache", "--bench-engine=onnxruntime"
    )
    assert "the file does not run on inputs of these shapes, x (1, 7)" in done.stdout


def test_a_batch_of_a_network_of_one_item_is_unsupported(tmp_path):
    moving(tmp_path / FILE)
    done = run(
        tmp_path,
        FILE,
        "--bench-batch=2",
        "--bench-quick",
        "--bench-cache=cache",
        "--bench-engine=onnxruntime",
        "--bench-precision=fp32",
        "-rs",
    )
    assert "takes one item in a call" in done.stdout
    assert Unsupported.__name__ not in done.stdout


def test_a_file_that_is_int8_already_is_not_measured_under_another_precisions_name(tmp_path):
    write_int8(tmp_path / "mine.onnx")
    done = run(
        tmp_path,
        "mine.onnx",
        "--bench-precision=fp32,int8_static",
        "--bench-engine=onnxruntime",
        "--bench-cache=c",
        "-rs",
    )
    assert "2 skipped" in done.stdout
    assert "mine is a file that is in INT8 already: it is measured in the precision as_given alone" in done.stdout


def test_a_file_of_a_later_ir_is_refused_with_both_versions(tmp_path):
    import onnx

    sentences(tmp_path / FILE)
    model = onnx.load(tmp_path / FILE)
    model.ir_version = 99
    onnx.save(model, tmp_path / FILE)
    options = ["--bench-quick", "--bench-engine=onnxruntime", "--bench-precision=fp32", "--bench-cache=cache"]
    done = run(tmp_path, FILE, *options)
    assert "onnxruntime does not read this file: it is of IR version 99, and onnxruntime" in done.stdout
