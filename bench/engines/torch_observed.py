"""What torch.ao's graphs of observers need mended before they are calibrated and converted."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from bench.spec.inputs import tensors_of

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given

# operations whose result may share memory with their input
VIEWS = (
    *("getitem", "view", "view_as", "reshape", "transpose", "permute", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("chunk", "split", "unbind", "narrow", "select", "t", "expand", "swapaxes", "movedim", "contiguous", "detach"),
)
# what makes a mask of a great number, and what adds one to scores
FILLS = ("masked_fill", "masked_fill_", "where", "full", "full_like", "mul", "imul", "mul_")
SUMS = ("add", "iadd", "add_", "sub", "float", "to", "type_as")
GREAT = 1e4  # from here on a number stands for infinity


def mend(watched: torch.fx.GraphModule, example: Given) -> None:
    """Mend four things in the observed graph, in place.

    Observers of values that are not floats are removed: they cannot observe them. So are those of masks and of scores
    under one: no scale holds both, and observers pass over infinity. Convolutions that are called as functions get all
    their arguments: conversion fails without. Products of activations become an operator that conversion leaves in
    FP32, see `torch_quantization.patterns`.
    """
    import torch

    axes_of = {getattr(torch.nn.functional, f"conv{axes}d"): axes for axes in (1, 2, 3)}
    for node in [*_of_whole_numbers(watched, example), *_of_masks(watched)]:
        node.replace_all_uses_with(node.all_input_nodes[0])
        watched.graph.erase_node(node)
    for node in watched.graph.nodes:
        if node.target in (torch.matmul, operator.matmul, "matmul"):
            node.op, node.target = "call_function", torch.ops.aten.matmul.default
        elif node.target in axes_of:
            usual = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            given = dict(zip(("input", "weight", *usual), node.args, strict=False)) | node.kwargs
            more = {name: given.get(name, value) for name, value in usual.items()}
            for name in ("stride", "padding", "dilation"):
                if isinstance(more[name], int):
                    more[name] = (more[name],) * axes_of[node.target]
            node.args, node.kwargs = (given["input"], given["weight"], *more.values()), {}
    watched.recompile()


def name_of(node: torch.fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def _observes(watched: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    from torch.ao.quantization import ObserverBase

    return node.op == "call_module" and isinstance(watched.get_submodule(str(node.target)), ObserverBase)


def _of_whole_numbers(watched: torch.fx.GraphModule, example: Given) -> list[torch.fx.Node]:
    """The observers of values that are not floats."""
    import torch

    useless = []

    class Types(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            if _observes(watched, node):
                value = self.env[node.all_input_nodes[0]]
                if not value.is_floating_point():
                    useless.append(node)
                return value
            return super().run_node(node)

    with torch.no_grad():
        Types(watched).run(*tensors_of(example.copy()))
    return useless


def _of_masks(watched: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """The observers of masks and of scores under one, told by the graph alone: an example may have nothing masked."""
    masked: set[torch.fx.Node] = set()
    observers = []
    for node in watched.graph.nodes:
        passes = _observes(watched, node)
        calls = node.op in ("call_function", "call_method")
        if passes or (calls and name_of(node) in (*VIEWS, *SUMS, *FILLS)):
            great = calls and name_of(node) in FILLS and any(map(_great, (*node.args, *node.kwargs.values())))
            if great or not masked.isdisjoint(node.all_input_nodes):
                masked.add(node)
                observers += [node] * passes
        elif node.op == "get_attr" and _great(_attribute(watched, str(node.target))):
            masked.add(node)
    return observers


def _great(value: Any) -> bool:
    """Whether a number, or a tensor of floats, reaches what stands for infinity."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.numel() > 0 and float(value.abs().max()) >= GREAT
    return isinstance(value, int | float) and abs(value) >= GREAT


def _attribute(owner: Any, name: str) -> Any:
    for part in name.split("."):
        owner = getattr(owner, part)
    return owner
