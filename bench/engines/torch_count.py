"""The multiplications of a call in PyTorch, by what its dispatcher is asked for: eager modules, TorchScript's archives,
exported programs, and what Inductor's compiled code calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from bench.engines.lowered import UNFOUND, Layer
from bench.errors import BuildError

if TYPE_CHECKING:
    import torch

_WRAPPED = "network."  # what bench's own module that casts inputs and outputs calls the one inside it
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


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
            origins.update((_place(one), _Origin(False, False)) for one in _tensors(given))
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
            formula = _FORMULAS.get(func._schema.name)
            if formula is None and not _counts(func):
                with self:
                    whole = func.decompose(*args, **kwargs)
                if whole is not NotImplemented:
                    return whole
            output = func(*args, **kwargs)
            given = _tensors((args, kwargs))
            made_of = [origins.get(place, _Origin(True, False)) for place in map(_place, given)]
            if formula is not None or _counts(func):
                named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
                found = (_by_registry if formula is None else formula)(func, args, named | kwargs, output)
                if found is not None:
                    products.append(self._product(func, found, given, made_of))
            _learn(func, given, made_of, output, origins)
            return output

        def _product(self, func: Any, found: _Found, given: list[torch.Tensor], made_of: list[_Origin]) -> Product:
            weights = found.weights
            if weights is None:
                weights = [one for one, origin in zip(given, made_of, strict=True) if origin.constant and one.dim() > 1]
                if found.kind not in ("embedding", "lstm", "gru", "rnn"):  # a factor; biases and masks are none
                    weights = [one for one in weights if any(one is factor for factor in found.factors)]
            fresh = [one for one in weights if _place(one) not in counted]
            counted.update(map(_place, fresh))
            module = running[-1] if running else None
            kind = found.kind
            if kind == "linear" and not weights and not found.count:
                kind = "matmul"
            kind = next(filter(None, map(_recurrent, running)), kind)
            stored = found.stored or (_format(weights[0].dtype) if weights else found.format)
            places = [_place(one) for one in found.factors]
            return Product(
                "" if module is None else names.get(id(module), ""),
                next((type(one).__name__ for one in running if _closed(one)), None),
                func._schema.name,
                kind,
                found.format,
                stored,
                found.macs,
                found.count if found.count is not None else sum(map(_numbers, fresh)),
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


@dataclass(frozen=True)
class _Found:
    kind: str
    format: str
    macs: int
    factors: Sequence[torch.Tensor] = ()
    weights: Sequence[torch.Tensor] | None = None
    stored: str | None = None
    count: int | None = None


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


def _tensors(values: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    """What tells tensors apart that are kept in different places: views of one have the same."""
    import torch

    if tensor.layout is not torch.strided:
        return id(tensor)
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # a tensor of a class of its own, without storage
        return id(tensor)


def _numbers(tensor: torch.Tensor) -> int:
    """How many numbers there are behind a tensor: an expanded axis repeats the same."""
    import torch

    strides = tensor.stride() if tensor.layout is torch.strided else (1,) * tensor.dim()
    return math.prod(size for size, stride in zip(tensor.shape, strides, strict=True) if stride)


def _learn(
    func: Any, given: list[torch.Tensor], made_of: list[_Origin], output: Any, origins: dict[int, _Origin]
) -> None:
    """Note of each storage that an operator has filled what it was made of; a view's stays what it was."""
    places = {_place(one) for one in given}
    dequantizes = "dequantize" in func._schema.name
    for one in _tensors(output):
        place = _place(one)
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


def _recurrent(module: torch.nn.Module) -> str | None:
    bare = type(module).__name__.removesuffix("Cell").lower()
    return bare if bare in GATES and type(module).__module__.startswith("torch.") else None


def _format(dtype: torch.dtype) -> str:
    import torch

    return {
        torch.float32: "fp32",
        torch.float64: "fp64",
        torch.bfloat16: "bf16",
        torch.float16: "fp16",
        torch.int8: "int8",
        torch.uint8: "int8",
        torch.qint8: "int8",
        torch.quint8: "int8",
    }.get(dtype, str(dtype).removeprefix("torch."))


def _convolution(weight: torch.Tensor, transposed: bool, groups: int, planes_in: int, axes: int) -> str:
    if transposed:
        return "transposed"
    if groups > 1 and groups == planes_in:
        return "depthwise"
    return CONVOLUTIONS.get(axes, "conv2d")


