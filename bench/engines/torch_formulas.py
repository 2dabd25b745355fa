"""How many multiplications each PyTorch operator makes, and in which number format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Keywords = dict[str, Any]  # as PyTorch hands them to an operator

GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # matrices of weights per recurrent layer, for inputs and for states


# by the number of axes of the input
CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


@dataclass(frozen=True)
class Counted:
    """The multiplications of a call of an operator.

    kind     one of bench.engines.lowered.KINDS; "linear" stands for any matrix product.
    format   the number format that it computes in.
    macs     multiply-accumulates.
    factors  the tensors that are multiplied.
    weights  those that are weights; None where they must be picked from the operator's tensors.
    stored   the number format of the weights; None where it is that of the tensors.
    count    how many numbers the weights are; None where the tensors tell.
    """

    kind: str
    format: str
    macs: int
    factors: Sequence[torch.Tensor] = ()
    weights: Sequence[torch.Tensor] | None = None
    stored: str | None = None
    count: int | None = None


def tensors_in(values: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def place_of(tensor: torch.Tensor) -> int:
    """A number for the storage of a tensor: views of the same storage have the same number."""
    import torch

    if tensor.layout is not torch.strided:
        return id(tensor)
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # a subclass of Tensor without storage
        return id(tensor)


def numbers_in(tensor: torch.Tensor) -> int:
    """How many numbers a tensor stores: an expanded axis repeats the same numbers and does not count."""
    import torch

    strides = tensor.stride() if tensor.layout is torch.strided else (1,) * tensor.dim()
    return math.prod(size for size, stride in zip(tensor.shape, strides, strict=True) if stride)


def recurrent_kind(module: torch.nn.Module) -> str | None:
    """The kind of a recurrent layer or cell of PyTorch, "lstm", "gru" or "rnn"; None for other modules."""
    bare = type(module).__name__.removesuffix("Cell").lower()
    return bare if bare in GATES and type(module).__module__.startswith("torch.") else None


def format_of_dtype(dtype: torch.dtype) -> str:
    import torch

    return {
        torch.float32: "fp32",
        torch.float64: "fp64",
        torch.bfloat16: "bf16",
        torch.float16: "fp16",
        torch.float8_e4m3fn: "fp8",
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


def by_registry(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    """The count by PyTorch's own flop counter; a multiply-accumulate is two of its operations."""
    from torch.utils.flop_counter import flop_registry

    packet = func._overloadpacket
    keywords = {name: value for name, value in named.items() if name not in _names(func)[: len(args)]}
    macs = int(flop_registry[packet](*args, **keywords, out_val=output)) // 2
    tensors = tensors_in((args, keywords))
    bare = func._schema.name.removeprefix("aten::")
    if "convolution" in bare or "conv2d" in bare:
        backward = "backward" in bare
        x, weight = (named["input"], named["weight"]) if "input" in named else tensors[:2]
        groups, transposed = int(named.get("groups", 1)), bool(named.get("transposed", False))
        kind = _convolution(weight, transposed, groups, x.shape[1], x.dim())
        return Counted(kind, format_of_dtype(x.dtype), macs, (x, weight), [] if backward else None)
    if "attention" in bare:
        return Counted("matmul", format_of_dtype(tensors[0].dtype), macs, tensors[:3])
    factors = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2")}.get(bare)
    pair = tensors[:2] if factors is None else [named[name] for name in factors]
    return Counted("linear", format_of_dtype(pair[0].dtype), macs, pair)


