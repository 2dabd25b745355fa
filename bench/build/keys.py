"""The facts that identify a model's network and a data set: what keys are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.build.fingerprint import fingerprint, modules_of, state, structure
from bench.build.following import add_modules, following
from bench.build.networks import SEED, architecture
from bench.spec.code import HARNESS, Code, code_of, users_modules
from bench.spec.dataset import Dataset, datasets
from bench.spec.digests import source_digest
from bench.spec.model import Source, models
from bench.spec.network import NetworkFile
from bench.spec.registry import Origin
from bench.store import FOLLOWED, Artifact, Facts, Store, Used, versions

NETWORK = "network.json"


# the harness's files that shape what is built: their digests are in every network's key
SHAPING = (
    *("build/keys.py", "build/networks.py", "build/weights.py", "build/reference.py", "build/artefact.py"),
    *(
        "build/onnx_files.py",
        "engines/onnx_graphs.py",
        "build/network_files.py",
        "build/file_inputs.py",
        "build/calibration.py",
        "spec/network.py",
        "spec/inputs.py",
    ),
    *("spec/interface.py", "spec/tiling.py", "spec/padding.py", "tasks/inference.py"),
)


def made_by(origin: Origin | None, *parts: Any) -> Code:
    """The code that registered members come from.

    It is the registering module and the modules of the members' functions, each with what it imports.
    """
    starts = [] if origin is None else [(origin.module, Path(origin.file))]
    return code_of([*starts, *(module for part in parts for module in users_modules(part))])


def data_facts(dataset: Dataset, folder: Path | None) -> Facts:
    """The facts of a data set on this machine: its code and values, its files' digests, its packages' versions."""
    origin = datasets.origin(dataset.name)
    return {
        "dataset": dataset.name,
        "code": made_by(origin, dataset).digests(),
        "values": fingerprint(dataset, None if origin is None else Path(origin.root)),
        "files": [source_digest(file) for file in _data_files(dataset, folder)],
        "versions": versions(dataset.packages),
    }


def _data_files(dataset: Dataset, folder: Path | None) -> list[Path]:
    return [] if folder is None or dataset.files is None else dataset.files(folder)


def _code_of(source: Source) -> Code:
    """The code that makes a source's network and its answers."""
    return made_by(models.origin(source.model.name), replace(source.model, weights=()), source.weights)


def beside_of(source: Source) -> Path:
    """The folder that paths in keys are relative to: that of the project that registered the source's model."""
    origin = models.origin(source.model.name)
    code = users_modules(source.model)
    return Path(origin.root) if origin is not None else code[0][1].parent if code else Path.cwd()


@contextmanager
def followed(store: Store, source: Source, used: Used) -> Iterator[set[Path]]:
    """Add to `used` what else shapes a build of the source; yield the files that its key covers already."""
    data = _data_files(source.dataset, source.folder)
    covered = {*_code_of(source).files, *made_by(datasets.origin(source.dataset.name), source.dataset).files, *data}
    covered |= set() if source.weights_file is None else {source.weights_file}
    covered = {file.resolve() for file in covered}
    places = [beside_of(source), *([] if source.folder is None else [source.folder])]
    with following(used, places, covered, store.root):
        yield covered


@dataclass(frozen=True)
class Entry:
    """A thing that is built once: its kind, what it is made from, the function that writes its files to a folder."""

    kind: str
    made_from: Facts
    write: Callable[[Path], Used]


@dataclass(frozen=True)
class NetworkFacts:
    """What identifies a model's network.

    made_from  the facts of its key: the model's and the weights' names, the code and the values it was built by, the
               weights' file, the versions of the packages it is built from.
    files      the digests of further files that its build turned out to use.
    structure  a digest of the module tree with every attribute.
    state      a digest of the names, shapes and types in its state dict.
    """

    made_from: Facts
    files: Facts
    structure: str
    state: Facts

    def facts(self) -> Facts:
        """All facts, for the keys of what is built from the network."""
        return {**self.made_from, "structure": self.structure, "state": self.state}


def entry_of(kind: str, made_from: Facts, store: Store, source: Source, make: Callable[[Path], None]) -> Entry:
    """An entry whose files `make(folder)` writes, with all that it used noted."""

    def write(folder: Path) -> Used:
        used = Used()
        with followed(store, source, used):
            make(folder)
        return used

    return Entry(kind, made_from, write)


def network_entry(store: Store, source: Source) -> Entry:
    """The store entry of a model's network, built once: a session then looks up what identifies it without a framework.

    Values that the code's text does not show, such as what a partial or a closure holds, are in the key too.
    """
    code, beside = _code_of(source), beside_of(source)
    model = replace(source.model, weights=(source.weights,))
    packages = versions(sorted(code.packages | {"torch"}))
    made_from: Facts = {
        "model": model.name,
        "weights": source.weights.name,
        "code": code.digests(),
        "values": fingerprint(model, beside),
        "file": None if source.weights_file is None else source_digest(source.weights_file),
        "versions": packages,
        "harness": [source_digest(HARNESS / file) for file in SHAPING],
        "seed": SEED,
    }

    def write(folder: Path) -> Used:
        used = Used()
        with followed(store, source, used) as covered:
            network = architecture(source)
        if isinstance(network, NetworkFile):  # its digest is among the values
            facts = {"structure": network.format, "state": ""}
        else:
            add_modules(used, modules_of(network), covered)
            facts = {"structure": structure(network, beside), "state": state(network)}
        used.packages -= packages.keys()
        (folder / NETWORK).write_text(json.dumps(facts))
        return used

    return Entry("network", made_from, write)


def network_of(kept: Artifact) -> NetworkFacts:
    """The network that a store entry describes."""
    identity = json.loads((kept.folder / NETWORK).read_text())
    besides = kept.made_from.get(FOLLOWED)
    files = besides["files"] if isinstance(besides, Mapping) else {}
    assert isinstance(files, Mapping)
    return NetworkFacts(kept.made_from, files, identity["structure"], identity["state"])
