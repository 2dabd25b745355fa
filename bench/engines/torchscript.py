"""TorchScript: the network traced and frozen; INT8 from the same FX conversion as PyTorch eager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.engines.engine import Emulation, Session, quiet, two_of
from bench.engines.lowered import Layer, as_stated, with_reasons
from bench.engines.torch import Torch, pools
from bench.engines.torch_devices import BY_TORCHAO, FORMATS_ON, lowered_on, session_on
from bench.engines.torch_quantization import quantized_engine
from bench.spec.inputs import batch_of, tensors_of
from bench.spec.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bench.spec.inputs import Given


ARCHIVE = "model.pt"


class TorchScript(Torch):
    """The artefact is a single frozen archive: the network and its weights."""

    format = "torchscript"
    devices = ("cpu", "cuda")
    formats_on = MappingProxyType({"cuda": tuple(name for name in FORMATS_ON["cuda"] if name not in BY_TORCHAO)})
    autocasts = ()

    def build(self, network: torch.nn.Module, recipe: Recipe, samples: Given, folder: Path) -> None:
        """Lower the network as PyTorch eager does, trace it on two samples (the batch stays free) and freeze it.

        It is traced on the engine's device, since an archive keeps the device of the tensors that it makes.
        """
        import torch

        module = lowered_on(network, recipe, self.device, samples[:1], samples)
        with torch.inference_mode(), quiet():
            pair = tuple(tensor.to(self.device) for tensor in tensors_of(two_of(samples)))
            traced = torch.jit.trace(module, pair, check_trace=False)
            torch.jit.freeze(traced).save(str(folder / ARCHIVE))

    def load(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Session:
        """Open a session on the archive; its INT8 weights are packed for the kernels that are set here."""
        import torch

        torch.set_num_threads(threads)
        torch.backends.quantized.engine = quantized_engine()
        with quiet():
            archive = torch.jit.load(str(folder / ARCHIVE), map_location=self.device)
        return session_on(archive, recipe, self.device, pools)

    def layers(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> list[Layer]:
        """The multiplications of a call of the archive.

        An archive keeps no module names: they come from the same network in PyTorch eager, if it multiplies the same in
        the same order.
        """
        from bench.engines.torch_count import layers_of, products_of

        predict, batch = self.load(folder, recipe, network, example, threads), batch_of(example)
        products = products_of(lambda: predict(batch))
        module = lowered_on(network(), recipe, self.device, example[:1])
        eager = session_on(module, recipe, self.device, pools)
        named = products_of(lambda: eager(batch))
        if [(twin.kind, twin.macs) for twin in named] == [(product.kind, product.macs) for product in products]:
            pairs = zip(products, named, strict=True)
            products = [replace(product, module=twin.module, box=twin.box) for product, twin in pairs]
        layers = as_stated(layers_of(products, len(example)), recipe)
        return with_reasons(layers, recipe, self.dynamic, self.unlowered)

    def emulated(
        self, folder: Path, recipe: Recipe, network: Callable[[], torch.nn.Module], example: Given, threads: int
    ) -> Emulation:
        """The archive with its own scales and packed weights, its INT8 operators compute in floating point."""
        from bench.engines.emulation_torch import emulation

        return emulation(self.load(folder, recipe, network, example, threads))


ENGINE = TorchScript()
