"""How a network treats its input and holds its outputs, and the network in the form that every engine gets."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import BuildError
from bench.spec.inputs import Inputs, arrays_of, tensors_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.spec.inputs import Batch, Given

    Output = np.ndarray | tuple[np.ndarray, ...]
    Predict = Callable[[Batch], Output]


@dataclass(frozen=True)
class Interface:
    """How a network treats its input and holds its outputs.

    writes_input   whether it writes into its input, as `x.sub_(mean)` does.
    exact_input    whether its input must not be rounded: the network casts a float32 input to whole numbers, as
                   `embedding(x.long())` does, which bfloat16 holds exactly only up to 256; or it casts whole numbers
                   to floating point, always float32, as `x / 255` does with bytes.
    gives          "tensor", or the type that holds the outputs: "tuple", "list", "dict" or a class's name.
    names          the outputs that are not None: places in a sequence, keys of a mapping, attributes of a class.
    attributes     whether the names are attributes.
    batch_axes     the axis of each output along which the items of a call lie; None where a call is of one item, and
                   the output is that item's. Empty: 0 for all.
    """

    writes_input: bool = False
    exact_input: bool = False
    gives: str = "tensor"
    names: tuple[Any, ...] = ()
    attributes: bool = False
    batch_axes: tuple[int | None, ...] = ()

    @classmethod
    def saved(cls, facts: Mapping[str, Any]) -> Interface:
        """The interface read back from JSON of its `dataclasses.asdict`."""
        lists = {name: tuple(facts.get(name, ())) for name in ("names", "batch_axes")}
        return cls(**{**facts, **lists})

    def items(self, outputs: Output) -> tuple[np.ndarray, ...]:
        """The outputs of a call, each with the items first (n, ...)."""
        import numpy as np

        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        axes = self.batch_axes or (0,) * len(parts)
        if not any(axes) and None not in axes:
            return parts
        return tuple(
            part[None] if axis is None else np.moveaxis(part, axis, 0) for part, axis in zip(parts, axes, strict=True)
        )


TENSOR = Interface()  # of a network that gives one tensor


class Outputs(tuple[Any, ...]):
    """The outputs for one item, as a model's `answer` gets them on every engine.

    They are read by place, or by the network's names for them, as keys or as attributes.
    """

    names: tuple[Any, ...]

    def __new__(cls, values: Iterable[Any], names: tuple[Any, ...]) -> Outputs:
        """Outputs in the order of their names."""
        made = super().__new__(cls, values)
        made.names = names
        return made

    def __getitem__(self, name: Any) -> Any:
        """The output at a place or of a name. Raises KeyError for an unknown name."""
        if not isinstance(name, str):
            return super().__getitem__(name)
        if name not in self.names:
            raise KeyError(f"no output {name!r}; there are {', '.join(map(str, self.names))}")
        return super().__getitem__(self.names.index(name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def keys(self) -> tuple[Any, ...]:
        """The names, as a dict has them."""
        return self.names

    def values(self) -> tuple[Any, ...]:
        """The outputs, as a dict has them."""
        return tuple(self)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Names with outputs, as a dict has them."""
        return zip(self.names, self, strict=True)


def interface_of(network: torch.nn.Module, example: Given) -> Interface:
    """The interface of a network in eval mode, from one call on a copy of an example (1, ...).

    Raises BuildError where its forward does not take these inputs in this order, or gives anything but tensors.
    """
    import torch

    inputs = Inputs.of(example)
    _check_order(network, inputs)
    known = arrays_of(inputs.batch())
    given = tensors_of(inputs.copy().batch())
    versions = [tensor._version for tensor in given]
    with torch.no_grad(), _exactness()(network, given) as watch:
        outputs = network(*given)
    written = versions != [tensor._version for tensor in given] or any(
        tensor.numpy().tobytes() != array.tobytes() for tensor, array in zip(given, known, strict=True)
    )
    held = _held(outputs)
    if held is None:
        return Interface(written, watch.exact)
    values, attributes = held
    names = tuple(name for name, value in values.items() if value is not None)
    gives = type(outputs).__name__
    odd = next((values[name] for name in names if not isinstance(values[name], torch.Tensor)), None)
    if odd is not None or not names:
        what = "nothing" if odd is None else f"{type(odd).__name__} inside of it"
        raise BuildError(
            f"the network gives {gives} with {what}; have it give tensors, or one flat tuple, list or dict"
        )
    return Interface(written, watch.exact, gives, names, attributes)


def _check_order(network: torch.nn.Module, inputs: Inputs) -> None:
    """Raise BuildError where the network's forward does not take inputs of these names in this order."""
    with contextlib.suppress(ValueError):  # a forward without a signature
        signature = inspect.signature(network.forward)
        asked = ", ".join(signature.parameters) or "nothing"
        names = list(inputs.names)
        what = "one input" if inputs.lone else ", ".join(names)
        try:
            taken = list(signature.bind(*names).arguments)
        except TypeError:
            raise BuildError(
                f"the network's forward takes {asked}; the model gives it {what}: have the model's preprocess give a "
                "dict of what forward takes, by name"
            ) from None
        known = [name for name in names if name in signature.parameters]
        if known and taken != names and not inputs.lone:
            raise BuildError(
                f"the network's forward takes {asked}; the model gives it {what}: give them in forward's order, "
                "without a gap"
            )


