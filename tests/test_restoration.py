"""Claims about the figures of restoration and segmentation, against torchmetrics and by pictures made worse."""

import numpy as np
import pytest
import torch
from skimage import data
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.segmentation import mean_iou

from bench.tasks import tasks
from bench.tasks.restoration import degradations, psnr_db, ssim
from bench.tasks.segmentation import VOID, confusion


@pytest.fixture(scope="module")
def picture():
    return (data.astronaut()[:128, 100:228].transpose(2, 0, 1) / 255).astype(np.float32)


@pytest.fixture
def noisy(picture):
    return np.clip(picture + np.random.default_rng(0).normal(0, 0.05, picture.shape), 0, 1).astype(np.float32)


def test_psnr_is_that_of_torchmetrics(picture, noisy):
    theirs = peak_signal_noise_ratio(torch.from_numpy(noisy), torch.from_numpy(picture), data_range=1.0)
    assert psnr_db(noisy, picture) == pytest.approx(float(theirs), abs=1e-4)


def test_ssim_is_that_of_torchmetrics(picture, noisy):
    everywhere = structural_similarity_index_measure(
        torch.from_numpy(noisy)[None],
        torch.from_numpy(picture)[None],
        sigma=1.5,
        data_range=1.0,
        return_full_image=True,
    )[1]
    inner = everywhere[
        ..., 5:-5, 5:-5
    ]  # where the whole Gaussian of 11 pixels lies on the picture, as its authors count
    assert ssim(noisy, picture) == pytest.approx(float(inner.mean()), abs=1e-5)


def test_the_names_of_figures_state_the_colour_space_and_the_border(picture, noisy):
    quality = tasks.get("restoration_ycbcr").quality([noisy], [picture])
    assert set(quality) == {"psnr_ycbcr_shave0_db", "ssim_ycbcr_shave0", "psnr_y_shave4_db"}
    assert quality["psnr_y_shave4_db"] == pytest.approx(psnr_db(noisy[0, 4:-4, 4:-4], picture[0, 4:-4, 4:-4]))
    assert set(tasks.get("generation").quality([noisy], [picture])) == {
        "psnr_to_input_rgb_shave0_db",
        "ssim_to_input_rgb_shave0",
    }


def test_a_picture_that_is_as_it_was_has_no_degradation(picture):
    assert degradations(picture, picture) == {
        "psnr_db": float("inf"),
        "ssim": pytest.approx(1),
        "detail": 1,
        "banding": 0,
        "clipping": 0,
        "colour_shift": 0,
        "contrast": pytest.approx(1),
    }


def test_each_degradation_moves_its_own_figure(picture):
    blurred = (picture + np.roll(picture, 1, -1) + np.roll(picture, 1, -2)) / 3
    assert degradations(blurred, picture)["detail"] < 0.8
    ramp = np.linspace(0.2, 0.8, 512, dtype=np.float32)[None, None].repeat(64, 1).repeat(3, 0)
    assert degradations(np.round(ramp * 16) / 16, ramp)["banding"] > 0.8
    assert degradations(np.clip(picture * 2 - 0.5, 0, 1), picture)["clipping"] > 0.1
    shifted = picture.copy()
    shifted[0] += 3 / 255
    assert degradations(shifted, picture)["colour_shift"] == pytest.approx(3, abs=1e-3)
    assert degradations((picture - 0.5) * 0.7 + 0.5, picture)["contrast"] == pytest.approx(0.7, abs=1e-3)


def test_mean_iou_is_that_of_torchmetrics_over_the_pixels_of_all_pictures():
    chance = np.random.default_rng(0)
    targets, answers = chance.integers(0, 5, (2, 6, 40, 30))
    whole = [torch.from_numpy(np.concatenate(list(part)))[None] for part in (answers, targets)]
    theirs = mean_iou(*whole, num_classes=5, per_class=True, input_format="index")[0]
    quality = tasks.get("segmentation").quality(list(answers), list(targets))
    assert quality["miou"] == pytest.approx(float(theirs.mean()), abs=1e-6)
    assert list(quality["iou"].values()) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_void_pixels_and_absent_classes_do_not_count():
    target = np.array([[0, 1, VOID, VOID]], np.uint8)
    answer = np.array([[0, 1, 3, 1]], np.uint8)
    quality = tasks.get("segmentation").quality([answer], [target])
    assert quality == {"miou": 1.0, "pixel_accuracy": 1.0, "iou": {"0": 1.0, "1": 1.0}}
    assert confusion([answer], [target]).sum() == 2
