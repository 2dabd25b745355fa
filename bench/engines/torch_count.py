"""The multiplications of a call in PyTorch, by what its dispatcher is asked for: eager modules, TorchScript's archives,
exported programs, and what Inductor's compiled code calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from bench.engines.lowered import UNFOUND, Layer
from bench.engines.torch_formulas import (
    FORMULAS,
    Counted,
    by_registry,
    format_of_dtype,
    numbers_in,
    place_of,
    recurrent_kind,
    tensors_in,
)
from bench.errors import BuildError

if TYPE_CHECKING:
    import torch

_WRAPPED = "network."  # what bench's own module that casts inputs and outputs calls the one inside it


@dataclass(frozen=True)
class Product:
    """One multiplication that the dispatcher was asked for.

    module      the name of the innermost module that was running, "" where there was none.
    box         the class of the outermost module of PyTorch's own that holds others, in which it ran.
    operator    the operator's name.
    kind        one of bench.engines.lowered.KINDS.
    format      the number format of its factors.
    stored      that of its weights; the factors' where it has none.
    macs        multiply-accumulates.
    weights     how many numbers its weights are; 0 where another product with the same weights came before.
    dequantized whether all its factors came out of INT8 just before: what a quantized program's float operators are.
    """

    module: str
    box: str | None
    operator: str
    kind: str
    format: str
    stored: str
    macs: int
    weights: int
    dequantized: bool = False


@contextmanager
def tally(compiled: bool = False) -> Iterator[list[Product]]:
    """Gather the multiplications of what is called inside, in order.

    compiled  what is called was compiled by Inductor: what its graphs call is gathered, without modules. Its guards
              refuse a mode that is on around it, so the mode is on inside the graphs.

    PyTorch's fast path of attention is off meanwhile, which hides products in one operator of a whole layer. A weight
    is a tensor that no operator has made in the meantime, or made of such tensors alone.
    """
    import torch
    from torch._library.custom_ops import OPDEFS
    from torch._ops import HigherOrderOperator
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
    from torch.utils._python_dispatch import TorchDispatchMode

    products: list[Product] = []
    running: list[torch.nn.Module] = []
    names: dict[int, str] = {}
    origins: dict[int, _Origin] = {}
    counted: set[int] = set()

    def enter(module: torch.nn.Module, given: Any) -> None:
        if not running:
            names.clear()
            names.update(
                (id(part), name.removeprefix("_orig_mod.").removeprefix(_WRAPPED))
                for name, part in module.named_modules()
            )
            origins.update((place_of(one), _Origin(False, False)) for one in tensors_in(given))
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if isinstance(func, HigherOrderOperator) or func.namespace == "prim" or func._schema.name in _ASKING:
                return func(*args, **kwargs)
            if func._schema.name in OPDEFS:  # an operator of a user's own: what its Python function calls counts
                with self:
                    return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
            formula = FORMULAS.get(func._schema.name)
            given = tensors_in((args, kwargs))
            # PyTorch's decompositions know no quantized tensors, and what moves those multiplies nothing
            if formula is None and not _counts(func) and not any(one.is_quantized for one in given):
                with self:
                    whole = func.decompose(*args, **kwargs)
                if whole is not NotImplemented:
                    return whole
            output = func(*args, **kwargs)
            made_of = [origins.get(place, _Origin(True, False)) for place in map(place_of, given)]
            if formula is not None or _counts(func):
                named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
                found = (by_registry if formula is None else formula)(func, args, named | kwargs, output)
                if found is not None:
                    products.append(self._product(func, found, given, made_of))
            _learn(func, given, made_of, output, origins)
            return output

        def _product(self, func: Any, found: Counted, given: list[torch.Tensor], made_of: list[_Origin]) -> Product:
            weights = found.weights
            if weights is None:
                weights = [one for one, origin in zip(given, made_of, strict=True) if origin.constant and one.dim() > 1]
                if found.kind not in ("embedding", "lstm", "gru", "rnn"):  # a factor; biases and masks are none
                    weights = [one for one in weights if any(one is factor for factor in found.factors)]
            fresh = [one for one in weights if place_of(one) not in counted]
            counted.update(map(place_of, fresh))
            module = running[-1] if running else None
            kind = found.kind
            if kind == "linear" and not weights and not found.count:
                kind = "matmul"
            kind = next(filter(None, map(recurrent_kind, running)), kind)
            stored = found.stored or (format_of_dtype(weights[0].dtype) if weights else found.format)
            places = [place_of(one) for one in found.factors]
            return Product(
                "" if module is None else names.get(id(module), ""),
                next((type(one).__name__ for one in running if _closed(one)), None),
                func._schema.name,
                kind,
                found.format,
                stored,
                found.macs,
                found.count if found.count is not None else sum(map(numbers_in, fresh)),
                bool(places) and all(origins.get(place, _Origin(True, False)).dequantized for place in places),
            )

    if compiled:
        from torch._inductor.output_code import CompiledFxGraph

        run = CompiledFxGraph.__call__

        def counted_run(self: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
            with Dispatch():
                return run(self, inputs)

        with mock.patch.object(CompiledFxGraph, "__call__", counted_run):
            yield products
        return
    handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with Dispatch():
            yield products
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def products_of(call: Callable[[], Any]) -> list[Product]:
    """The multiplications of a call."""
    with tally() as products:
        call()
    return products


def interpreted(program: torch.fx.GraphModule, run: Callable[[Callable[..., Any]], Any]) -> list[Product]:
    """The multiplications of an exported program, run node by node, by the modules that it notes of its nodes.

    run  calls what it is given with the program's inputs.
    """
    import torch

    class Noting(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            before = len(products)
            output = super().run_node(node)
            stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            for place in range(before, len(products)):
                products[place] = replace(products[place], module=stack[-1] if stack else "")
            return output

    with tally() as products:
        run(Noting(program).run)
    return products


def as_compiled(products: Sequence[Product], called: Sequence[Product]) -> list[Product]:
    """The products of a quantized program, those in INT8 that compiled code calls so: by order and how much each is.

    Raises BuildError where the compiled code calls one that the program has not.
    """
    found = list(products)
    for product in called:
        if product.format != "int8":
            continue
        alike = [place for place, one in enumerate(found) if one.format != "int8" and one.macs == product.macs]
        best = next((place for place in alike if found[place].dequantized), alike[0] if alike else None)
        if best is None:
            raise BuildError(f"the compiled code's {product.operator} of {product.macs} is not in the program")
        found[best] = replace(found[best], format="int8", stored="int8")
    return found


def batch_of(example: Any) -> int:
    """How many items there are in an example, an array or several whose first axis they are."""
    return len(example[0]) if isinstance(example, (tuple, list)) else len(example)


def layers_of(products: Sequence[Product], batch: int) -> list[Layer]:
    """The products as layers for one item of a batch: those of one module, kind and format as one; others by their
    operator and a number.
    """
    layers: dict[tuple[str, ...], Layer] = {}
    for number, product in enumerate(products):
        reason = UNFOUND if product.dequantized else None
        reason = reason if product.box is None else f"inside {product.box}, which FX takes for one operation"
        name = product.module or f"{product.operator.rpartition('::')[2]} {number}"
        key = (name, product.kind, product.format)
        known = layers.get(key)
        layers[key] = (
            Layer(name, product.kind, product.format, product.stored, product.macs, product.weights, reason)
            if known is None
            else replace(known, macs=known.macs + product.macs, weights=known.weights + product.weights)
        )
    return [replace(layer, macs=round(layer.macs / batch)) for layer in layers.values()]


@dataclass(frozen=True)
class _Origin:
    """Of a storage: whether it is there before the call, or made of such alone; whether it came out of INT8."""

    constant: bool
    dequantized: bool


_ASKING = frozenset(
    f"aten::{name}"
    for name in (
        *("size", "sym_size", "stride", "sym_stride", "numel", "sym_numel", "dim", "storage_offset"),
        *("sym_storage_offset", "is_contiguous", "sym_is_contiguous", "is_strides_like_format"),
        "is_non_overlapping_and_dense",
    )
)


def _counts(func: Any) -> bool:
    from torch.utils.flop_counter import flop_registry

    return func._overloadpacket in flop_registry


def _learn(
    func: Any, given: list[torch.Tensor], made_of: list[_Origin], output: Any, origins: dict[int, _Origin]
) -> None:
    """Note of each storage that an operator has filled what it was made of; a view's stays what it was."""
    places = {place_of(one) for one in given}
    dequantizes = "dequantize" in func._schema.name
    for one in tensors_in(output):
        place = place_of(one)
        if place in places and not dequantizes:
            origins.setdefault(place, _Origin(True, False))
        else:
            origins[place] = _Origin(
                bool(made_of) and all(origin.constant for origin in made_of),
                dequantizes or (_moves(func) and bool(made_of) and made_of[0].dequantized),
            )


def _moves(func: Any) -> bool:
    """Whether an operator only changes the places of numbers."""
    bare = func._schema.name.rpartition("::")[2]
    return bare in ("clone", "contiguous", "permute", "transpose", "t", "view", "reshape", "_unsafe_view", "expand")


def _closed(module: torch.nn.Module) -> bool:
    """Whether FX takes a module for one operation although it holds others."""
    import torch

    own = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return own and not isinstance(module, torch.nn.Sequential) and any(True for _ in module.children())
