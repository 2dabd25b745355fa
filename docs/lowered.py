"""Makes docs/lowered.md: what each engine lowers to INT8, counted by bench itself on one small network a kind of layer.

    python docs/lowered.py > docs/lowered.md

It takes some minutes, most of them Inductor's compiler.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "TORCHINDUCTOR_FREEZING", "1"
)  # before torch is imported: Inductor lowers nothing to INT8 without

import numpy as np
import torch
from torch import nn

from bench import engines, engines_on, recipes
from bench.engines.lowered import lowered
from bench.errors import BenchError
from bench.machine.isa import saturates
from bench.store import versions

SAMPLES = 8
PRECISIONS = ("int8_static", "int8_dynamic")


class Last(nn.Module):
    """A recurrent layer's last output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


class Attention(nn.Module):
    """Products of activations alone, as attention's are, by scaled_dot_product_attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(2, (2, 16)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


class Own(nn.Module):
    """PyTorch's own multi-head attention, with its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Looked(nn.Module):
    """An embedding of whole numbers that are given as float32, and a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(16, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embedding(x.to(torch.int64)))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution 1d": (lambda: nn.Conv1d(16, 16, 3, padding=1), (16, 32)),
    "convolution 2d": (lambda: nn.Conv2d(16, 16, 3, padding=1), (16, 12, 12)),
    "convolution 3d": (lambda: nn.Conv3d(16, 16, 3, padding=1), (16, 6, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), (16, 12, 12)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 16, 2, 2), (16, 12, 12)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(16, 16, 2, 2, groups=2), (16, 12, 12)),
    "linear": (lambda: nn.Linear(32, 32), (32,)),
    "attention's products": (Attention, (8, 32)),
    "nn.MultiheadAttention": (Own, (8, 32)),
    "LSTM": (lambda: Last(nn.LSTM(16, 16, batch_first=True)), (8, 16)),
    "GRU": (lambda: Last(nn.GRU(16, 16, batch_first=True)), (8, 16)),
    "embedding's weights": (Looked, (8,)),
}


def cell(kind: str, engine_name: str, precision: str) -> str:
    """The share of the multiplications, or of the embedding's weights, that one engine lowers; or why there is none."""
    make, shape = KINDS[kind]
    engine, recipe = engines.get(engine_name), recipes.get(precision)
    reason = engine.supports(recipe, "cpu")
    if reason is not None:
        return "-"

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(make()).eval().requires_grad_(False)

    samples = np.random.default_rng(0).uniform(0, 16, (SAMPLES, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # NNCF's bars
        try:
            engine.build(network(), recipe, samples, Path(folder))
            layers = engine.layers(Path(folder), recipe, network, samples[:2], 1)
        except Exception as error:
            print(f"{kind} {engine_name} {precision}: {type(error).__name__}: {error}".split("\n")[0], file=sys.stderr)
            return "unsupported" if isinstance(error, BenchError) else "error"
    if layers is None:
        return "not counted"
    if kind.startswith("embedding"):
        tables = [layer for layer in layers if layer.kind == "embedding"]
        return ", ".join(dict.fromkeys(layer.stored for layer in tables)) or "not seen"
    counted = lowered(layers, "int8")
    share = 0.0 if counted is None else counted.macs.get("int8", 0.0)
    return f"{share:.0%}"


def table(precision: str) -> Iterator[str]:
    """A table of kinds of layers by engines, as lines of markdown."""
    names = [name for name in engines_on("cpu") if engines.get(name).missing() is None]
    yield "| layer | " + " | ".join(names) + " |"
    yield "| --- |" + " --- |" * len(names)
    for kind in KINDS:
        yield f"| {kind} | " + " | ".join(cell(kind, name, precision) for name in names) + " |"


def main() -> None:
    """Print the page."""
    packages: dict[str, Any] = versions(("torch", "onnxruntime", "openvino", "nncf", "executorch"))
    print("# What each engine lowers to INT8\n")
    print(
        "Made by `python docs/lowered.py > docs/lowered.md`: for each kind of layer a network of one, built and\n"
        "counted by each engine's own `layers`. A figure is the share of the multiply-accumulates that is computed in\n"
        "INT8; for an embedding it is the number format that its weights are stored in. `-`: the engine does not\n"
        "serve the recipe; `unsupported`, `error`: it says so, or breaks, for this layer. Records tell the same of\n"
        "whole networks, with the layers that stayed and the reasons.\n"
    )
    processor = f"{platform.machine()} {'without' if saturates() else 'with'} INT8 dot products"
    print(f"Counted on {processor} with {', '.join(f'{name} {told}' for name, told in packages.items())}.")
    for precision in PRECISIONS:
        print(f"\n## {precision}\n")
        for line in table(precision):
            print(line, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
