"""Equivalent modules of other operations, for runtimes whose INT8 kernels for the usual ones are missing or wrong."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.spec.inputs import tensors_of

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given

    Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def without_transposed(network: torch.nn.Module, example: Given, least_groups: int = 1) -> torch.nn.Module:
    """An equivalent network with a convolution and a pixel shuffle in place of each transposed convolution.

    This concerns those of 1, 2 or 3 dimensions with at least `least_groups` groups. If a call passes `output_size`, the
    output size is fixed to that of the example (batch, ...). One that gets several sizes there, or is not called, is
    left.

    Output pixel s q + r - p is a sum over the taps k = r mod s only, for each of the s phases r along each axis: a
    convolution of ceil(k / s) taps. Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
    layer?".
    """
    import torch

    kinds = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    calls = calls_of(network, kinds, example)

    def other(module: Any) -> torch.nn.Module | None:
        paddings = {_output_padding(module, *args, **options) for args, options in calls.get(module, [])}
        can_be = len(paddings) == 1 and module.groups >= least_groups
        return _subpixel(module, paddings.pop()) if can_be else None

    return replaced(network, kinds, other)


def without_reflection(network: torch.nn.Module) -> torch.nn.Module:
    """An equivalent network with concatenated slices in place of each nn.ReflectionPad2d."""
    import torch

    return replaced(network, torch.nn.ReflectionPad2d, lambda module: _mirrored(module.padding))


def without_prelu(network: torch.nn.Module) -> torch.nn.Module:
    """An equivalent network with a call of functional.prelu in place of each nn.PReLU."""
    import torch
    from torch import nn

    def other(module: Any) -> torch.nn.Module:
        class Slope(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = module.weight

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return nn.functional.prelu(x, self.weight)

        return Slope().eval()

    return replaced(network, torch.nn.PReLU, other)


def without_padding_modes(network: torch.nn.Module) -> torch.nn.Module:
    """An equivalent network with a separate padding before each convolution that pads by anything but a number of
    zeros: "same", "valid", reflection, replication, circular.
    """
    import torch
    from torch import nn

    def other(module: Any) -> torch.nn.Module | None:
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return None
        if module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return None
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        amounts = tuple(module._reversed_padding_repeated_twice)
        convolution = copy.copy(module)
        convolution.padding, convolution.padding_mode = (0,) * len(module.kernel_size), "zeros"

        class Padded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convolution = convolution

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.convolution(nn.functional.pad(x, amounts, mode) if any(amounts) else x)

        return Padded().eval()

    return replaced(network, torch.nn.modules.conv._ConvNd, other)


def calls_of(
    network: torch.nn.Module, kinds: tuple[type[torch.nn.Module], ...], example: Given
) -> dict[torch.nn.Module, Calls]:
    """The arguments of each call of modules of these kinds while the network runs on the example, by module."""
    import torch

    calls: dict[torch.nn.Module, Calls] = {}

    def note(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.setdefault(module, []).append((args, options))

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    if hooks:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # the fast path calls no modules
        try:
            with torch.no_grad():
                network(*tensors_of(example.copy()))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for hook in hooks:
                hook.remove()
    return calls


def replaced(
    network: torch.nn.Module,
    kinds: type[torch.nn.Module] | tuple[type[torch.nn.Module], ...],
    other: Callable[[Any], torch.nn.Module | None],
) -> torch.nn.Module:
    """A copy of the network with `other(module)` in place of each module of these kinds, at all its places.

    Modules stay where `other` returns None. Returns the network itself where nothing is replaced.
    """
    replacements = {module: other(module) for module in network.modules() if isinstance(module, kinds)}
    others = {module: new for module, new in replacements.items() if new is not None}
    if network in others:
        return _alone(others[network])
    places = [
        (name, others[module]) for name, module in network.named_modules(remove_duplicate=False) if module in others
    ]
    if not places:
        return network
    network = copy.deepcopy(network)
    for name, new in places:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, new)
    return network


def _alone(module: torch.nn.Module) -> torch.nn.Module:
    """The module as a network with a single input: FX would take its optional parameters for inputs."""

    class Alone(type(module)):  # type: ignore[misc]  # derived, so that the names of its parts stay
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    module.__class__ = Alone
    return module


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


def _extents(module: Any) -> tuple[int, ...]:
    """The span of the kernel in pixels along each axis, including the gaps of its dilation."""
    return tuple((kernel - 1) * gap + 1 for kernel, gap in zip(module.kernel_size, module.dilation, strict=True))


def _output_padding(module: Any, x: torch.Tensor, output_size: list[int] | None = None) -> tuple[int, ...]:
    """The pixels per axis that a transposed convolution adds to its least output, called on x (batch, planes, ...)."""
    if output_size is None:
        return tuple(module.output_padding)
    extents, axes = _extents(module), len(module.kernel_size)
    return tuple(
        int(wanted) - ((size - 1) * stride - 2 * padding + extent)
        for wanted, size, stride, padding, extent in zip(
            output_size[-axes:], x.shape[-axes:], module.stride, module.padding, extents, strict=True
        )
    )


def _subpixel(module: Any, output_padding: tuple[int, ...]) -> torch.nn.Module:
    """The equivalent of a transposed convolution, see `without_transposed`."""
    import torch
    from torch import nn

    stride, starts, axes = module.stride, module.padding, len(module.stride)
    extents, groups = _extents(module), module.groups
    ends = [extent - start + more for extent, start, more in zip(extents, starts, output_padding, strict=True)]
    taps = [-(-max(extent, end) // step) for extent, end, step in zip(extents, ends, stride, strict=True)]
    sizes = [tap * step for tap, step in zip(taps, stride, strict=True)]
    cuts = [slice(start, end - size or None) for start, end, size in zip(starts, ends, sizes, strict=True)]
    planes_in, planes = module.in_channels // groups, module.out_channels // groups
    kernel = torch.zeros(module.in_channels, planes, *sizes)
    inside = [slice(0, extent, gap) for extent, gap in zip(extents, module.dilation, strict=True)]
    kernel[:, :, *inside] = module.weight.detach()
    # group, plane in, plane, then tap and phase of each axis
    phased = kernel.view(groups, planes_in, planes, *(x for pair in zip(taps, stride, strict=True) for x in pair))
    taps_at, phases_at = [3 + 2 * axis for axis in range(axes)], [4 + 2 * axis for axis in range(axes)]
    weight = phased.flip(taps_at).permute(0, 2, *phases_at, 1, *taps_at).flatten(0, 1 + axes)
    phases = math.prod(stride)
    has_bias = module.bias is not None
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](
        module.in_channels,
        module.out_channels * phases,
        tuple(taps),
        padding=tuple(tap - 1 for tap in taps),
        groups=groups,
        bias=has_bias,
    )
    with torch.no_grad():
        convolution.weight.copy_(weight)
        if convolution.bias is not None and module.bias is not None:
            convolution.bias.copy_(module.bias.repeat_interleave(phases))
    even = axes == 2 and len(set(stride)) == 1

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        if even:  # pixel_shuffle has an INT8 kernel
            return nn.functional.pixel_shuffle(x, stride[0])
        x = x.unflatten(1, (module.out_channels, *stride))
        x = x.permute(0, 1, *(place for axis in range(axes) for place in (2 + axes + axis, 2 + axis)))
        for axis in range(axes):
            x = x.flatten(2 + axis, 3 + axis)
        return x

    class SubPixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
            return shuffled(self.convolution(x))[:, :, *cuts]

    return SubPixel().eval()
