"""Claims about the convolution as img2col and a product: it is nn.Conv2d, forward and backward."""

import pytest
import torch

from fixtures.models.img2col import conv2d, stack

SHAPES = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1)},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 5, "groups": 4, "stride": 2, "dilation": (1, 2), "padding": 3},
]


@pytest.mark.parametrize("words", SHAPES, ids=str)
def test_it_equals_conv2d_forward_and_backward(words):
    torch.manual_seed(0)
    own, theirs = conv2d(4, 8, **words).double(), torch.nn.Conv2d(4, 8, **words).double()
    own.load_state_dict(theirs.state_dict())
    inputs = [torch.randn(3, 4, 13, 17, dtype=torch.float64).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [net(x) for net, x in zip((own, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    pull = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(pull)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad)
    if own.bias is not None:
        torch.testing.assert_close(own.bias.grad, theirs.bias.grad)


def test_its_gradients_pass_autograds_own_check():
    net = conv2d(2, 2, 3, padding=1).double()
    assert torch.autograd.gradcheck(net, torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True))


def test_padding_that_it_has_not_is_refused():
    with pytest.raises(ValueError, match="pads with zeros by numbers"):
        conv2d(1, 1, 3, padding="same")


def test_a_step_leaves_gradients_on_all_weights_even_in_inference_mode():
    torch.manual_seed(0)
    step = stack(3, "img2col", True).eval()
    with torch.inference_mode():
        step(torch.randn(2, 16, 32, 32))
    assert all(weight.grad is not None for weight in step.parameters())
