"""Claims about the picture data sets: what they read, how they split, and that drawn ones are the same every time."""

import numpy as np
import pytest
from PIL import Image

import fixtures.data  # noqa: F401 - registers them
from bench.errors import DataError
from bench.spec.dataset import datasets


def saved(folder, name, shape=(40, 60), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(picture).save(folder / name)
    return picture


def loaded(name, split="test", folder=None):
    return datasets.get(name).load(split, folder)


@pytest.mark.parametrize("name", ["scenes_objects", "scenes_classes", "pictures", "pictures_grey_noisy", "pictures_x3"])
def test_an_embedded_set_is_the_same_every_time_and_its_splits_differ(name):
    one, again, train = loaded(name), loaded(name), loaded(name, "train")
    for first, second in zip(one.inputs, again.inputs, strict=True):
        np.testing.assert_array_equal(first, second)
    assert len(one.inputs) == len(one.targets)
    assert not any(np.array_equal(one.inputs[0], other) for other in train.inputs)


def test_drawn_faces_lie_in_their_pictures_and_count_by_their_size():
    samples = loaded("scenes_objects")
    for picture, target in zip(samples.inputs, samples.targets, strict=True):
        assert picture.shape == (640, 640, 3)
        assert target.boxes.min() >= 0
        assert target.boxes.max() <= 640
        sizes = (target.boxes[:, 2:] - target.boxes[:, :2]).max(axis=1)
        assert (target.subsets["easy"] == (sizes >= 80)).all()
        assert target.subsets["hard"].all()


def test_drawn_streets_have_all_eleven_classes():
    samples = loaded("scenes_classes")
    assert samples.inputs.shape[1:] == (256, 320, 3)
    assert set(np.unique(samples.targets)) == set(range(11))


def test_a_folder_of_photographs_is_split_into_thirds_or_by_its_own_training_side(tmp_path):
    for number in range(6):
        saved(tmp_path / "photos", f"{number}.png", (261, 302), number)
    assert len(loaded("photos", "test", tmp_path).inputs) == 4
    assert loaded("photos", "test", tmp_path).inputs[0].shape == (260, 300, 3)
    assert [tile.shape for tile in loaded("photos", "train", tmp_path).inputs] == [(256, 256, 3)] * 2
    own = saved(tmp_path / "photos_train", "own.png", (256, 256), 99)
    assert len(loaded("photos", "test", tmp_path).inputs) == 6
    np.testing.assert_array_equal(loaded("photos", "train", tmp_path).inputs[0], own)
    assert len(datasets.get("photos").files(tmp_path)) == 7


def test_small_pictures_that_lie_beside_large_ones_are_taken_and_others_made(tmp_path):
    for name in ("Set5", "Set14"):
        saved(tmp_path / "sr" / name, "img_001_SRF_2_HR.png", (192, 384))
    small = saved(tmp_path / "sr" / "Set5", "img_001_SRF_2_LR.png", (96, 192), 5)
    from fixtures.data.superres import ycbcr

    np.testing.assert_array_equal(loaded("set5_x2", "test", tmp_path).inputs[0], ycbcr(small))
    made = loaded("set5_x3", "test", tmp_path)
    assert made.inputs[0].shape == (3, 64, 128)
    assert made.targets[0].shape == (3, 192, 384)
    train = loaded("set5_x2", "train", tmp_path)
    assert [train.inputs.shape, train.targets.shape] == [(2, 3, 96, 96), (2, 3, 192, 192)]


def test_folders_by_class_are_numbered_by_their_names(tmp_path):
    for split in ("train", "val"):
        saved(tmp_path / "imagenet" / split / "n02", "b.JPEG", (300, 500))
        saved(tmp_path / "imagenet" / split / "n01", "a.JPEG", (500, 300))
    samples = loaded("imagenet", "test", tmp_path)
    assert list(samples.targets) == [0, 1]
    assert np.stack(list(samples.inputs)).shape == (2, 224, 224, 3)


def test_camvids_void_does_not_count_and_labels_beyond_it_are_refused(tmp_path):
    for split in ("train", "val"):
        saved(tmp_path / "camvid" / split, "1.png")
        place = tmp_path / "camvid" / f"{split}annot"
        place.mkdir()
        Image.fromarray(np.full((40, 60), 11 if split == "val" else 3, np.uint8)).save(place / "1.png")
    assert set(np.unique(loaded("camvid", "test", tmp_path).targets)) == {255}
    assert set(np.unique(loaded("camvid", "train", tmp_path).targets)) == {3}
    Image.fromarray(np.full((40, 60), 12, np.uint8)).save(tmp_path / "camvid" / "valannot" / "1.png")
    with pytest.raises(DataError, match="has labels up to 12"):
        loaded("camvid", "test", tmp_path)


@pytest.mark.parametrize(
    "name", ["photos", "set5_x2", "set12", "camvid", "widerface", "imagenet", "photos_256", "photos_noisy"]
)
def test_a_set_that_is_not_there_says_what_it_misses(name, tmp_path):
    with pytest.raises(DataError, match=r"holds|lacks"):
        datasets.get(name).files(tmp_path)
    with pytest.raises(DataError, match="needs a data folder"):
        loaded(name)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    for number in range(3):
        saved(tmp_path / "photos", f"{number}.png")
    (tmp_path / "photos" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png is no picture"):
        loaded("photos", "test", tmp_path)
