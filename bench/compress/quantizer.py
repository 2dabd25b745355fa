"""Modules that round a tensor to whole numbers and back, with scales of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

LEAST = 1e-8  # of a scale; a range of zeros has none
STANDS = "stands for PyTorch's"  # an attribute of layers


@cache
def quantizer_class() -> Any:
    """The class of quantizers, made at its first use: PyTorch is imported then."""
    import torch
    from torch import nn

    class Quantizer(nn.Module):
        """Round a tensor to whole numbers `lowest`..`highest` times a scale, and back to floating point.

        count  1 for a scale of the whole tensor, else a scale for each place along the first axis, symmetric.
        """

        scale: torch.Tensor
        zero_point: torch.Tensor

        def __init__(self, lowest: int, highest: int, count: int = 1) -> None:
            super().__init__()
            self.lowest, self.highest = lowest, highest
            self.scale = nn.Parameter(torch.ones(count), requires_grad=False)
            self.register_buffer("zero_point", torch.zeros(count))

        @property
        def by_channel(self) -> bool:
            return self.lowest < 0

        @property
        def bits(self) -> int:
            return int(self.highest - self.lowest).bit_length()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale, zero = self.scale, self.zero_point
            if (
                self.training
            ):  # Esser et al. 2020, "Learned Step Size Quantization": the scale's gradient is made smaller
                count = x[0].numel() if self.by_channel else x.numel()
                small = scale * (count * self.highest) ** -0.5
                scale = small + (scale - small).detach()
            if self.by_channel:
                scale, zero = (value.view(-1, *[1] * (x.dim() - 1)) for value in (scale, zero))
            whole = x / scale
            rounded = torch.round(whole) + zero
            held = torch.clamp(rounded, self.lowest, self.highest)
            if self.training:  # rounding passes gradients on, where it is not cut off
                held = held + (whole - whole.detach()) * (held == rounded)
            return (held - zero) * scale

    return Quantizer


@cache
def weighted_class() -> Any:
    """The class of layers whose weights are rounded at each call, made at its first use."""
    from torch import nn
    from torch.func import functional_call

    class Weighted(nn.Module):
        """A convolution or linear layer with a quantizer for its weights."""

        def __init__(self, layer: nn.Module, quantizer: nn.Module) -> None:
            super().__init__()
            self.layer, self.quantizer = layer, quantizer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.quantizer(self.layer.weight)
            if standing_for(self.layer) is not None:
                return functional_call(self.layer, {"weight": weight}, (x,))
            return applied(self.layer, x, weight)

    return Weighted


def standing_for(layer: torch.nn.Module) -> type[torch.nn.Module] | None:
    """The class of PyTorch's that a user's convolution or linear layer stands for; None of PyTorch's own."""
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    own = not type(layer).__module__.startswith("torch.")
    return next((kind for kind in kinds if own and isinstance(layer, kind)), None)


def as_standard(network: torch.nn.Module, names: Sequence[str] | None = None) -> dict[str, type[torch.nn.Module]]:
    """Have layers that stand for PyTorch's, or those of them with these names, be computed by PyTorch's, in place.

    Returns their own classes by name, for `restore`. Those with names are marked for `as_lowered`.
    """
    own: dict[str, type[torch.nn.Module]] = {}
    for name, part in network.named_modules():
        standard = standing_for(part) if names is None or name in names else None
        if standard is not None:
            own[name], part.__class__ = type(part), standard
            vars(part)[STANDS] = names is not None
    return own


def as_lowered(network: torch.nn.Module) -> None:
    """Have the layers that `as_standard` marked be computed by PyTorch's, in place: engines know no others."""
    for part in network.modules():
        standard = standing_for(part)
        if vars(part).get(STANDS) and standard is not None:
            part.__class__ = standard


def tensors_in(outputs: Any) -> list[torch.Tensor]:
    """The tensors of a network's outputs, in order."""
    import torch
    from torch.utils import _pytree

    return [value for value in _pytree.tree_leaves(outputs) if isinstance(value, torch.Tensor)]


def restore(network: torch.nn.Module, own: Mapping[str, type[torch.nn.Module]]) -> None:
    """Give layers their own classes back, also inside of `Weighted`."""
    for name, kind in own.items():
        part: Any = network.get_submodule(name)
        (part.layer if isinstance(part, weighted_class()) else part).__class__ = kind


