"""The multiplications of a call in PyTorch, counted at its dispatcher: eager modules, TorchScript archives, exported
programs, and the calls of Inductor's compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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

# what lets a module that FX takes for one operation be seen into, by its class
BOXED = {"TransformerEncoder": "; with enable_nested_tensor=False it does not"}
_WRAPPED = "network."  # the name of the network inside the module that casts inputs and outputs (between_float32)


@dataclass(frozen=True)
class Product:
    """A multiplication that the dispatcher was asked for.

    module      the name of the innermost module that was running, "" where there was none.
    box         the class of the outermost running PyTorch module that FX takes for one operation; None without any.
    operator    the operator's name.
    kind        one of bench.engines.lowered.KINDS.
    format      the number format of its factors.
    stored      the number format of its weights; that of its factors where it has no weights.
    macs        multiply-accumulates.
    weights     how many numbers its weights are; 0 where an earlier product has the same weights.
    dequantized whether all its factors came out of INT8 just before, as those of a quantized program's float operators.
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
    """Gather the multiplications of the calls inside, in order.

    compiled  the code that is called was compiled by Inductor: the calls of its graphs are gathered, without modules.
              Its guards refuse a dispatch mode around it, so the mode is on inside the graphs.

    PyTorch's fast path of attention is off meanwhile: it hides products in a single operator for a whole layer. A
    weight is a tensor that no operator inside has made, or that is made only of such tensors.
    """
    import torch
    from torch._higher_order_ops.out_dtype import out_dtype
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
            origins.update((place_of(tensor), _Origin(False, False)) for tensor in tensors_in(given))
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()

    class Dispatch(TorchDispatchMode):
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            call = partial(func, *args, **kwargs)
            if func is out_dtype:  # a product of whole numbers that are summed in a wider type, as torchao writes it
                func, args = args[0], args[2:]
            elif isinstance(func, HigherOrderOperator):  # what it runs inside would be missing from the count
                raise NotImplementedError(f"the multiplications inside of {func.name()} are not counted")
            if func.namespace == "prim" or func._schema.name in _ASKING:
                return call()
            if func._schema.name in OPDEFS:  # a user's custom operator: the calls of its Python function count
                with self:
                    return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
            formula = FORMULAS.get(func._schema.name)
            given = tensors_in((args, kwargs))
            # PyTorch's decompositions fail on quantized tensors, and operators that move those multiply nothing
            if formula is None and not _counts(func) and not any(tensor.is_quantized for tensor in given):
                with self:
                    whole = func.decompose(*args, **kwargs)
                if whole is not NotImplemented:
                    return whole
            output = call()
            made_of = [origins.get(place, _Origin(True, False)) for place in map(place_of, given)]
            if formula is not None or _counts(func):
                named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
                count = (by_registry if formula is None else formula)(func, args, named | kwargs, output)
                if count is not None:
                    products.append(self._product(func, count, given, made_of))
            _learn(func, given, made_of, output, origins)
            return output

        def _product(self, func: Any, count: Counted, given: list[torch.Tensor], made_of: list[_Origin]) -> Product:
            weights = count.weights
            if weights is None:
                pairs = zip(given, made_of, strict=True)
                weights = [tensor for tensor, origin in pairs if origin.constant and tensor.dim() > 1]
                if count.kind not in (
                    "embedding",
                    "lstm",
                    "gru",
                    "rnn",
                ):  # weights are factors, unlike biases and masks
                    weights = [weight for weight in weights if any(weight is factor for factor in count.factors)]
            fresh = [weight for weight in weights if place_of(weight) not in counted]
            counted.update(map(place_of, fresh))
            module = running[-1] if running else None
            kind = count.kind
            if kind == "linear" and not weights and not count.count:
                kind = "matmul"
            kind = next(filter(None, map(recurrent_kind, running)), kind)
            stored = count.stored or (format_of_dtype(weights[0].dtype) if weights else count.format)
            places = [place_of(factor) for factor in count.factors]
            return Product(
                "" if module is None else names.get(id(module), ""),
                next((type(outer).__name__ for outer in running if _closed(outer)), None),
                func._schema.name,
                kind,
                count.format,
                stored,
                count.macs,
                count.count if count.count is not None else sum(map(numbers_in, fresh)),
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
    """The multiplications of an exported program, run node by node, with the module names that its nodes carry.

    run  calls its argument with the program's inputs.
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
    """The products of a quantized program, in INT8 where compiled code calls them in INT8.

    They are matched by order and number of multiply-accumulates. Raises BuildError where the program lacks a product
    that the compiled code calls.
    """
    matched = list(products)
    for product in called:
        if product.format != "int8":
            continue
        alike = [
            place
            for place, candidate in enumerate(matched)
            if candidate.format != "int8" and candidate.macs == product.macs
        ]
        best = next((place for place in alike if matched[place].dequantized), alike[0] if alike else None)
        if best is None:
            raise BuildError(f"the compiled code's {product.operator} of {product.macs} MACs is not in the program")
        matched[best] = replace(matched[best], format="int8", stored="int8")
    return matched


def layers_of(products: Sequence[Product], batch: int) -> list[Layer]:
    """The products as layers for one item of a batch: those of the same module, kind and format are added up; those
    without a module are named by their operator and a number.
    """
    layers: dict[tuple[str, ...], Layer] = {}
    for number, product in enumerate(products):
        reason = UNFOUND if product.dequantized else None
        if product.box is not None:
            reason = f"inside {product.box}, which FX takes for one operation{BOXED.get(product.box, '')}"
        name = product.module or f"{product.operator.rpartition('::')[2]} {number}"
        key = (name, product.kind, product.format)
        earlier = layers.get(key)
        layers[key] = (
            Layer(name, product.kind, product.format, product.stored, product.macs, product.weights, reason)
            if earlier is None
            else replace(earlier, macs=earlier.macs + product.macs, weights=earlier.weights + product.weights)
        )
    return [replace(layer, macs=round(layer.macs / batch)) for layer in layers.values()]


@dataclass(frozen=True)
class _Origin:
    """Where the numbers of a storage come from.

    constant     whether it was there before the call, or is made only of such storages.
    dequantized  whether it came out of INT8.
    """

    constant: bool
    dequantized: bool


# operators that only read a tensor's shape and layout
_ASKING = frozenset(
    f"aten::{name}"
    for name in (
        *("size", "sym_size", "stride", "sym_stride", "numel", "sym_numel", "dim", "storage_offset"),
        *("sym_storage_offset", "is_contiguous", "sym_is_contiguous", "is_strides_like_format"),
        "is_non_overlapping_and_dense",
    )
)


def _counts(func: Any) -> bool:
    """Whether PyTorch's flop counter has a formula for an operator."""
    from torch.utils.flop_counter import flop_registry

    return func._overloadpacket in flop_registry


def _learn(
    func: Any, given: list[torch.Tensor], made_of: list[_Origin], output: Any, origins: dict[int, _Origin]
) -> None:
    """Note the origin of each storage that an operator has filled; the storage of a view keeps its origin."""
    places = {place_of(tensor) for tensor in given}
    dequantizes = "dequantize" in func._schema.name
    for tensor in tensors_in(output):
        place = place_of(tensor)
        if place in places and not dequantizes:
            origins.setdefault(place, _Origin(True, False))
        else:
            origins[place] = _Origin(
                bool(made_of) and all(origin.constant for origin in made_of),
                dequantizes or (_moves(func) and bool(made_of) and made_of[0].dequantized),
            )


def _moves(func: Any) -> bool:
    """Whether an operator only moves numbers."""
    bare = func._schema.name.rpartition("::")[2]
    return bare in ("clone", "contiguous", "permute", "transpose", "t", "view", "reshape", "_unsafe_view", "expand")


def _closed(module: torch.nn.Module) -> bool:
    """Whether FX takes a module for one operation although it holds other modules."""
    import torch

    of_pytorch = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return of_pytorch and not isinstance(module, torch.nn.Sequential) and any(True for _ in module.children())
