"""Quantization with scales of our own, which every engine then takes as they are.

INT8 gains speed on every engine here. Fewer or more bits are simulated: computed in FP32, they show quality alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, cast

from bench.compress.finetune import SEED, finetune
from bench.compress.quantizer import (
    LEAST,
    as_standard,
    fit_activations,
    fit_weights,
    levels,
    packed_bytes,
    quantizer_class,
    restore,
    standing_for,
    tensors_in,
    weight_levels,
    weighted_class,
)
from bench.compress.sparse import Sparse
from bench.errors import BadCase, Unsupported
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context, Step

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Decided

BATCH = 32  # items of a call that sets the first scales
FLOAT = 32  # bits of what is left in FP32
QUANTIZERS, STANDING, OWN = "quantizers", "standing", "own classes"
TOLERANCE = 1e-3  # of the outputs, where layers of a user's stand for PyTorch's
LAYERS, PACKED = "layers", "packed_bytes"  # what is decided: bits of weights by layer; their bytes with all else
# by class, function and method: what computes values of a range of its own; what passes on values of its input's
# range; what joins values, which then share a scale
COMPUTES = (
    *("Conv1d", "Conv2d", "Conv3d", "Linear", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "ReLU", "ReLU6"),
    *("add", "add_", "iadd", "relu", "relu_", "relu6"),
)
PASSES = (
    *("MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "Flatten"),
    *("Identity", "Dropout", "Dropout2d", "max_pool1d", "max_pool2d", "boolean_dispatch", "avg_pool1d", "avg_pool2d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "flatten", "view", "reshape", "permute", "transpose", "contiguous"),
    *("squeeze", "unsqueeze", "getitem", "pad", "_pad", "dropout"),
)
JOINS = ("cat", "concat")
ACTIVATIONS = ("ReLU", "ReLU6", "relu", "relu_", "relu6")
WEIGHTED = ("Conv1d", "Conv2d", "Conv3d", "Linear")


class Shared(TypedDict):
    """Values of a traced network, by their nodes' names, that share a quantizer of so many bits."""

    nodes: list[str]
    bits: int


class Places(TypedDict):
    """Where quantizers stand: values that share one, and the bits of each layer's weights."""

    values: list[Shared]
    layers: dict[str, int]


