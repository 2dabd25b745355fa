"""Claims about models that are ONNX files and nothing else."""

import contextlib
import re

import numpy as np
import pytest

from bench.build.bill import Bill, NotBuilt
from bench.build.onnx_files import network_of
from bench.errors import DataError
from bench.spec.dataset import Dataset, Samples
from bench.spec.model import Model, Source, Weights
from bench.store import Store


def write(file, value=1.0, ir=8, beside=None, inputs=(("x", "FLOAT", ["b", 8]),)):
    """A product with a matrix of ones times a value, of the first input or of what a table holds for it."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    given = [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, kind, shape in inputs]
    weight = numpy_helper.from_array(np.full((8, 4), value, np.float32), "w")
    whole = inputs[0][1] == "INT64"
    node = helper.make_node("Gather", ["w", "x"], ["y"]) if whole else helper.make_node("MatMul", ["x", "w"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", given, [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir)
    save_model(model, str(file), save_as_external_data=beside is not None, location=beside, size_threshold=0)


def test_weights_that_lie_beside_the_file_are_read(tmp_path):
    import torch

    write(tmp_path / "net.onnx", 2.0, beside="net.bin")
    assert network_of(tmp_path / "net.onnx")(torch.ones(3, 8)).tolist() == [[16.0] * 4] * 3


def test_weights_that_should_lie_beside_the_file_are_named(tmp_path):
    write(tmp_path / "net.onnx", beside="net.bin")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(DataError, match=r"net.onnx keeps its weights in .*net.bin, which is not there; put it beside"):
        network_of(tmp_path / "net.onnx")


def test_other_weights_beside_a_file_are_another_network(tmp_path):
    def load(split, folder):
        return Samples(np.ones((4, 8), np.float32), np.zeros(4, int))

    own = Weights("own", "ones", file="net.onnx", network=network_of)
    source = Source(Model("net", "features", None, (own,)), own, Dataset("ones", "ones", load), tmp_path)
    store, digests, names = Store(tmp_path / "cache"), [], []
    for value in (1.0, 2.0, 1.0):
        (tmp_path / "net.bin").unlink(missing_ok=True)  # onnx would append to it
        write(tmp_path / "net.onnx", value, beside="net.bin")
        with contextlib.nullcontext() if len(names) == 2 else pytest.raises(NotBuilt):
            Bill(store, source, build=False).reference()
        digests.append(Bill(store, source).weights.digest)
        names.append(Bill(store, source).reference().folder.name)
    assert len(set(digests)) == len(set(names)) == 2
    assert names[0] == names[2]


def test_a_file_that_is_newer_than_the_runtime_is_refused_with_both_versions(tmp_path):
    write(tmp_path / "net.onnx", ir=99)
    with pytest.raises(DataError, match=r"of IR version 99, and onnxruntime [\d.]+ reads none above \d+;") as refused:
        network_of(tmp_path / "net.onnx")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([("x", "INT64", ["b", 6])], "1 input: x (int64) ['b', 6]"),
        (
            [("x", "FLOAT", ["b", 8]), ("mask", "FLOAT", ["b", 8])],
            "2 inputs: x (float) ['b', 8]; mask (float) ['b', 8]",
        ),
        ([("x", "FLOAT", ["b", "n", 8])], "x (float) ['b', 'n', 8]"),
    ],
)
def test_inputs_that_cannot_be_given_are_told_in_one_line(tmp_path, inputs, told):
    write(tmp_path / "net.onnx", inputs=inputs)
    with pytest.raises(DataError, match=re.escape(told)) as refused:
        network_of(tmp_path / "net.onnx")
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_no_onnx_is_refused_in_words(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no protobuf")
    with pytest.raises(DataError, match="cannot be read as ONNX: Error parsing message"):
        network_of(tmp_path / "net.onnx")
