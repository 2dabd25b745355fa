"""Modules that compute the same by other operations, for runtimes that lack right INT8 kernels for the usual ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def without_transposed(network: torch.nn.Module) -> torch.nn.Module:
    """A network that gives the same and in which a convolution and a pixel shuffle stand for each transposed
    convolution of one group, without dilation and of one stride; the others are left.

    Output pixel s q + r - p is a sum over the taps k = r mod s alone, for each of the s x s phases r: a convolution of
    ceil(k / s) taps. Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
    """
    import torch

    return _replaced(network, torch.nn.ConvTranspose2d, lambda module: _subpixel(module) if _can_be(module) else None)


def without_reflection(network: torch.nn.Module) -> torch.nn.Module:
    """A network that gives the same and in which each nn.ReflectionPad2d is told by slices that are put beside each
    other.
    """
    import torch

    return _replaced(network, torch.nn.ReflectionPad2d, lambda module: _mirrored(module.padding))


def _replaced(
    network: torch.nn.Module, kind: type[torch.nn.Module], other: Callable[..., torch.nn.Module | None]
) -> torch.nn.Module:
    """A copy of the network with `other(module)` in the place of each module of a kind, where it gives one; the
    network itself where there is none to replace.
    """
    found = {name: other(module) for name, module in network.named_modules() if isinstance(module, kind)}
    others = {name: new for name, new in found.items() if new is not None}
    if not others:
        return network
    network = copy.deepcopy(network)
    for name, new in others.items():
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, new)
    return network


def _mirrored(padding: tuple[int, int, int, int]) -> torch.nn.Module:
    """Reflection by `padding` pixels (left, right, top, bottom)."""
    import torch

    left, right, top, bottom = padding

    def wider(x: torch.Tensor, before: int, after: int, axis: int) -> torch.Tensor:
        size = x.shape[axis]
        ahead = [x.narrow(axis, place, 1) for place in range(before, 0, -1)]
        behind = [x.narrow(axis, size - 2 - place, 1) for place in range(after)]
        return torch.cat([*ahead, x, *behind], axis) if ahead or behind else x

    class Mirrored(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return wider(wider(x, top, bottom, 2), left, right, 3)

    return Mirrored().eval()


def _can_be(module: torch.nn.ConvTranspose2d) -> bool:
    kernel, padding, more, stride = module.kernel_size, module.padding, module.output_padding, module.stride
    return (
        module.groups == 1
        and set(module.dilation) == {1}
        and len(set(stride)) == 1
        and not isinstance(padding, str)
        and all(_cut(*sizes) >= 0 for sizes in zip(kernel, padding, more, stride, strict=True))
    )


def _cut(kernel: int, padding: int, output_padding: int, stride: int) -> int:
    """How many pixels too many stand behind the last one."""
    return -(-kernel // stride) * stride - kernel + padding - output_padding


def _subpixel(module: torch.nn.ConvTranspose2d) -> torch.nn.Module:
    import torch
    from torch import nn

    stride = module.stride[0]
    taps = (-(-module.kernel_size[0] // stride), -(-module.kernel_size[1] // stride))
    starts = tuple(int(extent) for extent in module.padding)
    ends = tuple(
        -cut or None
        for cut in (
            _cut(*sizes) for sizes in zip(module.kernel_size, starts, module.output_padding, module.stride, strict=True)
        )
    )
    planes_in, planes = module.in_channels, module.out_channels
    whole = torch.zeros(planes_in, planes, *(tap * stride for tap in taps))
    whole[..., : module.kernel_size[0], : module.kernel_size[1]] = module.weight.detach()
    phases = whole.view(planes_in, planes, taps[0], stride, taps[1], stride).flip(2, 4)
    has_bias = module.bias is not None
    convolution = nn.Conv2d(planes_in, planes * stride**2, taps, padding=(taps[0] - 1, taps[1] - 1), bias=has_bias)
    with torch.no_grad():
        convolution.weight.copy_(phases.permute(1, 3, 5, 0, 2, 4).flatten(0, 2))
        if convolution.bias is not None and module.bias is not None:
            convolution.bias.copy_(module.bias.repeat_interleave(stride**2))

    class SubPixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.pixel_shuffle(self.convolution(x), stride)
            return x[:, :, starts[0] : ends[0], starts[1] : ends[1]]

    return SubPixel().eval()
