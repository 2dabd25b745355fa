"""Claims about modules told by other operations: they give what PyTorch's own give."""

import pytest
import torch

from bench.engines.equivalents import without_reflection, without_transposed


@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 4), 9])
@pytest.mark.parametrize(
    ("stride", "padding", "output_padding"),
    [(1, 0, 0), (1, 2, 0), (2, 0, 0), (2, 1, 0), (2, 2, 1), (3, 0, 0), (3, 1, 0), (3, 2, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_a_convolution_and_a_shuffle(kernel, stride, padding, output_padding, bias):
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(3, 5, kernel, stride, padding, output_padding, bias=bias)
    network, x = torch.nn.Sequential(layer), torch.randn(2, 3, 11, 8)
    found = without_transposed(network)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(found(x), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, torch.nn.ConvTranspose2d) for module in found.modules())
    assert network[0] is layer


@pytest.mark.parametrize("options", [{"groups": 3}, {"dilation": 2}, {"stride": (1, 2)}])
def test_one_that_cannot_be_is_left(options):
    network = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 3, 3, **options))
    assert isinstance(without_transposed(network)[0], torch.nn.ConvTranspose2d)


@pytest.mark.parametrize("padding", [1, 3, (1, 2, 0, 3), (0, 0, 0, 0)])
def test_reflection_is_slices_beside_each_other(padding):
    torch.manual_seed(0)
    network, x = torch.nn.Sequential(torch.nn.ReflectionPad2d(padding)), torch.randn(2, 3, 7, 5)
    found = without_reflection(network)
    torch.testing.assert_close(found(x), network(x), atol=0, rtol=0)
    assert not any(isinstance(module, torch.nn.ReflectionPad2d) for module in found.modules())