def _held(outputs: Any) -> tuple[dict[Any, Any], bool] | None:
    """The outputs by name, and whether the names are attributes; None where the output is one tensor."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return None
    if isinstance(outputs, Mapping):
        return dict(outputs), False
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return dict(zip(outputs._fields, outputs, strict=True)), True
    if isinstance(outputs, (tuple, list)):
        return dict(enumerate(outputs)), False
    if dataclasses.is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}, True
    raise BuildError(
        f"the network gives {type(outputs).__name__}; have it give tensors, or one flat tuple, list or dict of them"
    )


def _exactness() -> Any:
    """The class of a watch over a network's call: does it cast its input to whole numbers, or whole numbers to float?

    Only values that are still the input's own count.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

    class Exactness(TorchDispatchMode):
        """Follows the input until it meets parameters.

        After products with weights a rounded input costs some 1e-3 of a value, as in every bfloat16 network; before
        them it is a different input.
        """

        def __init__(self, network: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            super().__init__()
            self.exact = False
            self._weighed, self._raw = WeakIdKeyDictionary(), WeakIdKeyDictionary()  # weak: no activation is kept alive
            self._weighed.update(dict.fromkeys(network.parameters()))
            self._raw.update(dict.fromkeys(given))

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            outputs = func(*args, **(kwargs or {}))
            taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            made = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
            if any(tensor in self._weighed for tensor in taken):
                self._weighed.update(dict.fromkeys(made))
            elif raw := [tensor for tensor in taken if tensor in self._raw]:
                name = str(func)
                if not any(tensor.is_floating_point() for tensor in raw):
                    self.exact |= any(tensor.is_floating_point() for tensor in made)
                elif "pool" not in name:  # a pool's whole numbers are indices
                    equal = name.startswith(("aten.eq.", "aten.ne."))
                    self.exact |= equal or any(tensor.dtype in whole for tensor in made)
                self._raw.update(dict.fromkeys(made))
            return outputs

    return Exactness


def adapted(network: torch.nn.Module, interface: Interface, count: int = 1) -> torch.nn.Module:
    """The same network, with the same module names, in the form that every engine gets: it takes `count` inputs.

    It writes only into a copy of its input, and gives one tensor or a tuple of several. Exporters and tracers refuse
    lists, dicts and classes, each with its own message, and turn an input that is written into into an output.
    """
    import torch

    names = interface.names
    one_tensor = interface.gives == "tensor"
    as_it_is = one_tensor or (interface.gives == "tuple" and len(names) > 1 and names == tuple(range(len(names))))
    attributes: Any = network
    attributes.exact_input = interface.exact_input
    takes_more = count > 1 and not isinstance(network, torch.fx.GraphModule) and _parameters(network) != count
    as_it_is = as_it_is and not interface.writes_input and not takes_more
    if as_it_is or isinstance(network, torch.jit.ScriptModule):
        return network
    if isinstance(network, torch.fx.GraphModule):
        return _rewritten(network, interface)
    kind: Any = type(network)

    def run(self: Any, *given: torch.Tensor) -> Any:
        outputs = kind.forward(self, *(x.clone() for x in given) if interface.writes_input else given)
        return outputs if one_tensor else _parts(outputs, interface)

    Adapted: Any = type(kind.__name__, (kind,), {"forward": _forward(run, count)})
    Adapted.__qualname__, Adapted.__module__ = kind.__qualname__, kind.__module__
    network.__class__ = Adapted
    return network


def _parameters(network: torch.nn.Module) -> int:
    """How many inputs a network's forward could take by place."""
    return len(inspect.signature(network.forward).parameters)


def _forward(run: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A method of `count` arguments that calls `run`: tracers read the number from its code, and know no `*args`."""
    names = ", ".join(["x", *(f"x{place}" for place in range(1, count))])
    scope: dict[str, Any] = {"run": run}
    exec(f"def forward(self, {names}): return run(self, {names})", scope)  # the text holds numbers of ours alone
    forward: Callable[..., Any] = scope["forward"]
    return forward


def _rewritten(network: torch.fx.GraphModule, interface: Interface) -> torch.nn.Module:
    """A traced network, adapted in its graph, since copies of it are made from the graph and not from its class."""
    import torch

    for node in list(network.graph.nodes):
        if node.op == "placeholder" and interface.writes_input:
            with network.graph.inserting_after(node):
                copied = network.graph.call_method("clone", (node,))
            node.replace_all_uses_with(copied, lambda user, copied=copied: user is not copied)
        if node.op == "output" and interface.names:
            given = node.args[0]
            with network.graph.inserting_before(node):
                parts = _parts(torch.fx.Proxy(given) if isinstance(given, torch.fx.Node) else given, interface)
                node.args = (torch.fx.node.map_aggregate(parts, lambda part: getattr(part, "node", part)),)
    network.recompile()
    return network


def _parts(outputs: Any, interface: Interface) -> Any:
    """The single output, or the tuple of several, out of what holds them."""
    names = interface.names
    parts = tuple(getattr(outputs, str(name)) if interface.attributes else outputs[name] for name in names)
    return parts[0] if len(parts) == 1 else parts
