"""Claims about modules told by other operations: they give what PyTorch's own give."""

import pytest
import torch
from torch import nn

from bench.engines.engine import quiet
from bench.engines.equivalents import without_padding_modes, without_reflection, without_transposed

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Told(nn.Module):
    """A transposed convolution that is told its output's size in the call, as PyTorch's documentation shows it."""

    def __init__(self, layer, *sizes):
        super().__init__()
        self.layer, self.sizes = layer, sizes

    def forward(self, x):
        return tuple(self.layer(x, output_size=size) for size in self.sizes)


@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 4), 9])
@pytest.mark.parametrize(
    ("stride", "padding", "output_padding"),
    [(1, 0, 0), (1, 2, 0), (2, 0, 0), (2, 1, 0), (2, 2, 1), (3, 0, 0), (3, 1, 0), (3, 2, 1), (2, 0, 1), ((1, 2), 0, 0)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_a_convolution_and_a_shuffle(kernel, stride, padding, output_padding, bias):
    if output_padding and kernel == 2:
        stride = 3  # an output padding must be smaller than the stride
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 5, kernel, stride, padding, output_padding, bias=bias)
    network, x = nn.Sequential(layer), torch.randn(2, 3, 11, 8)
    found = without_transposed(network, x.numpy())
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in found.modules())
    assert network[0] is layer


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_so_it_is_in_groups_with_gaps_and_in_one_and_three_dimensions(axes, groups, dilation):
    torch.manual_seed(0)
    layer = KINDS[axes](4, 8, 3, 2, 1, 1, groups, dilation=dilation)
    network, x = nn.Sequential(layer), torch.randn(2, 4, *(7, 6, 5)[:axes])
    found = without_transposed(network, x.numpy())
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(x), atol=1e-5, rtol=1e-5)
    assert not isinstance(found[0], KINDS[axes])


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("more", [0, 1])
def test_one_that_is_told_its_output_size_gives_that_size(kernel, more):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 7)
    sizes = [(extent - 1) * 2 - 2 + kernel + more for extent in (6, 7)]
    network = Told(nn.ConvTranspose2d(3, 4, kernel, 2, 1), sizes)
    found = without_transposed(network, x.numpy())
    assert found is not network
    with torch.no_grad():
        assert found(x)[0].shape[2:] == tuple(sizes)
        torch.testing.assert_close(found(x), network(x), atol=1e-5, rtol=1e-5)


def test_one_that_is_told_two_sizes_is_left():
    network = Told(nn.ConvTranspose2d(3, 4, 3, 2, 1), [11, 13], [12, 14])
    assert without_transposed(network, torch.randn(2, 3, 6, 7).numpy()) is network


def test_a_module_in_two_places_is_exchanged_in_both_and_the_network_itself_too():
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(4, 4, 3, 2), torch.randn(1, 4, 3, 3)
    found = without_transposed(nn.Sequential(layer, nn.ReLU(), layer), x.numpy())
    assert found[0] is found[2]
    with torch.no_grad():
        torch.testing.assert_close(found(x), layer(layer(x).relu()), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(without_transposed(layer, x.numpy())(x), layer(x), atol=1e-5, rtol=1e-5)
    assert not isinstance(without_transposed(layer, x.numpy()), nn.ConvTranspose2d)


@pytest.mark.parametrize("padding", [1, 3, (1, 2, 0, 3), (0, 0, 0, 0)])
def test_reflection_is_slices_beside_each_other(padding):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.ReflectionPad2d(padding)), torch.randn(2, 3, 7, 5)
    found = without_reflection(network)
    torch.testing.assert_close(found(x), network(x), atol=0, rtol=0)
    assert not any(isinstance(module, nn.ReflectionPad2d) for module in found.modules())


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("kernel", "padding"), [(3, "same"), (4, "same"), (3, "valid"), ((5, 3), (2, 1))])
def test_other_paddings_stand_before_the_convolution(mode, kernel, padding):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, padding=padding, padding_mode=mode)
    network, x = nn.Sequential(layer), torch.randn(2, 3, 9, 8)
    found = without_padding_modes(network)
    with torch.no_grad(), quiet():
        torch.testing.assert_close(found(x), network(x), atol=1e-6, rtol=1e-6)
    kept = [module for module in found.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.padding_mode == "zeros" and not isinstance(module.padding, str) for module in kept)
    assert (layer.padding, layer.padding_mode) == (padding, mode)
