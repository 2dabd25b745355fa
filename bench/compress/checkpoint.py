"""Checkpoints of a training: one that was interrupted goes on after its last whole epoch, to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError

if TYPE_CHECKING:
    import torch


class Checkpoint:
    """The state of one training, in a file that is read without unpickling objects.

    file        its place; None: nothing is kept.
    parts       what has a `state_dict`: optimizer, schedule.
    generators  the random numbers that the training draws, beside PyTorch's own.
    plan        what else tells this training from others, such as its epochs.
    """

    def __init__(
        self,
        file: Path | None,
        network: torch.nn.Module,
        parts: dict[str, Any],
        generators: dict[str, torch.Generator],
        plan: Sequence[str] = (),
    ) -> None:
        self._file, self._network, self._parts, self._generators = file, network, parts, generators
        self._began_from = None if file is None else beginning(network, plan)

    def restored(self) -> int:
        """Bring all to the last kept state, and return how many epochs are done.

        A state of another training is left alone, and so is a damaged file.
        """
        import torch

        if self._file is None or not self._file.is_file():
            return 0
        try:
            state = torch.load(self._file, weights_only=True)
        except Exception:  # a damaged file, whatever the reader raises
            return 0
        if state["began from"] != self._began_from:
            return 0
        self._network.load_state_dict(state["network"])
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        torch.set_rng_state(state["torch"])
        return int(state["epochs"])

    def keep(self, epochs: int) -> None:
        """Keep the state after so many epochs; the file is whole at any time."""
        import torch

        if self._file is None:
            return
        state = {
            "began from": self._began_from,
            "epochs": epochs,
            "network": self._network.state_dict(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "torch": torch.get_rng_state(),
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        half = self._file.with_suffix(".half")
        torch.save(state, half)
        half.replace(self._file)


def beginning(network: torch.nn.Module, plan: Sequence[str]) -> list[str]:
    """What tells a training from others: the digest of the network before it, and its plan."""
    return [digest(network), *plan]


def refuse_others(file: Path, network: torch.nn.Module, plan: Sequence[str]) -> None:
    """Raise DataError where a file is there and is no checkpoint of this training, which would overwrite it."""
    import torch

    if not file.exists():
        return
    try:
        state = torch.load(file, weights_only=True)
        same = state["began from"] == beginning(network, plan)
    except Exception as error:  # whatever the reader raises
        raise DataError(f"{file} is no checkpoint of this training; name another file, or move it away") from error
    if not same:
        raise DataError(
            f"{file} is the checkpoint of another training, with other epochs, batch, data or code; name another file, "
            "or move it away"
        )


def digest(network: torch.nn.Module) -> str:
    """The sha256 of a network's state, its names and numbers."""
    made = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        made.update(name.encode())
        made.update(tensor.detach().contiguous().numpy().tobytes())
    return made.hexdigest()
