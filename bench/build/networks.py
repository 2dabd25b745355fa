"""A model's network as its code builds it, and the state that fills it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.errors import DataError, Unsupported
from bench.spec.model import Source
from bench.spec.network import NetworkFile
from bench.spec.packages import lacking
from bench.spec.step import Step

if TYPE_CHECKING:
    import torch

    from bench.spec.model import Network
    from bench.spec.step import Decided

STEPS = "steps.json"  # what the steps of a recipe decided, in order
HUFFMAN = "huffman_bytes"  # with it: the size of the weights after the step, in Huffman's code
SEED = 0  # of what is drawn while building; it is in the keys


def architecture(source: Source, seed: int = SEED) -> Network:
    """The model's network in eval mode, made by its function or from its weights' file under a seed.

    For a network that is a file, the file as it is.

    Raises Unsupported where a package that it imports is not installed.
    """
    import torch

    torch.manual_seed(seed)
    try:
        if source.weights.network is not None and source.weights_file is not None:
            return source.weights.network(source.weights_file).eval()
        assert source.model.network is not None, f"{source.model.name} has neither a network nor a file that holds one"
        network = source.model.network()
        return network if isinstance(network, NetworkFile) else network.eval()
    except ModuleNotFoundError as error:
        reason = lacking([(error.name or str(error)).partition(".")[0].replace("_", "-")])
        raise Unsupported(f"{source.model.name}'s network cannot be built: {reason or error}") from error


def decided_in(folder: Path) -> list[Decided]:
    """What the steps decided whose stage, or whose stage's reference, is in a folder; empty without steps."""
    file = folder / STEPS
    return json.loads(file.read_text()) if file.is_file() else []


@dataclass(frozen=True)
class SizesDecided:
    """What the weights take after the last step, in bytes: in Huffman's code, and packed by their bits."""

    huffman_bytes: int | None = None
    packed_bytes: int | None = None


def shaped(network: torch.nn.Module, steps: Sequence[Step], folder: Path) -> torch.nn.Module:
    """A network with plain parameters, brought to the structure of the stage in a folder."""
    if not steps:
        return network
    network = folded(network)
    for step, decided in zip(steps, decided_in(folder), strict=True):
        network = step.shape(network, decided)
    return network


def load_state(network: torch.nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict; raise DataError with the keys that do not fit.

    BatchNorm's count of batches may be missing: PyTorch before 0.4.1 did not keep it, and inference does not use it.
    """
    expected = network.state_dict()
    state = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")} | {**state}
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "not the model's": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape),
    }
    if any(wrong.values()):
        problems = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in wrong.items() if keys)
        raise DataError(f"{where} does not fit the network: of {len(expected)} keys, {problems}")
    network.load_state_dict(state)


def folded(network: torch.nn.Module) -> torch.nn.Module:
    """The network with parametrizations (weight and spectral norm, pruning, a user's own) replaced by their weights.

    Both of PyTorch's forms, parametrizations and hooks, are replaced: engines know plain parameters only, and a
    measured network must not compute them at each call.
    """
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
    from torch.nn.utils.weight_norm import WeightNorm

    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module).parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                loading = module._load_state_dict_pre_hooks  # PyTorch 2.15.0 leaves its hook there
                for place, wrapped in list(loading.items()):
                    if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
                        del loading[place]
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return network
