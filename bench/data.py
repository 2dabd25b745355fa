"""What `bench data list | fetch NAME | check` does with the data sets and weights that are registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.dataset import Dataset, datasets
from bench.errors import DataError, UnknownMember
from bench.model import Model, Source, Weights, models


def list_data(folder: Path | None) -> list[str]:
    """One line for each data set, with the weights that belong to it, and whether the folder holds its files."""
    lines = []
    for dataset in _datasets():
        lines.append(f"{dataset.name:<28} {_place(_dataset_lacks(dataset, folder), folder):<12} {dataset.about}")
        for model, weights in _weights():
            if weights.dataset == dataset.name:
                about = f"weights of {model.name}, {weights.file or 'made when first needed'}"
                lines.append(f"  {weights.name:<26} {_place(_weights_lack(weights, folder), folder):<12} {about}")
    return lines


def fetch(name: str, folder: Path) -> list[str]:
    """Bring a data set with its weights, or a model's or one set of weights with its data, into the folder.

    What is there whole is left alone. Gives one line for each that is there now. Raises UnknownMember for a name that
    is none of these, DataError for the first that cannot be brought.
    """
    chosen = [(model, weights) for model, weights in _weights() if name in (model.name, weights.name, weights.dataset)]
    if not chosen and name not in datasets.names():
        known = [*datasets.names(), *models.names(), *(weights.name for _, weights in _weights())]
        raise UnknownMember(
            f"no data set, model or weights are named {name!r}; there are: {', '.join(known) or 'none'}"
        )
    wanted = list(dict.fromkeys([*({name} & set(datasets.names())), *(weights.dataset for _, weights in chosen)]))
    lines = []
    for dataset in map(datasets.get, wanted):
        lines.append(
            _bring(dataset.name, dataset.fetch, lambda dataset=dataset: _dataset_lacks(dataset, folder), folder)
        )
    for _, weights in chosen:
        lines.append(
            _bring(weights.name, weights.fetch, lambda weights=weights: _weights_lack(weights, folder), folder)
        )
    return lines


def check(folder: Path) -> tuple[list[str], bool]:
    """Read all that is registered from the folder.

    Gives one line for each, and whether all was there and whole. Raises DataError where there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}; name one that exists by --bench-data or BENCH_DATA")
    found = []
    for dataset in _datasets():
        found.append(
            _examined(dataset.name, _dataset_lacks(dataset, folder), lambda dataset=dataset: _read(dataset, folder))
        )
    for model, weights in _weights():
        whole = lambda model=model, weights=weights: _load(model, weights, folder)  # noqa: E731
        found.append(_examined(weights.name, _weights_lack(weights, folder), whole))
    return [line for line, _ in found], all(whole for _, whole in found)
