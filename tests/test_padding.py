"""Claims about items of several lengths: each goes to the first bucket that holds it, and padding changes no answer."""

import numpy as np
import pytest
import torch
from torch import nn

from bench import Dataset, Model, Samples, Weights, bucketed
from bench.build.weights import load_data
from bench.errors import DataError
from bench.spec.inputs import Inputs
from bench.spec.model import Source
from bench.tasks.inference import answered, inputs_of

FILL = {"words": 0, "mask": 0}


def items(lengths=(3, 8, 9, 16, 1, 12)):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 50, length) for length in lengths]
    return [{"words": row, "mask": np.ones_like(row), "topic": np.float32([len(row)])} for row in rows]


def models_of(lengths=(8, 16), fill=FILL, **more):
    return bucketed(Model("tagger", "features", None, (Weights("w", "d"),), **more), lengths, fill)


def source_of(model, samples):
    return Source(model, model.weights[0], Dataset("d", "", lambda split, folder: samples), None)


class Tagger(nn.Module):
    """Attention over masked words: scores of each word, and of the whole."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(50, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.tags, self.whole = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, words, mask, topic):
        x = self.layer(self.words(words) + topic[:, None], src_key_padding_mask=mask == 0)
        return self.tags(x), self.whole(x[:, 0])


def test_an_item_goes_to_the_first_bucket_that_holds_it_and_keeps_its_target():
    samples = Samples(items(), np.arange(6))
    short, long = (load_data(source_of(model, samples), "test") for model in models_of())
    assert [len(item["words"]) for item in short.inputs] == [3, 8, 1]
    assert short.targets == [0, 1, 4]
    assert [len(item["words"]) for item in long.inputs] == [9, 16, 12]
    assert long.targets == [2, 3, 5]


def test_items_are_padded_at_their_end_by_the_numbers_that_are_given():
    model = models_of(fill={"words": 7, "mask": 0})[0]
    (item,) = items([3])
    _, (inputs,) = inputs_of(model, item)
    assert inputs.arrays["words"].tolist() == [[*item["words"], 7, 7, 7, 7, 7]]
    assert inputs.arrays["mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert inputs.arrays["topic"].tolist() == [[3.0]]
    assert inputs.arrays["words"].dtype == item["words"].dtype


def test_a_lone_input_of_several_channels_is_padded_along_its_first_axis():
    (model,) = models_of([4], {"input": 0})
    _, (inputs,) = inputs_of(model, np.ones((3, 2), np.float32))
    assert inputs.lone
    assert inputs.batch().tolist() == [[[1, 1], [1, 1], [1, 1], [0, 0]]]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_masked_network_answers_padded_items_as_it_answers_them_alone(batch):
    torch.manual_seed(0)
    net = Tagger().eval()

    def call(inputs):
        with torch.inference_mode():
            return tuple(part.numpy() for part in net(*(torch.from_numpy(array) for array in inputs.values())))

    model = models_of([16], answer=lambda outputs, item: outputs[0][: len(item["words"])])[0]
    answers = answered(call, model, items(), batch).answers
    for item, answer in zip(items(), answers, strict=True):
        alone = call({name: array[None] for name, array in item.items()})[0][0]
        assert answer.shape == (len(item["words"]), 4)
        np.testing.assert_allclose(answer, alone, atol=1e-5)


def test_what_fits_no_bucket_is_an_error():
    with pytest.raises(DataError, match="a length of 17, and the longest bucket 16"):
        load_data(source_of(models_of()[0], Samples(items([3, 17]), [0, 1])), "test")
    with pytest.raises(DataError, match=r"tagger_16 takes items of lengths 9 to 16; data set d has none for 'train'"):
        load_data(source_of(models_of()[1], Samples(items([3]), [0])), "train")
    for lengths in ((), (0, 8)):
        with pytest.raises(DataError, match="lengths of buckets"):
            models_of(lengths)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ({"ids": 0}, "pads ids, and its inputs are words, mask, topic"),
        ({"words": 0, "topic": 0}, "differ in length: words 3, topic 1"),
    ],
)
def test_inputs_without_that_length_are_refused(fill, message):
    with pytest.raises(DataError, match=message):
        inputs_of(models_of(fill=fill)[0], items([3])[0])


def test_a_scalar_has_no_length():
    with pytest.raises(DataError, match="words 2, mask none"):
        models_of()[0].collate.takes(Inputs({"words": np.ones((1, 2)), "mask": np.ones(1)}))
