"""Claims about `bench train`: which configurations it reads, that it goes on where it stopped, where weights go."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import Dataset, Model, Samples, Training, Weights, datasets, models
from bench.build.training import Config, Folder, Kept, Length, Loader, read_config, train
from bench.build.weights import trained_network
from bench.cli import main
from bench.compress.checkpoint import Checkpoint
from bench.errors import BadCase, DataError
from bench.spec.model import source
from bench.spec.state import read_state

DOCUMENT = """{
    "_comment_json": "This field is used for comments only",
    "cfg":{
        "_comment_chekpoint_path": "The path to save models",
        "checkpoint_path":"./chkp/64_200", // where the state is kept
    },
    "cfg_CIFAR":{ "root":"./data", "download":true /* or false */ },
    "cfg_dataloader_train":{"batch_size":64, "shuffle":true, "num_workers":2, "pin_memory":true},
    "cfg_dataloader_test":{"batch_size":1024, "shuffle":false, "num_workers":2, "pin_memory":true},
    "_comment_cfg_train":"Configuration for training cycle",
    "cfg_train":{"n_epoches":200}
}"""


def written(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    return file


def test_the_documents_configuration_is_read_with_its_comments(tmp_path):
    assert read_config(written(tmp_path, DOCUMENT)) == Config(
        Kept(Path("chkp/64_200")), Folder(Path("data"), True), Loader(64, True, 2, True), Length(200)
    )


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("}", "", "cannot be read as a JSON configuration"),
        ('"n_epoches":200', "", r"cfg_train: .*n_epoches"),
        ('"n_epoches":200', '"n_epoches":"many"', r"cfg_train: .*int"),
        ('"n_epoches":200', '"n_epoches":0', "n_epoches and batch_size are whole numbers from 1"),
        ('"n_epoches":200', '"epochs":200', "cfg_train has epochs; known there: n_epoches"),
        ('"batch_size":64', '"batch":64', "cfg_dataloader_train has batch; known there: batch_size, shuffle"),
        ('"shuffle":true', '"shuffle":false', "always shuffled"),
        ('"cfg_CIFAR"', '"data"', "has data; a configuration has cfg, cfg_<DATA SET>"),
        ('"root":"./data",', "", r"cfg_CIFAR: .*root"),
        ('"cfg_train":{', '"cfg_train":7, "cfg_x":{', "holds no sections"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_in_one_line(was, now, said, tmp_path):
    assert DOCUMENT.count(was)
    with pytest.raises(DataError, match=said) as refused:
        read_config(written(tmp_path, DOCUMENT.replace(was, now, 1) if was != "}" else DOCUMENT.rstrip("}")))
    assert "config.json" in str(refused.value)


# training

CENTRES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) * 3


def rows(split, folder):
    rng = np.random.default_rng(len(split))
    labels = rng.integers(0, 3, 60)
    return Samples(CENTRES[labels] + rng.normal(size=(60, 5)).astype(np.float32), labels)


def network():
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def files(folder):
    file = folder / "rows.txt"
    if not file.is_file():
        raise DataError(f"{folder} holds no rows.txt")
    return [file]


def fetch(folder):
    (folder / "rows.txt").write_text("rows")


def unwritten(folder):
    raise DataError("nothing is downloaded here")


LEARNING = Training(nn.functional.mse_loss, batch=8, rate=0.01, loss=nn.functional.cross_entropy)


def added(training=LEARNING, fetched=fetch):
    datasets.add("rows", Dataset("rows", "", rows, files, fetched))
    model = Model("learner", "classification", network, (Weights("as built", "rows"),), training=training)
    models.add("learner", model)
    return model


def config(tmp_path, epochs=4, download=False, batch=16):
    kept, folder = Kept(tmp_path / "chkp" / "state"), Folder(tmp_path / "data", download)
    return Config(kept, folder, Loader(batch), Length(epochs))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    fetch(place)
    return place


def test_weights_go_where_the_data_folder_is_looked_up_and_are_what_is_measured(folder, tmp_path):
    from bench.build.bill import Bill
    from bench.store import Store

    model = added()
    assert source(model, folder).weights.name == "as built"
    trained = train(model, config(tmp_path))
    assert trained.file == folder / "weights" / "learner-trained.safetensors"
    assert (trained.dataset, trained.n) == ("rows", 60)
    assert trained.quality["top1"] > 0.8
    assert trained.metrics["top1"].unit == "share"
    chosen = source(model, folder)
    assert (chosen.weights.name, chosen.dataset.name) == ("learner-trained", "rows")
    bill = Bill(Store(tmp_path / "cache"), chosen)
    kept = trained_network(chosen, bill.weights).state_dict()
    for name, tensor in read_state(trained.file).items():
        assert torch.equal(kept[name], tensor)


class Stopped(Exception):
    pass


def shaken(inputs, generator):
    return (inputs[0] + torch.randn(inputs[0].shape, generator=generator),)


def test_an_interrupted_training_goes_on_and_gives_the_same_weights(folder, tmp_path, monkeypatch):
    learning = Training(nn.functional.mse_loss, batch=8, rate=0.01, augment=shaken, loss=LEARNING.loss)
    epochs, keep = [], Checkpoint.keep

    def trained(place, most=99):
        epochs.clear()

        def stopping(self, count):
            keep(self, count)
            epochs.append(count)
            if len(epochs) == most:
                raise Stopped

        monkeypatch.setattr(Checkpoint, "keep", stopping)
        return read_state(train(added(learning), config(place), folder).file)

    with pytest.raises(Stopped):
        trained(tmp_path, 2)
    resumed = trained(tmp_path)
    assert epochs == [3, 4]
    whole = trained(tmp_path / "other")
    assert epochs == [1, 2, 3, 4]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert trained(tmp_path).keys() == whole.keys()
    assert not epochs, "it was trained already"


def test_another_rate_or_other_data_are_another_training(folder, tmp_path):
    train(added(), config(tmp_path))
    faster = Training(nn.functional.mse_loss, batch=8, rate=0.02, loss=LEARNING.loss)
    with pytest.raises(DataError, match="another training, with other epochs, batch, data or code"):
        train(added(faster), config(tmp_path))
    (folder / "rows.txt").write_text("other rows")
    with pytest.raises(DataError, match="is the checkpoint of another training"):
        train(added(), config(tmp_path))


def test_a_checkpoint_of_another_training_is_left_alone(folder, tmp_path):
    model = added()
    train(model, config(tmp_path))
    before = (tmp_path / "chkp" / "state").read_bytes()
    for other in (config(tmp_path, epochs=5), config(tmp_path, batch=8)):
        with pytest.raises(DataError, match="is the checkpoint of another training"):
            train(model, other)
    assert (tmp_path / "chkp" / "state").read_bytes() == before
    (tmp_path / "chkp" / "state").write_text("a user's notes")
    with pytest.raises(DataError, match="is no checkpoint of this training"):
        train(model, config(tmp_path))
    assert (tmp_path / "chkp" / "state").read_text() == "a user's notes"


def test_missing_data_are_downloaded_if_that_is_asked_for(tmp_path):
    model = added()
    with pytest.raises(DataError, match=r"holds no rows\.txt"):
        train(model, config(tmp_path))
    assert train(model, config(tmp_path, download=True)).file.is_file()
    again = replace(config(tmp_path, download=True), kept=Kept(tmp_path / "again"))
    assert train(added(fetched=unwritten), again).file.is_file(), "it is there already"


def test_a_model_that_is_not_trained_from_chance_says_so(folder, tmp_path):
    with pytest.raises(
        BadCase, match="learner does not say how it is trained from chance: its 'training' needs a 'loss'"
    ):
        train(added(Training(nn.functional.mse_loss)), config(tmp_path))


def test_the_command_prints_the_quality_and_the_place(folder, tmp_path, capsys):
    added()
    sections = {
        "cfg": {"checkpoint_path": str(tmp_path / "state")},
        "cfg_ROWS": {"root": str(folder)},
        "cfg_train": {"n_epoches": 3},
    }
    assert main(["train", "learner", "--config", str(written(tmp_path, json.dumps(sections)))]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("top1 ")
    assert line.endswith(f"on the 60 test items of rows; weights in {folder}/weights/learner-trained.safetensors")
    assert main(["train", "learner", "--config", str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
