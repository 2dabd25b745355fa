"""Claims about networks by name: small ones, built from their configurations, are what the library itself computes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.build import named_networks
from bench.build.file_inputs import item_of
from bench.build.network_files import file_of, given_files, model_name, network_of, samples_of
from bench.errors import DataError
from bench.records.runs import read
from bench.spec.network import Port, kind_of, place_of

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that transformers imports


def words(folder, **more):
    """A BERT of two layers with a head for three classes, as its library saves it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=100, max_position_embeddings=40, num_labels=3, **sizes, **more)
    network = transformers.BertForSequenceClassification(config).eval()
    network.save_pretrained(folder)
    return network


def pictures(folder):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    network = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
    network.save_pretrained(folder)
    return network


def named(folder):
    return Path(f"hf:{folder}")


def test_words_are_taken_with_a_mask_and_drawn_from_the_vocabulary(tmp_path):
    known = words(tmp_path)
    (given,) = given_files(named(tmp_path), [{"input_ids": (1, 12), "attention_mask": (1, 12)}], None, "bert")
    assert given.file == named(tmp_path)
    signature = named_networks.signature_of(given.file)
    assert signature.inputs == tuple(
        Port(name, "int64", ("batch", "words")) for name in ("input_ids", "attention_mask")
    )
    items = samples_of(given, "test").inputs
    ids = np.concatenate([item.arrays["input_ids"] for item in items])
    assert (ids.min() >= 0, ids.max() < 100, len(np.unique(ids)) > 50) == (True, True, True)
    assert all((item.arrays["attention_mask"] == 1).all() for item in items)
    network = network_of(given)
    mask = torch.ones(4, 12, dtype=torch.int64)
    mask[1, 5:] = 0
    with torch.inference_mode():
        outputs = network(torch.from_numpy(ids[:4]), mask)
        expected = known(input_ids=torch.from_numpy(ids[:4]), attention_mask=mask).logits
    assert list(outputs) == ["logits"]
    torch.testing.assert_close(outputs["logits"], expected)


def test_pictures_have_the_size_that_the_network_says(tmp_path):
    known = pictures(tmp_path)
    (given,) = given_files(named(tmp_path), [], None, "vit")
    assert dict(given.sizes) == {"pixel_values": (1, 3, 32, 32)}
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network_of(given)(x)["last_hidden_state"], known(pixel_values=x).last_hidden_state)


def test_free_words_are_asked_for_in_one_line(tmp_path):
    words(tmp_path)
    with pytest.raises(DataError, match=r"leaves sizes free, of input_ids .*--bench-shape input_ids=1x\?"):
        given_files(named(tmp_path), [], None, "bert")


def test_changed_weights_are_another_network(tmp_path):
    words(tmp_path)
    sizes = [{"input_ids": (1, 12), "attention_mask": (1, 12)}]
    (given,) = given_files(named(tmp_path), sizes, None, "bert")
    words(tmp_path, hidden_act="relu")
    (other,) = given_files(named(tmp_path), sizes, None, "bert")
    assert other.digest != given.digest
    with pytest.raises(DataError, match="was changed since this session began"):
        network_of(given)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:no/such-model", "is no folder here, and cannot be had from Hugging Face's hub"),
        ("timm:no_such_network", "timm:no_such_network cannot be built"),
        ("torchvision:no_such_network", "torchvision:no_such_network cannot be built"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(name, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=said) as raised:
        given_files(Path(name), [], None, "one")
    assert len(str(raised.value).splitlines()) == 1


def test_a_network_that_is_no_encoder_alone_or_quantized_is_refused(tmp_path):
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 50}
    transformers.BartModel(transformers.BartConfig(**sizes, **heads)).save_pretrained(tmp_path / "bart")
    with pytest.raises(DataError, match="is an encoder with a decoder"):
        given_files(named(tmp_path / "bart"), [], None, "bart")
    words(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(DataError, match="is quantized already"):
        given_files(named(tmp_path / "bert"), [], None, "bert")


def test_weights_that_are_missing_are_not_drawn(tmp_path):
    known = words(tmp_path)
    known.bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(DataError, match=r"holds no weights for classifier\.bias, classifier\.weight"):
        named_networks.module_of(named(tmp_path))


def test_pickled_weights_are_not_read(tmp_path):
    known = words(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(known.state_dict(), tmp_path / "pytorch_model.bin")
    (given,) = given_files(named(tmp_path), [{"input_ids": (1, 12), "attention_mask": (1, 12)}], None, "bert")
    with pytest.raises(DataError, match="cannot be built"):
        network_of(given)


def test_names_are_told_from_files():
    assert [kind_of(Path(name)) for name in ("hf:a/b.xml", "timm:resnet18", "a/hf.onnx")] == ["hf:", "timm:", ".onnx"]
    assert place_of(Path("hf:a/b")) == Path("hf:a/b")
    assert [model_name(Path(name)) for name in ("hf:a/bert-tiny", "timm:resnet18")] == ["bert_tiny", "resnet18"]


def test_torchvisions_networks_have_the_size_that_they_were_trained_on():
    signature = named_networks.signature_of(Path("torchvision:efficientnet_b1"))
    assert signature.inputs == (Port("x", "float32", ("batch", 3, 240, 240)),)


def test_a_named_network_is_measured(tmp_path):
    words(tmp_path / "tiny")
    command = [
        *(sys.executable, "-m", "pytest", "hf:tiny", "--bench-quick", "--bench-budget=1", "-p", "no:cacheprovider"),
        *("--bench-shape=input_ids=1x12,attention_mask=1x12", f"--bench-cache={tmp_path / 'cache'}", "-q"),
        *("--bench-engine=torch", "--bench-precision=fp32", "--benchmark-json=run.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    run = read(tmp_path / "run.json")
    records = {record.case.precision for record in run.records if record.status == "ok"}
    assert done.returncode == 0, done.stdout + done.stderr
    assert records == {"fp32"}
    alone = "hf:tiny::network[tiny-fp32-torch-b1-t1]"
    command[3] = alone
    listed = subprocess.run([*command, "--collect-only"], capture_output=True, text=True, cwd=tmp_path).stdout
    assert [line for line in listed.splitlines() if "::network[" in line] == [
        line for line in listed.splitlines() if line.endswith("::network[tiny-fp32-torch-b1-t1]")
    ]
    assert listed.count("::network[") == 1


def test_an_item_is_of_the_inputs_types(tmp_path):
    words(tmp_path)
    (given,) = given_files(named(tmp_path), [{"input_ids": (1, 12), "attention_mask": (1, 12)}], None, "bert")
    item = item_of(file_of(given), {"input_ids": np.ones((1, 12)), "attention_mask": np.ones((1, 12))})
    assert {array.dtype for array in item.arrays.values()} == {np.dtype("int64")}
