"""Mixed precision: the bits of each layer's weights, found by the error that they make in the network's outputs.

Weights of fewer bits are held in INT8 by every engine: size as packed is gained, and the speed of INT8.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from bench.compress.quantize import Places, Quantize, places_of
from bench.compress.quantizer import fit_weights, packed_bytes, quantizer_class, tensors_in, weight_levels
from bench.errors import BadCase, Unsupported
from bench.progress import progress
from bench.spec.limits import Limits, Size
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context

if TYPE_CHECKING:
    import numpy as np
    import torch

WIDTHS = (2, 3, 4, 5, 6, 7, 8)  # bits that weights of a layer may have
LOOKED_AT = 64  # training items whose outputs show a layer's error
HALVINGS = 6  # of the range of sizes, until the smallest that keeps to a drop is known to a 64th of it


@dataclass(frozen=True)
class Mixed(Quantize):
    """Round the weights of each layer to its own bits, 2 to 8, and activations to 8 bits.

    The error of a layer in so many bits is the noise that it alone makes in the outputs, over their power. Errors of
    several layers are taken to add up; an integer program finds the least sum within a size.

    drop  the most that quality may fall on the training side, before any training; None: no limit.
    size  the most that the state may take, weights packed by their bits; None: the least with which `drop` holds.
    """

    packages = ("scipy",)
    drop: float | None = 0.01
    size: Size | None = None

    @property
    def judges(self) -> bool:
        """It judges a drop."""
        return self.drop is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits != max(WIDTHS) or self.ends is not None:
            raise BadCase("a mixed network has 8 bits of activations in all layers: leave bits and ends as they are")
        if self.drop is None and self.size is None:
            raise BadCase("a mixed network needs a limit: a drop, a size, or both")

    def within(self, limits: Limits) -> Mixed:
        """With the caller's size in place of its own limits; with the caller's drop in place of its own."""
        if limits.size is not None:
            return replace(self, size=limits.size, drop=limits.drop)
        return self if limits.drop is None else replace(self, drop=limits.drop)

    def decided(self, traced: torch.fx.GraphModule, context: Context) -> Places:
        """The values that are quantized, and the bits of each layer. Raises Unsupported where a limit cannot hold."""
        places = super().decided(traced, context)
        names = list(places["layers"])
        errors, sizes = self._errors(traced, names, context), _sizes(traced, names)

        def placed(bits: Sequence[int]) -> Places:
            return {**places, "layers": dict(zip(names, bits, strict=True))}

        def made(bits: Sequence[int]) -> torch.fx.GraphModule:
            return self.calibrated(copy.deepcopy(traced), placed(bits), context)

        def fallen(bits: Sequence[int]) -> float:
            assert context.fallen is not None
            return context.fallen(made(bits))

        most = [max(WIDTHS)] * len(names)
        beside = packed_bytes(made(most)) - int(sizes[:, -1].sum())
        if self.size is None:
            return placed(self._smallest(errors, sizes, fallen))
        limit = self.size.of(_bytes_of(context.teacher))
        bits = least_errors(errors, sizes, limit - beside)
        if bits is None:
            least = beside + int(sizes[:, 0].sum())
            raise Unsupported(f"the weights may take {limit:,} bytes, and in 2 bits each they take {least:,}")
        if self.drop is not None and not (drop := fallen(bits)) <= self.drop:
            raise Unsupported(
                f"the best widths within {limit:,} bytes lose {drop:.2%} on the training side, more than "
                f"{self.drop:.2%}"
            )
        return placed(bits)

    def _smallest(self, errors: np.ndarray, sizes: np.ndarray, fallen: Callable[[Sequence[int]], float]) -> list[int]:
        """The widths of the smallest size whose drop is within the limit; more bits are taken never to hurt."""
        assert self.drop is not None
        best = [max(WIDTHS)] * len(sizes)
        if not (drop := fallen(best)) <= self.drop:
            raise Unsupported(
                f"weights in 8 bits lose {drop:.2%} on the training side, more than {self.drop:.2%}; int8_auto leaves "
                "layers in FP32"
            )
        low, high = float(sizes[:, 0].sum()), float(sizes[:, -1].sum())
        for _ in progress(range(HALVINGS), "the smallest size that keeps to the drop", HALVINGS):
            middle = (low + high) / 2
            bits = least_errors(errors, sizes, middle)
            if bits is not None and fallen(bits) <= self.drop:
                best, high = bits, middle
            else:
                low = middle
        return best

    def _errors(self, traced: torch.fx.GraphModule, names: list[str], context: Context) -> np.ndarray:
        """By layer and width (layers, widths) the power of the noise that it makes in the outputs, over theirs."""
        import numpy as np
        import torch

        given = [context.inputs(some) for some in places_of(context, LOOKED_AT)]

        def outputs(place: int) -> list[torch.Tensor]:
            return tensors_in(traced(*map(torch.clone, given[place])))

        def noise(known: list[list[torch.Tensor]], powers: np.ndarray) -> float:
            made = np.zeros(len(powers))
            for place, right in enumerate(known):
                pairs = zip(outputs(place), right, strict=True)
                made += [float((value.double() - wanted).square().sum()) for value, wanted in pairs]
            return float((made[powers > 0] / powers[powers > 0]).sum())

        errors = np.zeros((len(names), len(WIDTHS)))
        with torch.no_grad():
            known = [outputs(place) for place in range(len(given))]
            powers = np.array([[float(value.double().square().sum()) for value in batch] for batch in known]).sum(0)
            for row, name in progress(list(enumerate(names)), "one layer after the other in fewer bits", len(names)):
                weight = cast(Any, traced.get_submodule(name)).weight
                before = weight.detach().clone()
                for column, bits in enumerate(WIDTHS):
                    quantizer = quantizer_class()(*weight_levels(bits), len(before))
                    fit_weights(quantizer, before, self.clip)
                    weight.copy_(quantizer.eval()(before))
                    errors[row, column] = noise(known, powers)
                weight.copy_(before)
        return errors


def least_errors(errors: np.ndarray, sizes: np.ndarray, limit: float) -> list[int] | None:
    """The bits of each layer of the least sum of errors whose sizes add up to `limit` bytes at most; None: none do.

    errors, sizes  (layers, widths), by the widths of WIDTHS.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    one_each = np.kron(np.eye(len(errors)), np.ones(len(WIDTHS)))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(sizes.reshape(1, -1), ub=limit)]
    least = errors[errors > 0].min(initial=1.0)  # tolerances are absolute
    whole = np.ones(errors.size)
    options = {"mip_rel_gap": 0}
    solved = milp(
        errors.ravel() / least, constraints=constraints, integrality=whole, bounds=Bounds(0, 1), options=options
    )
    if solved.x is None:
        return None
    return [WIDTHS[place] for place in solved.x.reshape(errors.shape).argmax(1)]


def _sizes(traced: torch.fx.GraphModule, names: list[str]) -> np.ndarray:
    """The bytes of each layer's weights (layers, widths), packed."""
    import numpy as np

    counts = [cast(Any, traced.get_submodule(name)).weight.numel() for name in names]
    return np.array([[-(-count * bits // 8) for bits in WIDTHS] for count in counts])


def _bytes_of(network: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


recipes.add("mixed_int8", Recipe("mixed_int8", "int8", "static", steps=(Mixed(),)))
