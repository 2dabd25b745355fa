"""Channels that are really removed: a smaller network, faster on every engine whose kernels suit the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from bench.compress.finetune import finetune
from bench.errors import BadCase
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context, Step

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Decided

# what says how many channels a layer has, by the arguments of its class
SIZES = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features")
SETTINGS = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "output_padding")
OF_NORMS = ("eps", "momentum", "affine", "track_running_stats")


@dataclass(frozen=True)
class Channels(Step):
    """Remove the channels of least magnitude, in each layer the same share, by torch-pruning's dependency graph.

    Fang et al. 2023, "DepGraph: Towards Any Structural Pruning". Layers that the model's `training.whole` names keep
    their outputs.

    ratio     the share of each layer's output channels.
    round_to  the counts that stay are multiples of it; None: any.
    epochs    of fine-tuning.
    """

    packages = ("torch-pruning",)
    ratio: float
    round_to: int | None = None
    epochs: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise BadCase(f"a share of channels is above 0 and below 1, not {self.ratio}")

    @property
    def trains(self) -> bool:
        """It needs `training.whole` too."""
        return True

    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Remove channels, and fine-tune; the sizes of all layers that changed are decided."""
        import torch_pruning

        assert context.training is not None
        before = sizes_of(network)
        whole = [network.get_submodule(name) for name in context.training.whole]
        network.requires_grad_(True)  # torch-pruning follows gradients from layer to layer
        torch_pruning.pruner.BasePruner(
            network,
            context.inputs([0]),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=self.ratio,
            ignored_layers=whole,
            round_to=self.round_to,
        ).step()
        network.requires_grad_(False)
        if self.epochs:
            finetune(network, context, self.epochs, context.keepers(network))
        return network, {"sizes": {name: sizes for name, sizes in sizes_of(network).items() if sizes != before[name]}}

    def shape(self, network: torch.nn.Module, decided: Decided) -> torch.nn.Module:
        """Replace the layers that changed by layers of their new sizes."""
        for name, sizes in cast("dict[str, dict[str, int]]", decided["sizes"]).items():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, resized(network.get_submodule(name), sizes))
        return network


def sizes_of(network: torch.nn.Module) -> dict[str, dict[str, int]]:
    """The counts of channels of each layer that has any."""
    sizes = {
        name: {size: int(getattr(part, size)) for size in SIZES if isinstance(getattr(part, size, None), int)}
        for name, part in network.named_modules()
    }
    return {name: counts for name, counts in sizes.items() if counts}


def resized(part: torch.nn.Module, sizes: dict[str, int]) -> torch.nn.Module:
    """A layer of the same class and settings with other counts of channels, its weights unset."""
    settings: dict[str, object] = {name: getattr(part, name) for name in (*SETTINGS, *OF_NORMS) if hasattr(part, name)}
    if "num_features" not in sizes:
        settings["bias"] = getattr(part, "bias", None) is not None
    if not hasattr(part, "transposed") or not part.transposed:
        settings.pop("output_padding", None)
    made: torch.nn.Module = type(part)(**sizes, **settings)
    return made.requires_grad_(False).train(part.training)


for percent in (30, 50, 70):
    name = f"channels{percent}_fp32"
    recipes.add(name, Recipe(name, "fp32", steps=(Channels(percent / 100),)))
recipes.add("channels50_int8_static", Recipe("channels50_int8_static", "int8", "static", steps=(Channels(0.5),)))