@dataclass(frozen=True)
class Quantize(Step):
    """Round weights, with a scale for each output channel, and activations, with a scale for each tensor.

    bits    of weights and activations; 8 is lowered by the engines, others are computed in FP32.
    ends    bits of the first and the last layer; None: as all others; 32: they stay in FP32.
    clip    what sets the first scales: the range ("minmax") or the least squared error ("mse").
    fused   whether normalization is folded into convolutions before.
    epochs  of training with quantizers in place, in which weights and scales are learned; 0: calibrated only.
    rate    the share of the model's learning rate. Normalization is folded: at the whole of it ResNet20 fell to 10% of
            answers in 3 epochs, at 0.3 its INT8 lost 0.3 points; few bits need more.
    """

    bits: int = 8
    ends: int | None = None
    clip: str = "mse"
    fused: bool = True
    epochs: int = 0
    rate: float = 0.03

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16 or (self.ends is not None and self.ends != FLOAT and not 2 <= self.ends <= 16):
            raise BadCase(f"bits are 2 to 16, and 32 for ends in FP32; these are {self.bits} and {self.ends}")
        if self.clip not in ("mse", "minmax"):
            raise BadCase(f"clip is 'mse' or 'minmax', not {self.clip!r}")

    @property
    def trains(self) -> bool:
        """Whether it learns weights and scales."""
        return self.epochs > 0

    @property
    def scales(self) -> bool:
        """Whether engines take its scales: those of 8 bits."""
        return self.bits == 8 and self.ends in (None, 8, FLOAT)

    @property
    def rounds(self) -> bool:
        """Its quantizers stay in the network where bits are simulated."""
        return True

    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Insert quantizers, calibrate them, and train; where they are, their bits and the size by bits are decided."""
        standing = _standing(network, context.inputs([0]))
        traced = _traced(network, self.fused, standing)
        decided = {**self.decided(traced, context), STANDING: standing}
        quantized = self.calibrated(traced, decided, context)
        if self.epochs:
            finetune(quantized, context, self.epochs, (*context.keepers(quantized), self.keeper(quantized)), self.rate)
        return quantized, {**decided, PACKED: packed_bytes(quantized)}

    def decided(self, traced: torch.fx.GraphModule, context: Context) -> Places:
        """The values that are quantized, and the layers, each with the bits that it has."""
        return self._places(traced, context.inputs([0]))

    def calibrated(self, traced: torch.fx.GraphModule, decided: Decided, context: Context) -> torch.fx.GraphModule:
        """The traced network, which is changed in place, with quantizers whose scales are set."""
        import torch

        quantized = _inserted(traced, decided)
        for part in quantized.modules():
            if isinstance(part, weighted_class()):
                fit_weights(part.quantizer, cast(Any, part).layer.weight, self.clip)

        def run() -> None:
            for some in places_of(context, context.calibration):
                quantized(*context.inputs(some))

        with torch.no_grad():
            fit_activations(dict(cast(Any, quantized.get_submodule(QUANTIZERS)).named_children()), run, self.clip)
        return quantized.requires_grad_(False)

    def shape(self, network: torch.nn.Module, decided: Decided) -> torch.nn.Module:
        """Insert quantizers whose scales are unset."""
        return _inserted(_traced(network, self.fused, cast("list[str]", decided[STANDING])), decided)

    def keeper(self, network: torch.nn.Module) -> Callable[[], None]:
        """Scales stay above zero."""
        scales = [part.scale for part in network.modules() if isinstance(part, quantizer_class())]

        def keep() -> None:
            for scale in scales:
                scale.clamp_(min=LEAST)

        return keep

    def _places(self, traced: torch.fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Places:
        """Values of a traced network that share a quantizer, and its layers, each with the bits they have."""
        layers = [str(node.target) for node in traced.graph.nodes if _name(traced, node) in WEIGHTED]
        if not layers:
            raise Unsupported("this network has no convolution and no linear layer to quantize")
        bits = dict.fromkeys(layers, self.bits)
        called = [node for node in traced.graph.nodes if node.op == "call_module"]
        ends = [node for node in called if node.target in (layers[0], layers[-1])]
        if self.ends is not None:
            bits |= {layers[0]: self.ends, layers[-1]: self.ends}
        values: list[Shared] = []
        for group in _groups(traced, example):
            wanted = self.bits
            if self.ends is not None and any(node.args[0] in group for node in ends):
                wanted = self.ends
            if self.ends == FLOAT and any(node in group for node in ends[-1:]):
                wanted = FLOAT  # what comes out of the last layer
            if wanted != FLOAT:
                values.append({"nodes": [node.name for node in group], "bits": wanted})
        return {"values": values, "layers": {name: count for name, count in bits.items() if count != FLOAT}}


def layers_by_bits(decided: Decided) -> dict[str, tuple[str, ...]]:
    """The layers whose weights have so many bits, fewest first; empty of a step that is no quantization."""
    bits = cast("dict[str, int]", decided[LAYERS]) if PACKED in decided else {}
    return {str(count): tuple(name for name in bits if bits[name] == count) for count in sorted(set(bits.values()))}


def places_of(context: Context, count: int) -> Iterator[list[int]]:
    """The places of so many training items, drawn under SEED, in batches."""
    import torch

    drawn = torch.randperm(context.items, generator=torch.Generator().manual_seed(SEED))[:count]
    return (some.tolist() for some in drawn.split(BATCH))


def _standing(network: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> list[str]:
    """The layers of a user's classes that compute what the layers of PyTorch's that they extend do, for the example.

    All or none: a network whose outputs differ keeps them, and they stay in FP32.
    """
    import torch

    if all(standing_for(part) is None for part in network.modules()):
        return []
    with torch.no_grad():
        known = tensors_in(network.eval()(*map(torch.clone, example)))
        own = as_standard(network)
        try:
            outputs = tensors_in(network(*map(torch.clone, example)))
        except Exception:  # shapes that no longer fit, whatever comes of them
            return []
        finally:
            restore(network, own)
    for value, right in zip(outputs, known, strict=True):
        least = TOLERANCE * float(right.abs().max()) if right.numel() else 0.0
        if value.shape != right.shape or not torch.allclose(value, right, TOLERANCE, least):
            return []
    return list(own)


def _traced(network: torch.nn.Module, fused: bool, standing: Sequence[str]) -> torch.fx.GraphModule:
    """The network as a graph, its normalization folded into convolutions if `fused`. Raises Unsupported.

    standing  layers that are taken for PyTorch's; their own classes are in the graph's `meta`.
    """
    from torch.fx import symbolic_trace
    from torch.fx.experimental.optimization import fuse

    own = as_standard(network.eval(), standing)
    try:
        traced = cast("torch.fx.GraphModule", fuse(network) if fused else symbolic_trace(network))
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise Unsupported(f"torch.fx cannot trace this network: {type(error).__name__}: {line}") from error
    called = dict(traced.named_modules())
    traced.meta[OWN] = {name: kind for name, kind in own.items() if name in called}
    return traced


def _inserted(traced: torch.fx.GraphModule, decided: Decided) -> torch.fx.GraphModule:
    """The traced network with quantizers at the places that were decided, their scales unset."""
    import torch

    nodes = {node.name: node for node in traced.graph.nodes}
    inserted = torch.nn.ModuleDict()
    traced.add_module(QUANTIZERS, inserted)
    for group in cast("list[Shared]", decided["values"]):
        name = f"of_{group['nodes'][0]}"
        inserted[name] = quantizer_class()(*levels(group["bits"]))
        for node in map(nodes.__getitem__, group["nodes"]):
            with traced.graph.inserting_after(node):
                rounded = traced.graph.call_module(f"{QUANTIZERS}.{name}", (node,))
            node.replace_all_uses_with(rounded, lambda user, rounded=rounded: user is not rounded)
    for name, bits in cast("dict[str, int]", decided[LAYERS]).items():
        owner, _, leaf = name.rpartition(".")
        layer = traced.get_submodule(name)
        quantizer = quantizer_class()(*weight_levels(bits), len(cast(Any, layer).weight))
        setattr(traced.get_submodule(owner), leaf, weighted_class()(layer, quantizer))
    restore(traced, traced.meta.get(OWN, {}))
    traced.recompile()
    return traced.eval()


def _groups(traced: torch.fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Iterator[list[torch.fx.Node]]:
    """The values that are quantized, those that share a scale together, in the order of the graph."""
    import torch
    from torch.fx.passes.shape_prop import ShapeProp

    with torch.no_grad():
        ShapeProp(traced).propagate(*example)
    group_of: dict[torch.fx.Node, list[torch.fx.Node]] = {}
    for node in traced.graph.nodes:
        facts = node.meta.get("tensor_meta")
        if not getattr(getattr(facts, "dtype", None), "is_floating_point", False):
            continue
        name, inputs = _name(traced, node), [given for given in node.all_input_nodes if given in group_of]
        if node.op == "placeholder" or (name in COMPUTES and not _before_activation(traced, node, name)):
            group_of[node] = [node]
        elif name in PASSES and inputs:
            group_of[node] = group_of[inputs[0]]
            group_of[node].append(node)
        elif name in JOINS:
            group_of[node] = [node]
            for given in inputs:
                if group_of[given] is not group_of[node]:
                    group_of[node].extend(group_of[given])
                    group_of |= dict.fromkeys(group_of[given], group_of[node])
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    groups = {id(group): sorted(group, key=order.__getitem__) for group in group_of.values()}
    return iter(sorted(groups.values(), key=lambda group: order[group[0]]))


def _before_activation(traced: torch.fx.GraphModule, node: torch.fx.Node, name: str) -> bool:
    """Whether a value goes into a ReLU alone, which engines compute with the layer before it."""
    if name in ACTIVATIONS or len(node.users) != 1:
        return False
    return _name(traced, next(iter(node.users))) in ACTIVATIONS


def _name(traced: torch.fx.GraphModule, node: torch.fx.Node) -> str:
    """The name of the class, function or method that a node calls; empty for others."""
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__
    if node.op in ("call_function", "call_method"):
        return str(getattr(node.target, "__name__", node.target))
    return ""


SIMULATED = {
    "own_int16_simulated": Quantize(16),
    "own_int4_simulated": Quantize(4),
    "qat_int4_simulated": Quantize(4, epochs=5, rate=0.3),
    "qat_ends8_int4_simulated": Quantize(4, ends=8, epochs=5, rate=0.1),
}
for name, steps in {
    "own_int8": (Quantize(),),
    "own_unfused_int8": (Quantize(fused=False),),
    "qat_int8": (Quantize(epochs=3),),
    "qat_ends_int8": (Quantize(ends=FLOAT, epochs=3),),
    "sparse50_qat_int8": (Sparse(0.5), Quantize(epochs=3)),
}.items():
    recipes.add(name, Recipe(name, "int8", "static", steps=steps))
for name, step in SIMULATED.items():
    recipes.add(name, Recipe(name, "fp32", steps=(step,)))
