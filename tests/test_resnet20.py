"""Claims about ResNet20, its published weights and its training."""

import numpy as np
import pytest
import torch

from bench.build.networks import load_state
from bench.errors import DataError
from bench.spec.model import models
from fixtures.data import cifar10, digits
from fixtures.models import resnet20

FILE = models.get("resnet20").weights[0].file


def one_line(error):
    return "\n" not in str(error.value)


def small_digits(count=48):
    samples = digits.load("train", None)
    return resnet20.preprocess(samples.inputs[:count]), samples.targets[:count]


def trained():
    torch.manual_seed(0)
    network = resnet20.network().eval()
    resnet20.train(network, *small_digits(), epochs=1)
    return network


def test_it_has_269722_parameters():
    assert sum(parameter.numel() for parameter in resnet20.network().parameters()) == 269_722


@pytest.mark.parametrize("batch", [1, 3])
def test_it_gives_ten_scores_for_each_image(batch):
    network = resnet20.network().eval()
    with torch.inference_mode():
        assert network(torch.zeros(batch, 3, 32, 32)).shape == (batch, 10)


@pytest.mark.parametrize(("stage", "width"), [("layer2", 16), ("layer3", 32)])
def test_its_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides(stage, width):
    block = getattr(resnet20.network().eval(), stage)[0]
    torch.nn.init.zeros_(block.bn2.weight)  # the residual is now 0 and the block's output the shortcut's
    images = np.random.default_rng(0).random((2, width, 8, 8), np.float32)
    expected = np.zeros((2, 2 * width, 4, 4), np.float32)
    for image in range(2):
        for channel in range(width):
            for y in range(4):
                for x in range(4):
                    expected[image, width // 2 + channel, y, x] = images[image, channel, 2 * y, 2 * x]
    with torch.inference_mode():
        np.testing.assert_array_equal(block(torch.from_numpy(images)).numpy(), expected)


def test_it_can_be_traced_symbolically_and_exported_with_a_free_batch():
    network = resnet20.network().eval().requires_grad_(False)
    two, five = torch.randn(2, 3, 32, 32), torch.randn(5, 3, 32, 32)
    traced = torch.fx.symbolic_trace(network)
    exported = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    torch.testing.assert_close(traced(five), network(five), rtol=0, atol=0)
    torch.testing.assert_close(exported(five), network(five))


def test_preprocessing_scales_and_normalizes_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    given = resnet20.preprocess(images)
    assert given.dtype == np.float32
    assert given.flags.c_contiguous
    assert given.shape == (2, 3, 4, 5)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (images[..., channel].astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(given[:, channel], expected, rtol=0, atol=1e-6)


def test_the_prefix_of_published_keys_is_stripped_and_absent_counts_are_made_up_for(tmp_path):
    network = resnet20.network()
    published = {f"module.{k}": v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(published) == 97
    torch.save({"state_dict": published, "best_prec1": 91.7}, tmp_path / "own.th")
    other = resnet20.network()
    load_state(other, resnet20.read(tmp_path / "own.th"), "own.th")
    assert torch.equal(other.layer3[2].conv2.weight, network.layer3[2].conv2.weight)


def test_keys_of_another_network_are_named_with_the_file(tmp_path):
    file = tmp_path / "other.th"
    state = {f"module.{k}": v for k, v in resnet20.network().state_dict().items()}
    state["module.fc.weight"] = state.pop("module.linear.weight")
    torch.save({"state_dict": state}, file)
    with pytest.raises(DataError, match=r"other\.th .*linear\.weight.*fc\.weight") as error:
        load_state(resnet20.network(), resnet20.read(file), str(file))
    assert one_line(error)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"state_dict": {"conv1.weight": 1}}, {"state_dict": 3}])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content):
    torch.save(content, tmp_path / "foreign.th")
    with pytest.raises(DataError, match=r"foreign\.th holds no") as error:
        resnet20.read(tmp_path / "foreign.th")
    assert one_line(error)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 100, 5_000, 500_000])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, kept, legacy):
    file = tmp_path / "short.th"
    torch.save({"state_dict": resnet20.network().state_dict()}, file, _use_new_zipfile_serialization=not legacy)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"short\.th cannot be read") as error:
        resnet20.read(file)
    assert one_line(error)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"state_dict": Trap()}, tmp_path / "trap.th")
    with pytest.raises(DataError, match=r"trap\.th cannot be read"):
        resnet20.read(tmp_path / "trap.th")
    assert not (tmp_path / "ran").exists()


def test_training_gives_the_same_weights_each_time_and_leaves_the_network_in_eval_mode():
    one, other = trained(), trained()
    assert not one.training
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_training_changes_every_convolution():
    torch.manual_seed(0)
    before = dict(resnet20.network().named_parameters())
    still = [name for name, now in trained().named_parameters() if torch.equal(now, before[name])]
    assert not [name for name in still if "conv" in name or "linear" in name]


def test_the_published_file_holds_97_entries(real_data):
    stored = torch.load(real_data / FILE, map_location="cpu", weights_only=True)["state_dict"]
    assert len(stored) == 97
    assert all(name.startswith("module.") for name in stored)


def test_the_published_weights_are_right_for_932_of_the_first_1017_test_images(real_data):
    network = resnet20.network().eval()
    load_state(network, resnet20.read(real_data / FILE), FILE)
    test = cifar10.load("test", real_data)
    with torch.inference_mode():
        scores = network(torch.from_numpy(resnet20.preprocess(test.inputs[:1017])))
    assert int((scores.argmax(1).numpy() == test.targets[:1017]).sum()) == 932
