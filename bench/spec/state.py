"""The state of a network as a safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import DataError

if TYPE_CHECKING:
    import torch

TIED = "tied"  # safetensors metadata: further name -> first name of a tensor


def save_state(network: torch.nn.Module, file: Path) -> None:
    """Write a network's state dict as safetensors: a tensor with several names once, its other names in the metadata.

    Raises DataError where the state holds anything but tensors: that could only be pickled.
    """
    import torch
    from safetensors.torch import save_file

    firsts: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise DataError(
                f"the network keeps {name} in its state dict, a {type(tensor).__name__}; only tensors are kept"
            )
        first = firsts.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)  # a view gets its own storage
        else:
            tied[name] = first
    save_file(tensors, file, {TIED: json.dumps(tied)} if tied else None)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The state dict that `save_state` wrote. Raises DataError where the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dictionary
            tied = json.loads((stored.metadata() or {}).get(TIED, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as safetensors: {error}") from error
    return tensors | {name: tensors[first] for name, first in tied.items()}
