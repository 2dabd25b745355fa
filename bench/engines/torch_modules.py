"""The state of PyTorch modules, quantized too, in a file without pickled code; and modules as `Predict`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.engine import quiet
from bench.errors import BuildError

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Batch
    from bench.spec.interface import Output, Predict


STATE = "state.pt"


def save(module: torch.nn.Module, file: Path) -> None:
    """Write the state of a lowered network. Raises BuildError where reading it would unpickle objects.

    Weights that torch.ao packed as objects are written as the numbers that they were packed from. Some torch.ao modules
    (ELU, LeakyReLU) keep scales and weights out of their state dict: those are written beside it.
    """
    import torch

    state = module.state_dict()
    packed = {name: _unpacked(state.pop(name)) for name in list(state) if isinstance(state[name], torch.ScriptObject)}
    apart = {
        f"{name}.{key}": vars(part)[key]
        for name, part in module.named_modules()
        for key in APART
        if isinstance(vars(part).get(key), (int, float, torch.Tensor))
    }
    torch.save({"state": state, "packed": packed, "apart": apart}, file)
    try:
        with quiet():
            torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        line = str(error).strip().splitlines()[0]
        raise BuildError(f"the network's state holds objects, which are not read back for safety: {line}") from error


def restore(module: torch.nn.Module, file: Path, assign: bool = False) -> None:
    """Fill a lowered network with the state in a file of `save`; `assign` puts the file's tensors in place of its."""
    import torch

    with quiet():
        stored = torch.load(file, weights_only=True)
    state = stored["state"]
    state.update({name: _packed(*parts) for name, parts in stored["packed"].items()})
    module.load_state_dict(state, assign=assign)
    for name, value in stored["apart"].items():
        owner, _, key = name.rpartition(".")
        setattr(module.get_submodule(owner), key, value)


def _unpacked(packed: Any) -> tuple[str, tuple[Any, ...]]:
    """An object that torch.ao packed for a layer, as a kind and the tensors and numbers that `_packed` takes."""
    import torch

    kind, functions = packed._type().name(), torch.ops.quantized
    if kind == "LinearPackedParamsBase":
        return "linear", functions.linear_unpack(packed)
    if kind == "CellParamsBase":  # LSTM or GRU; the last number says whether activations keep to 7 bits
        _, biases, _, numbers, layers = packed.__getstate__()[0]
        return "cell", (*(functions.linear_unpack(layer)[0] for layer in layers), *biases, bool(numbers[-1]))
    if kind in ("Conv2dPackedParamsBase", "Conv3dPackedParamsBase"):
        name = kind[:6].lower()
        places = ("stride", "padding", "dilation")
        weight, bias = getattr(functions, f"{name}_unpack")(packed)
        numbers = [getattr(functions, f"{name}_{place}")(packed) for place in places]
        return name, (weight, bias, *numbers, getattr(functions, f"{name}_groups")(packed))
    raise BuildError(f"torch.ao packed weights as {kind}, which is not known here and not unpickled for safety")


def _packed(kind: str, parts: tuple[Any, ...]) -> torch.ScriptObject:
    """The reverse of `_unpacked`: the object, packed for the kernels that are set now."""
    import torch

    functions = torch.ops.quantized
    if kind == "cell":
        layers = [functions.linear_prepack(weight, bias) for weight, bias in zip(parts[:2], parts[2:4], strict=True)]
        made = functions.make_quantized_cell_params_dynamic(*layers, *parts[2:])
    else:
        made = getattr(functions, f"{kind}_prepack")(*parts)
    assert isinstance(made, torch.ScriptObject)
    return made


def predictor(module: Callable[..., torch.Tensor], device: str = "cpu") -> Predict:
    """A function that runs a module without gradients: (batch, ...) in and out, a tuple for several outputs.

    On another device than the CPU it moves inputs there and outputs back, and waits for these.
    """
    import numpy as np
    import torch

    # on the CPU without a detour: calls are timed
    take: Callable[[Any], torch.Tensor] = torch.from_numpy
    give: Callable[[torch.Tensor], Any] = torch.Tensor.numpy
    if device != "cpu":
        take, give = (lambda array: torch.from_numpy(array).to(device)), (lambda tensor: tensor.cpu().numpy())

    def predict(inputs: Batch) -> Output:
        with torch.inference_mode():
            outputs = module(take(inputs)) if isinstance(inputs, np.ndarray) else module(*map(take, inputs.values()))
            if isinstance(outputs, torch.Tensor):
                return give(outputs)
            arrays = tuple(map(give, outputs))
            return arrays[0] if len(arrays) == 1 else arrays

    return predict


# attributes that some torch.ao modules keep out of their state dict
APART = ("scale", "zero_point", "weight")