def _by_registry(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    """What PyTorch's own counter of operations knows."""
    from torch.utils.flop_counter import flop_registry

    packet = func._overloadpacket
    keywords = {name: value for name, value in named.items() if name not in _names(func)[: len(args)]}
    macs = int(flop_registry[packet](*args, **keywords, out_val=output)) // 2
    tensors = _tensors((args, keywords))
    bare = func._schema.name.removeprefix("aten::")
    if "convolution" in bare or "conv2d" in bare:
        backward = "backward" in bare
        x, weight = (named["input"], named["weight"]) if "input" in named else tensors[:2]
        groups, transposed = int(named.get("groups", 1)), bool(named.get("transposed", False))
        kind = _convolution(weight, transposed, groups, x.shape[1], x.dim())
        return _Found(kind, _format(x.dtype), macs, (x, weight), [] if backward else None)
    if "attention" in bare:
        return _Found("matmul", _format(tensors[0].dtype), macs, tensors[:3])
    factors = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2")}.get(bare)
    pair = tensors[:2] if factors is None else [named[name] for name in factors]
    return _Found("linear", _format(pair[0].dtype), macs, pair)


def _names(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


def _pair(first: str, second: str) -> Callable[..., _Found]:
    """Products of two tensors by name: the last axis of the first is summed over."""

    def formula(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
        a, b = named[first], named[second]
        return _Found("linear", _format(a.dtype), math.prod(output.shape) * a.shape[-1], (a, b))

    return formula


def _vectors(first: str, second: str) -> Callable[..., _Found]:
    def formula(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
        a, b = named[first], named[second]
        return _Found("linear", _format(a.dtype), a.numel(), (a, b))

    return formula


def _addbmm(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    a, b = named["batch1"], named["batch2"]
    return _Found("linear", _format(a.dtype), a.numel() * b.shape[-1], (a, b))


def _trilinear(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    weight = named["i2"]
    return _Found("linear", _format(weight.dtype), weight.numel() * named["i1"].shape[0], (named["i1"], weight))


def _embedding(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    return _Found("embedding", _format(args[0].dtype), 0, (), [args[0]])


def _packed_embedding(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    import torch

    weight = torch.ops.quantized.embedding_bag_unpack(args[0])
    return _Found("embedding", "int8", 0, (), [], "int8", weight.numel())


def _packed_convolution(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    """torch.ao's: the weights are in an object that unpacks them."""
    x, packed = args[0], next(value for value in args if hasattr(value, "unpack"))
    weight = packed.unpack()[0]
    transposed = "transpose" in func._schema.name
    groups = int(packed.groups())
    macs = (x if transposed else output).numel() // (x if transposed else output).shape[1] * weight.numel()
    kind = _convolution(weight, transposed, groups, x.shape[1], x.dim())
    return _Found(kind, "int8", macs, (), [], "int8", weight.numel())


def _packed_linear(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    import torch

    fp16 = "fp16" in func._schema.name
    unpack = torch.ops.quantized.linear_unpack_fp16 if fp16 else torch.ops.quantized.linear_unpack
    weight = unpack(next(value for value in args[1:] if isinstance(value, torch.ScriptObject)))[0]
    macs = output.numel() // output.shape[-1] * weight.numel()
    return _Found("linear", "fp32" if fp16 else "int8", macs, (), [], "fp16" if fp16 else "int8", weight.numel())


def _packed_matmul(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    return _Found("matmul", "int8", output.numel() * args[0].shape[-1], (), [], "int8", 0)


def _prepacked(kind: str) -> Callable[..., _Found]:
    """oneDNN's and MKL's, which Inductor calls: the weights' layout is their own, their number is not."""

    def formula(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
        x = args[0]
        weight = args[2] if kind == "mkl" else next(named[name] for name in ("qw", "W", "weight") if name in named)
        result = next(iter(_tensors(output)))
        found = kind
        if kind in ("linear", "mkl"):
            found, macs = "linear", result.numel() // result.shape[-1] * weight.numel()
        elif kind == "transposed":
            macs = x.numel() // x.shape[1] * weight.numel()
        else:
            groups = int(named.get("groups", 1))
            found = _convolution(weight, False, groups, x.shape[1], x.dim())
            macs = result.numel() // result.shape[1] * weight.numel()
        held = "int8" if func.namespace == "onednn" else _format(x.dtype)
        return _Found(found, held, macs, (), [weight], held)

    return formula


def _recurrent_sizes(kind: str, size_in: int, hidden: int, layers: int, directions: int) -> int:
    """How many weights multiply at each step: of the first layer and those that see the outputs of one before."""
    later = (hidden * directions + hidden) * (layers - 1)
    return GATES[kind] * hidden * directions * (size_in + hidden + later)


def _mkldnn_rnn(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    """One layer in one direction: weight0 of the inputs, weight1 of the hidden state."""
    x, weights = named["input"], (named["weight0"], named["weight1"])
    steps = x.numel() // x.shape[-1]
    kind = {2: "lstm", 3: "gru"}.get(int(named["mode"]), "rnn")
    return _Found(kind, _format(x.dtype), steps * sum(one.numel() for one in weights), (x, *weights), list(weights))


def _whole_recurrence(kind: str) -> Callable[..., _Found]:
    """Dynamically quantized, with weights in objects."""

    def formula(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
        import torch

        x = args[0]
        bidirectional = bool(named["bidirectional"])
        hx = named["hx"][0] if isinstance(named["hx"], (list, tuple)) else named["hx"]
        weights = _recurrent_sizes(kind, x.shape[-1], hx.shape[-1], int(named["num_layers"]), 1 + bidirectional)
        held = "fp16" if named.get("dtype") is torch.float16 else "int8"
        format = "fp32" if held == "fp16" else "int8"
        return _Found(kind, format, x.numel() // x.shape[-1] * weights, (), [], held, weights)

    return formula


def _packed_cell(kind: str) -> Callable[..., _Found]:
    def formula(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
        x, result = args[0], next(iter(_tensors(output)))
        weights = _recurrent_sizes(kind, x.shape[-1], result.shape[-1], 1, 1)
        return _Found(kind, "int8", x.numel() // x.shape[-1] * weights, (), [], "int8", weights)

    return formula


def _attention(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    """The fast path's attention, of queries, keys and values (n, length, planes)."""
    query, key = named["query"], named["key"]
    count, length, planes = query.shape
    weights = [named["qkv_weight"], named["proj_weight"]]
    macs = count * (length * sum(one.numel() for one in weights) + 2 * length * key.shape[1] * planes)
    return _Found("linear", _format(query.dtype), macs, (query, *weights), weights)


def _encoder_layer(func: Any, args: Any, named: dict[str, Any], output: Any) -> _Found:
    """The fast path's encoder layer, of (n, length, planes)."""
    x = named["src"]
    count, length, planes = x.shape
    weights = [named[name] for name in ("qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2")]
    macs = count * (length * sum(one.numel() for one in weights) + 2 * length * length * planes)
    return _Found("linear", _format(x.dtype), macs, (x, *weights), weights)


_FORMULAS: dict[str, Callable[..., _Found | None]] = {
    "aten::mv": _vectors("self", "vec"),
    "aten::addmv": _vectors("mat", "vec"),
    "aten::dot": _vectors("self", "tensor"),
    "aten::vdot": _vectors("self", "other"),
    "aten::addbmm": _addbmm,
    "aten::_int_mm": _pair("self", "mat2"),
    "aten::_trilinear": _trilinear,
    "aten::embedding": _embedding,
    "aten::_embedding_bag": _embedding,
    "aten::_embedding_bag_forward_only": _embedding,
    "aten::mkldnn_rnn_layer": _mkldnn_rnn,
    "aten::quantized_lstm": _whole_recurrence("lstm"),
    "aten::quantized_gru": _whole_recurrence("gru"),
    "aten::_native_multi_head_attention": _attention,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    "quantized::matmul": _packed_matmul,
    "quantized::quantized_lstm_cell_dynamic": _packed_cell("lstm"),
    "quantized::quantized_gru_cell_dynamic": _packed_cell("gru"),
    "quantized::quantized_rnn_tanh_cell_dynamic": _packed_cell("rnn"),
    "quantized::quantized_rnn_relu_cell_dynamic": _packed_cell("rnn"),
    "mkldnn::_convolution_pointwise": _prepacked("conv"),
    "mkldnn::_convolution_pointwise_": _prepacked("conv"),
    "mkldnn::_convolution_transpose_pointwise": _prepacked("transposed"),
    "mkldnn::_linear_pointwise": _prepacked("linear"),
    "mkl::_mkl_linear": _prepacked("mkl"),
    "onednn::qlinear_pointwise": _prepacked("linear"),
    "quantized::embedding_byte": _packed_embedding,
    "quantized::embedding_4bit": _packed_embedding,
    "quantized::embedding_bag_byte": _packed_embedding,
    "quantized::embedding_bag_4bit": _packed_embedding,
}
_FORMULAS |= dict.fromkeys(
    (f"onednn::{name}" for name in ("qconv_pointwise", "qconv1d_pointwise", "qconv2d_pointwise", "qconv3d_pointwise")),
    _prepacked("conv"),
)
_FORMULAS |= {
    f"quantized::{name}{more}": _packed_convolution
    for axes in (1, 2, 3)
    for name in (f"conv{axes}d", f"conv_transpose{axes}d")
    for more in ("", "_relu", "_add", "_add_relu", "_dynamic")
}
_FORMULAS |= {
    f"quantized::linear{more}": _packed_linear
    for more in (
        *("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic", "_dynamic_fp16", "_relu_dynamic_fp16"),
        *("_with_input_q_dq_qweight_dq_output_fp32", "_with_input_q_dq_qweight_dq_relu_output_fp32"),
    )
}
