"""torch.ao's quantized networks with the result of each INT8 kernel computed in floating point.

Operators are caught at PyTorch's dispatcher, so eager networks and TorchScript archives are emulated alike. Each
computes on its dequantized inputs, and its result is quantized at the scale and zero point of the kernel's own result:
the values pass through the network as they would between correct kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.engines.engine import Emulation
from bench.errors import Unsupported

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch
    from bench.spec.interface import Predict

    Form = Callable[..., torch.Tensor]


def emulation(predict: Predict, module: torch.nn.Module | None = None) -> Emulation:
    """The emulation of a session that computes by PyTorch's operators; an eager `module` names the layers."""

    def emulated(inputs: Batch) -> Any:
        with _caught({}, module):
            return predict(inputs)

    def layers(inputs: Batch) -> dict[str, float]:
        sqnr_by_layer: dict[str, float] = {}
        with _caught(sqnr_by_layer, module):
            predict(inputs)
        return sqnr_by_layer

    return Emulation(emulated, "each INT8 operator of PyTorch in floating point", layers)


@contextmanager
def _caught(layers: dict[str, float], module: torch.nn.Module | None) -> Iterator[None]:
    """Emulate quantized operators inside; write the SQNR of each kernel in dB into `layers` by its layer's name."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    from bench.statistics import sqnr_db

    forms, inside = _forms(), [""]

    class Caught(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            kind, _, name = func._schema.name.partition("::")
            form = forms.get(name) if kind == "quantized" else None
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if form is None and (kind == "quantized" or name.startswith("quantized_")) and not _moves(name):
                raise Unsupported(f"no floating-point form of PyTorch's {func._schema.name} is known")
            if (form is None and not any(tensor.is_quantized for tensor in given)) or func.is_view:
                return func(*args, **kwargs)
            meant = tree_map(_meant, (args, kwargs))
            kernels = func(*args, **kwargs)
            results = (form or func)(*meant[0], **meant[1])
            for place, (kernel, result) in enumerate(zip(tree_leaves(kernels), tree_leaves(results), strict=True)):
                if not isinstance(kernel, torch.Tensor) or not (kernel.is_quantized or form is not None):
                    continue
                if kernel.is_quantized:
                    result = torch.quantize_per_tensor(
                        result.contiguous(), kernel.q_scale(), kernel.q_zero_point(), kernel.dtype
                    )
                kernel_db = sqnr_db(_meant(kernel).numpy(), _meant(result).numpy())
                label = f"{inside[-1]} ({func._schema.name})" if inside[-1] else func._schema.name
                if place or label in layers:
                    label += f" {sum(other.startswith(label) for other in layers) + 1}"
                layers[label] = kernel_db
                kernel.copy_(result)  # into the kernel's output: later operators expect its memory layout
            return kernels

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: inside.append(path)

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for path, part in module.named_modules() if module is not None else ():
        if path:
            hooks += [part.register_forward_pre_hook(enter(path)), part.register_forward_hook(leave)]
    try:
        with Caught():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _meant(value: Any) -> Any:
    """A quantized tensor dequantized; any other value as it is."""
    import torch

    return value.dequantize() if isinstance(value, torch.Tensor) and value.is_quantized else value


def _moves(name: str) -> bool:
    """Whether an operator packs, unpacks or looks up weights and so computes no product."""
    return name.startswith(("embedding", "make_")) or "prepack" in name or "unpack" in name


def _forms() -> dict[str, Form]:
    """The floating-point form of each operator of PyTorch's `quantized` namespace: dequantized inputs, a result that is
    not yet quantized.
    """
    import torch
    from torch.nn import functional

    def relued(form: Form) -> Form:
        return lambda *args, **kwargs: torch.relu(form(*args, **kwargs))

    def convolution(axes: int) -> Form:
        def form(x: torch.Tensor, packed: Any, *_: Any) -> torch.Tensor:
            weight, bias = packed.unpack()
            lacking = weight.dim() - x.dim()  # conv1d's weights are packed as conv2d's with a single row
            if lacking:
                x = x.unsqueeze(-2)
            sizes = packed.stride(), packed.padding(), packed.dilation(), packed.groups()
            product = (functional.conv3d if axes == 3 else functional.conv2d)(x, weight.dequantize(), bias, *sizes)
            return product.squeeze(-2) if lacking else product

        return form

    def transposed(axes: int) -> Form:
        def form(x: torch.Tensor, packed: Any, *_: Any) -> torch.Tensor:
            weight, bias = packed.unpack()
            lacking = weight.dim() - x.dim()
            if lacking:
                x = x.unsqueeze(-2)
            product = (functional.conv_transpose3d if axes == 3 else functional.conv_transpose2d)(
                *(x, weight.dequantize(), bias, packed.stride(), packed.padding()),
                *(packed.output_padding(), packed.groups(), packed.dilation()),
            )
            return product.squeeze(-2) if lacking else product

        return form

    def accumulated(x: torch.Tensor, other: torch.Tensor, packed: Any, *_: Any) -> torch.Tensor:
        return convolution(2)(x, packed) + other

    def linear(x: torch.Tensor, packed: Any, *_: Any) -> torch.Tensor:
        weight, bias = packed.unpack()
        return functional.linear(x, weight.dequantize(), bias)

    def dynamic(product: Form) -> Form:
        def form(x: torch.Tensor, packed: Any, reduce_range: bool = False) -> torch.Tensor:
            # the kernels find the range of each call by the same function
            scale, zero = torch._choose_qparams_per_tensor(x, reduce_range)
            now = torch.quantize_per_tensor(x.contiguous(), scale, zero, torch.quint8)
            return product(now.dequantize(), packed)

        return form

    def normalized(form: Form) -> Form:
        def batch(x: torch.Tensor, weight: Any, bias: Any, mean: Any, var: Any, eps: float, *_: Any) -> torch.Tensor:
            return form(functional.batch_norm(x, mean, var, weight, bias, eps=eps))

        return batch

    def same(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return x

    made: dict[str, Form] = {
        "linear": linear,
        "linear_tanh": lambda *args: torch.tanh(linear(*args)),
        "linear_leaky_relu": lambda x, packed, scale, zero, slope: functional.leaky_relu(linear(x, packed), slope),
        "conv2d_add": accumulated,
        "add": lambda a, b, *_: a + b,
        "mul": lambda a, b, *_: a * b,
        "add_scalar": lambda a, b: a + b,
        "mul_scalar": lambda a, b: a * b,
        "matmul": lambda a, b, *_: a @ b,
        "cat": lambda parts, dim, *_: torch.cat(parts, dim),
        "prelu": lambda x, weight, *_: functional.prelu(x, weight),
        "leaky_relu": lambda x, slope, *_: functional.leaky_relu(x, slope),
        "hardswish": lambda x, *_: functional.hardswish(x),
        "elu": lambda x, scale, zero, alpha=1.0, *_: functional.elu(x, alpha),
        "celu": lambda x, scale, zero, alpha=1.0: functional.celu(x, alpha),
        "sigmoid": lambda x, *_: torch.sigmoid(x),
        "softmax": lambda x, dim, *_: torch.softmax(x, dim),
        "relu6": lambda x, *_: functional.relu6(x),
        "clamp": lambda x, low=None, high=None: torch.clamp(x, low, high),
        "threshold": lambda x, least, value: functional.threshold(x, least, value),
        "dropout": same,
        "layer_norm": lambda x, shape, weight, bias, eps, *_: functional.layer_norm(x, shape, weight, bias, eps),
        "group_norm": lambda x, groups, weight, bias, eps, *_: functional.group_norm(x, groups, weight, bias, eps),
        "instance_norm": lambda x, weight, bias, eps, *_: functional.instance_norm(
            x, None, None, weight, bias, eps=eps
        ),
        "batch_norm": normalized(same),
    }
    for axes in (1, 2, 3):
        made[f"conv{axes}d"] = convolution(axes)
        made[f"conv_transpose{axes}d"] = transposed(axes)
        made[f"batch_norm{axes}d"] = normalized(same)
    for name in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        made[f"{name}_dynamic"] = dynamic(made[name])
    made["linear_relu_dynamic"] = relued(made["linear_dynamic"])
    for name in ("linear", "conv1d", "conv2d", "conv3d", "conv2d_add", "add", "mul", "add_scalar", "mul_scalar", "cat"):
        made[f"{name}_relu"] = relued(made[name])
    for name in ("batch_norm", "batch_norm1d", "batch_norm2d", "batch_norm3d"):
        made[f"{name}_relu"] = relued(made[name])
    return made