def _names(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


def _pair(first: str, second: str) -> Callable[..., Counted]:
    """The formula for a product of two arguments by name, summed over the last axis of the first."""

    def formula(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
        a, b = named[first], named[second]
        return Counted("linear", format_of_dtype(a.dtype), math.prod(output.shape) * a.shape[-1], (a, b))

    return formula


def _vectors(first: str, second: str) -> Callable[..., Counted]:
    """The formula for a product with a vector: a multiplication for each number of the first argument."""

    def formula(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
        a, b = named[first], named[second]
        return Counted("linear", format_of_dtype(a.dtype), a.numel(), (a, b))

    return formula


def _addbmm(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    a, b = named["batch1"], named["batch2"]
    return Counted("linear", format_of_dtype(a.dtype), a.numel() * b.shape[-1], (a, b))


def _trilinear(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    weight = named["i2"]
    return Counted(
        "linear", format_of_dtype(weight.dtype), weight.numel() * named["i1"].shape[0], (named["i1"], weight)
    )


def _embedding(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    return Counted("embedding", format_of_dtype(args[0].dtype), 0, (), [args[0]])


def _packed_embedding(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    import torch

    weight = torch.ops.quantized.embedding_bag_unpack(args[0])
    return Counted("embedding", "int8", 0, (), [], "int8", weight.numel())


def _packed_convolution(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    """A convolution of torch.ao: its weights are in an object that unpacks them."""
    x, packed = args[0], next(value for value in args if hasattr(value, "unpack"))
    weight = packed.unpack()[0]
    transposed = "transpose" in func._schema.name
    groups = int(packed.groups())
    macs = (x if transposed else output).numel() // (x if transposed else output).shape[1] * weight.numel()
    kind = _convolution(weight, transposed, groups, x.shape[1], x.dim())
    return Counted(kind, "int8", macs, (), [], "int8", weight.numel())


def _packed_linear(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    import torch

    fp16 = "fp16" in func._schema.name
    unpack = torch.ops.quantized.linear_unpack_fp16 if fp16 else torch.ops.quantized.linear_unpack
    weight = unpack(next(value for value in args[1:] if isinstance(value, torch.ScriptObject)))[0]
    macs = output.numel() // output.shape[-1] * weight.numel()
    return Counted("linear", "fp32" if fp16 else "int8", macs, (), [], "fp16" if fp16 else "int8", weight.numel())


def _packed_matmul(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    return Counted("matmul", "int8", output.numel() * args[0].shape[-1], (), [], "int8", 0)


def _prepacked(kind: str) -> Callable[..., Counted]:
    """The formula for oneDNN's and MKL's operators, which Inductor calls: repacking keeps the number of weights."""

    def formula(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
        x = args[0]
        weight = args[2] if kind == "mkl" else next(named[name] for name in ("qw", "W", "weight") if name in named)
        result = next(iter(tensors_in(output)))
        operation = kind
        if kind in ("linear", "mkl"):
            operation, macs = "linear", result.numel() // result.shape[-1] * weight.numel()
        elif kind == "transposed":
            macs = x.numel() // x.shape[1] * weight.numel()
        else:
            groups = int(named.get("groups", 1))
            operation = _convolution(weight, False, groups, x.shape[1], x.dim())
            macs = result.numel() // result.shape[1] * weight.numel()
        held = "int8" if func.namespace == "onednn" else format_of_dtype(x.dtype)
        return Counted(operation, held, macs, (), [weight], held)

    return formula


def _recurrent_sizes(kind: str, size_in: int, hidden: int, layers: int, directions: int) -> int:
    """How many weights multiply at each step, in the first layer and in those that read the layer before."""
    later = (hidden * directions + hidden) * (layers - 1)
    return GATES[kind] * hidden * directions * (size_in + hidden + later)


def _mkldnn_rnn(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    """A single layer in one direction: weight0 for the inputs, weight1 for the hidden state."""
    x, weights = named["input"], (named["weight0"], named["weight1"])
    steps = x.numel() // x.shape[-1]
    kind = {2: "lstm", 3: "gru"}.get(int(named["mode"]), "rnn")
    return Counted(
        kind, format_of_dtype(x.dtype), steps * sum(weight.numel() for weight in weights), (x, *weights), list(weights)
    )


def _whole_recurrence(kind: str) -> Callable[..., Counted]:
    """The formula for a dynamically quantized recurrent layer, whose weights are in objects."""

    def formula(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
        import torch

        x = args[0]
        bidirectional = bool(named["bidirectional"])
        hx = named["hx"][0] if isinstance(named["hx"], (list, tuple)) else named["hx"]
        weights = _recurrent_sizes(kind, x.shape[-1], hx.shape[-1], int(named["num_layers"]), 1 + bidirectional)
        held = "fp16" if named.get("dtype") is torch.float16 else "int8"
        format = "fp32" if held == "fp16" else "int8"
        return Counted(kind, format, x.numel() // x.shape[-1] * weights, (), [], held, weights)

    return formula


def _packed_cell(kind: str) -> Callable[..., Counted]:
    def formula(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
        x, result = args[0], next(iter(tensors_in(output)))
        weights = _recurrent_sizes(kind, x.shape[-1], result.shape[-1], 1, 1)
        return Counted(kind, "int8", x.numel() // x.shape[-1] * weights, (), [], "int8", weights)

    return formula


def _attention(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    """The fast path's attention, of queries, keys and values (n, length, planes)."""
    query, key = named["query"], named["key"]
    count, length, planes = query.shape
    weights = [named["qkv_weight"], named["proj_weight"]]
    macs = count * (length * sum(weight.numel() for weight in weights) + 2 * length * key.shape[1] * planes)
    return Counted("linear", format_of_dtype(query.dtype), macs, (query, *weights), weights)


def _encoder_layer(func: Any, args: Any, named: Keywords, output: Any) -> Counted:
    """The fast path's encoder layer, of (n, length, planes)."""
    x = named["src"]
    count, length, planes = x.shape
    weights = [named[name] for name in ("qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2")]
    macs = count * (length * sum(weight.numel() for weight in weights) + 2 * length * length * planes)
    return Counted("linear", format_of_dtype(x.dtype), macs, (x, *weights), weights)


# operators that the flop counter lacks; others go to by_registry
FORMULAS: dict[str, Callable[..., Counted | None]] = {
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
FORMULAS |= dict.fromkeys(
    (f"onednn::{name}" for name in ("qconv_pointwise", "qconv1d_pointwise", "qconv2d_pointwise", "qconv3d_pointwise")),
    _prepacked("conv"),
)
FORMULAS |= {
    f"quantized::{name}{more}": _packed_convolution
    for axes in (1, 2, 3)
    for name in (f"conv{axes}d", f"conv_transpose{axes}d")
    for more in ("", "_relu", "_add", "_add_relu", "_dynamic")
}
FORMULAS |= {
    f"quantized::linear{more}": _packed_linear
    for more in (
        *("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic", "_dynamic_fp16", "_relu_dynamic_fp16"),
        *("_with_input_q_dq_qweight_dq_output_fp32", "_with_input_q_dq_qweight_dq_relu_output_fp32"),
    )
}
