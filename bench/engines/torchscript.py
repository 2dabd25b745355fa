"""TorchScript: the network traced and frozen; INT8 from the same FX conversion as PyTorch eager."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines.torch import Torch, lowered, predictor, quantized_engine, quiet
from bench.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.engines import Predict

ARCHIVE = "model.pt"


class TorchScript(Torch):
    """The artefact is one frozen archive that holds the network too."""

    format = "torchscript"

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: np.ndarray, folder: Path) -> None:
        """Lower the network as PyTorch eager does, trace it on the first two samples and freeze it."""
        import copy

        import torch

        with tempfile.TemporaryDirectory() as eager:
            bare = copy.deepcopy(network)
            super().build(network, recipe, samples, Path(eager))
            module = lowered(Path(eager), recipe, bare, samples[:1])
        example = torch.from_numpy(samples[:2])
        with torch.inference_mode(), quiet():
            torch.jit.freeze(torch.jit.trace(module, example, check_trace=False)).save(str(folder / ARCHIVE))

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: np.ndarray, threads: int
    ) -> Predict:
        """Open a session on the archive; INT8 weights are packed for the engine that is set now."""
        import torch

        torch.set_num_threads(threads)
        torch.backends.quantized.engine = quantized_engine()
        with quiet():
            return predictor(torch.jit.load(str(folder / ARCHIVE)))


ENGINE = TorchScript()
