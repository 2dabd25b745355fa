"""Clustering: the weights of a layer take few different values.

No CPU engine here gains speed from it; files compress better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from bench.compress.finetune import finetune, parts_of, restored
from bench.errors import BadCase
from bench.spec.recipe import Recipe, recipes
from bench.spec.step import Context, Step

if TYPE_CHECKING:
    import torch

    from bench.spec.step import Decided


@dataclass(frozen=True)
class Cluster(Step):
    """Give each convolution and linear layer weights of `clusters` values, by k-means from a linear start.

    epochs  of fine-tuning; a value is then the mean of its weights after each update.
    """

    packages = ("scikit-learn",)
    clusters: int = 32
    epochs: int = 1

    def __post_init__(self) -> None:
        if self.clusters < 2:
            raise BadCase(f"weights are put into two clusters at least, not into {self.clusters}")

    @property
    def trains(self) -> bool:
        """Whether it fine-tunes."""
        return self.epochs > 0

    def make(self, network: torch.nn.Module, context: Context) -> tuple[torch.nn.Module, Decided]:
        """Cluster, and fine-tune; the most values that a layer has are decided."""
        before = context.keepers(network)
        for part in parts_of(network):
            _cluster(cast(Any, part).weight, self.clusters)
        restored(before)
        if self.epochs:
            finetune(network, context, self.epochs, (*before, self.keeper(network)))
        return network, {"values": max((len(cast(Any, part).weight.unique()) for part in parts_of(network)), default=0)}

    def keeper(self, network: torch.nn.Module) -> Callable[[], None]:
        """Weights of a cluster stay equal: all take their mean."""
        clusters = [
            (weight, *weight.detach().unique(return_inverse=True, return_counts=True)[1:])
            for weight in (cast(Any, part).weight for part in parts_of(network))
        ]

        def keep() -> None:
            for weight, labels, counts in clusters:
                sums = weight.new_zeros(len(counts)).index_add_(0, labels.flatten(), weight.flatten())
                weight.copy_((sums / counts)[labels])

        return keep


def _cluster(weight: Any, clusters: int) -> None:
    """Replace weights by the centres of their clusters."""
    import numpy as np
    import torch
    from sklearn.cluster import KMeans

    values = weight.detach().numpy().reshape(-1, 1)
    count = min(clusters, len(np.unique(values)))
    start = np.linspace(values.min(), values.max(), count, dtype=np.float32)[:, None]
    means = KMeans(count, init=start, n_init=1, random_state=0).fit(values)
    centres = means.cluster_centers_.astype(np.float32)[means.labels_]
    with torch.no_grad():
        weight.copy_(torch.from_numpy(centres.reshape(weight.shape)))


recipes.add("cluster32_fp32", Recipe("cluster32_fp32", "fp32", steps=(Cluster(),)))