def applied(layer: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The output of a convolution or linear layer with other weights."""
    import torch

    if isinstance(layer, torch.nn.Linear):
        return torch.nn.functional.linear(x, weight, layer.bias)
    output: torch.Tensor = layer._conv_forward(x, weight, layer.bias)
    return output


def stored_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a network as a file would hold it: rounded weights as whole numbers, without the zero points
    that are zero.
    """
    import torch

    state = dict(network.state_dict())
    for name, part in network.named_modules():
        if isinstance(part, weighted_class()):
            weight, quantizer = cast(Any, part).layer.weight, cast(Any, part).quantizer
            scale = quantizer.scale.view(-1, *[1] * (weight.dim() - 1))
            whole = (quantizer(weight) / scale).round().detach()
            state[f"{name}.layer.weight"] = whole.to(torch.int8 if quantizer.bits <= 8 else torch.int16)
            del state[f"{name}.quantizer.zero_point"]
    return state


def packed_bytes(network: torch.nn.Module) -> int:
    """The bytes of a network's state with the weights of quantized layers packed by their bits, all else as it is."""
    bits: dict[str, int] = {
        f"{name}.layer.weight": cast(Any, part).quantizer.bits
        for name, part in network.named_modules()
        if isinstance(part, weighted_class())
    }
    state = stored_state(network).items()
    return sum(-(-tensor.numel() * bits.get(name, 8 * tensor.element_size()) // 8) for name, tensor in state)


def levels(bits: int) -> tuple[int, int]:
    """The least and greatest whole number of an activation."""
    return 0, 2**bits - 1


def weight_levels(bits: int) -> tuple[int, int]:
    """The least and greatest whole number of a weight."""
    return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1


def fit_weights(quantizer: Any, weight: torch.Tensor, clip: str) -> None:
    """Set a scale for each channel: by its greatest value, or by the least squared error ("mse")."""
    import torch

    rows = weight.detach().flatten(1)
    most = rows.abs().amax(1).clamp(min=LEAST * quantizer.highest)
    best, least = most / quantizer.highest, torch.full_like(most, torch.inf)
    for share in torch.linspace(0.3, 1, 71) if clip == "mse" else [torch.tensor(1.0)]:
        scale = most * share / quantizer.highest
        rounded = (rows / scale[:, None]).round().clamp(quantizer.lowest, quantizer.highest) * scale[:, None]
        error = (rounded - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    quantizer.scale.data.copy_(best)


CANDIDATES, VALUES = 40, 65536  # ranges that are tried, shares of the greatest; values of a batch that are looked at


def fit_activations(quantizers: dict[str, Any], run: Callable[[], None], clip: str) -> None:
    """Set the scale and zero point of each quantizer from what reaches it in `run`, which is called up to twice.

    The range holds zero. It is that of all values, or of the shares of it the one of least squared error ("mse").
    """
    import torch

    lows, highs = dict.fromkeys(quantizers, 0.0), dict.fromkeys(quantizers, 0.0)
    errors = {name: torch.zeros(CANDIDATES) for name in quantizers}

    def settings(name: str, share: float) -> tuple[float, float]:
        low, high, top = lows[name] * share, highs[name] * share, quantizers[name].highest
        scale = max((high - low) / top, LEAST)
        return scale, min(max(round(-low / scale), 0), top)

    def bounds(name: str, x: torch.Tensor) -> None:
        lows[name], highs[name] = min(lows[name], float(x.min())), max(highs[name], float(x.max()))

    def error(name: str, x: torch.Tensor) -> None:
        x = x.flatten()
        x = x[:: -(-len(x) // VALUES)]
        for place in range(CANDIDATES):
            scale, zero = settings(name, (place + 1) / CANDIDATES)
            rounded = ((x / scale).round().add(zero).clamp(0, quantizers[name].highest) - zero) * scale
            errors[name][place] += float((rounded - x).square().sum())

    for look in (bounds, error) if clip == "mse" else (bounds,):
        _watched(quantizers, look, run)
    for name, quantizer in quantizers.items():
        share = (int(errors[name].argmin()) + 1) / CANDIDATES if clip == "mse" else 1.0
        scale, zero = settings(name, share)
        quantizer.scale.data.fill_(scale)
        quantizer.zero_point.fill_(zero)


def _watched(quantizers: dict[str, Any], look: Callable[[str, torch.Tensor], None], run: Callable[[], None]) -> None:
    """Run with quantizers that pass their inputs on, unrounded, once `look` has seen them."""

    def hook(name: str) -> Callable[..., torch.Tensor]:
        def seen(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            look(name, given[0])
            return given[0]

        return seen

    hooks = [quantizer.register_forward_hook(hook(name)) for name, quantizer in quantizers.items()]
    try:
        run()
    finally:
        for each in hooks:
            each.remove()
