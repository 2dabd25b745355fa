"""How a network treats its input and holds its outputs, and the network in the form that every engine gets."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import BuildError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Output = np.ndarray | tuple[np.ndarray, ...]
    Predict = Callable[[np.ndarray], Output]

FORWARD = "one input of one shape: pack what it takes into one array, and part that in its forward"


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
    """

    writes_input: bool = False
    exact_input: bool = False
    gives: str = "tensor"
    names: tuple[Any, ...] = ()
    attributes: bool = False

    @classmethod
    def saved(cls, facts: Mapping[str, Any]) -> Interface:
        """The interface read back from JSON of its `dataclasses.asdict`."""
        return cls(**{**facts, "names": tuple(facts["names"])})


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


def interface_of(network: torch.nn.Module, example: np.ndarray) -> Interface:
    """The interface of a network in eval mode, from one call on a copy of an example (1, ...).

    Raises BuildError where it takes more than one input, or gives anything but tensors.
    """
    import torch

    with contextlib.suppress(ValueError):  # a forward without a signature
        signature = inspect.signature(network.forward)
        try:
            signature.bind(example)
        except TypeError:
            asked = ", ".join(signature.parameters) or "nothing"
            raise BuildError(f"the network's forward takes {asked}; bench gives it {FORWARD}") from None
    given = torch.from_numpy(example.copy())
    version = given._version
    with torch.no_grad(), _exactness()(network, given) as watch:
        outputs = network(given)
    written = given._version != version or given.numpy().tobytes() != example.tobytes()
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

        def __init__(self, network: torch.nn.Module, given: torch.Tensor) -> None:
            super().__init__()
            self.exact = False
            self._weighed, self._raw = WeakIdKeyDictionary(), WeakIdKeyDictionary()  # weak: no activation is kept alive
            self._weighed.update(dict.fromkeys(network.parameters()))
            self._raw[given] = None

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


def adapted(network: torch.nn.Module, interface: Interface) -> torch.nn.Module:
    """The same network, with the same module names, in the form that every engine gets.

    It writes only into a copy of its input, and gives one tensor or a tuple of several. Exporters and tracers refuse
    lists, dicts and classes, each with its own message, and turn an input that is written into into an output.
    """
    import torch

    names = interface.names
    one_tensor = interface.gives == "tensor"
    as_it_is = one_tensor or (interface.gives == "tuple" and len(names) > 1 and names == tuple(range(len(names))))
    attributes: Any = network
    attributes.exact_input = interface.exact_input
    if (as_it_is and not interface.writes_input) or isinstance(network, torch.jit.ScriptModule):
        return network
    if isinstance(network, torch.fx.GraphModule):
        return _rewritten(network, interface)
    kind: Any = type(network)

    class Adapted(kind):
        def forward(self, x: torch.Tensor) -> Any:
            outputs = kind.forward(self, x.clone() if interface.writes_input else x)
            return outputs if one_tensor else _parts(outputs, interface)

    Adapted.__name__, Adapted.__qualname__, Adapted.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    network.__class__ = Adapted
    return network


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
