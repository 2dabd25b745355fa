"""Claims about tiles: a picture put together from them is that of the whole picture."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.spec.model import Model, Weights
from bench.spec.tiling import Tile
from bench.tasks.inference import answered, load_answers, save_answers


@pytest.mark.parametrize("shape", [(40, 40), (41, 77), (40, 200), (123, 95), (9, 60)])
def test_tiles_put_together_without_a_network_are_the_picture(shape):
    picture = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    tile = Tile(40, margin=6)
    cut = tile.cut(picture)
    assert {piece.shape for piece in cut} == {(3, 40, 40)}
    np.testing.assert_array_equal(tile.join(cut, picture), picture)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_convolutions_by_tiles_give_what_they_give_of_the_whole_picture(scale, batch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 2 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
    )
    chance = np.random.default_rng(0)
    pictures = [chance.normal(size=(2, *shape)).astype(np.float32) for shape in ((32, 32), (50, 71), (33, 90))]
    model = Model("m", "features", None, (Weights("w", "d"),), tile=Tile(32, margin=4, scale=scale))

    def predict(inputs):
        assert inputs.shape == (batch, 2, 32, 32)
        with torch.inference_mode():
            return net(torch.from_numpy(inputs)).numpy()

    found = answered(predict, model, pictures, batch)
    for picture, answer in zip(pictures, found.answers, strict=True):
        with torch.inference_mode():
            whole = net(torch.from_numpy(picture)[None])[0].numpy()
        np.testing.assert_allclose(answer, whole, atol=1e-5)


def test_several_outputs_are_told_apart_for_each_item():
    model = Model("m", "features", None, (Weights("w", "d"),), answer=lambda output, item: output[1] + item[0])
    items = np.arange(10, dtype=np.float32).reshape(5, 2)
    found = answered(lambda inputs: (inputs, inputs[:, :1] * 10), model, items, 2)
    assert [answer.tolist() for answer in found.answers] == [[item[0] * 11] for item in items]
    np.testing.assert_array_equal(found.raw, [[*item, item[0] * 10] for item in items])


def test_answers_of_any_shapes_come_back_as_they_were_kept(tmp_path):
    chance = np.random.default_rng(0)
    answers = [chance.normal(size=(count, 15)).astype(np.float32) for count in (3, 0, 7)]
    save_answers(tmp_path / "answers.npz", answers)
    for known, kept in zip(answers, load_answers(tmp_path / "answers.npz"), strict=True):
        np.testing.assert_array_equal(known, kept)
        assert known.dtype == kept.dtype
