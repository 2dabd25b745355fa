"""What keys are made of: the facts that identify a model's network, a data set, an engine's artefact."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.build.fingerprint import fingerprint, modules_of, state, structure
from bench.build.following import add_modules, following
from bench.build.networks import SEED, architecture
from bench.engines.engine import Engine
from bench.spec.code import HARNESS, Code, code_of, users_modules
from bench.spec.dataset import Dataset, datasets
from bench.spec.digests import source_digest
from bench.spec.model import Source, models
from bench.spec.network import NetworkFile
from bench.spec.recipe import Recipe, recipes
from bench.spec.registry import Origin
from bench.store import FOLLOWED, Artifact, Facts, Store, Used, key, versions
from bench.tasks import tasks

NETWORK = "network.json"
SEARCH = ("sensitivity.py", "quality_drop.py")  # of layers that stay in FP32


# the harness's files that shape what is built: their digests are in every network's key
SHAPING = (
    *("build/keys.py", "build/networks.py", "build/weights.py", "build/reference.py", "build/artefact.py"),
    *(
        "build/onnx_files.py",
        "engines/onnx_graphs.py",
        "build/network_files.py",
        "build/file_readers.py",
        "build/named_networks.py",
        "build/exported_programs.py",
        "build/file_inputs.py",
        "build/calibration.py",
        "spec/network.py",
        "spec/state.py",
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


def artefact_key(
    source: Source,
    network: NetworkFacts,
    weights: Artifact,
    engine: str,
    builder: Engine,
    precision: str,
    recipe: Recipe,
) -> Facts:
    """All that an engine's artefact is made from.

    weights  those of the network, or the stage that the recipe's steps led to.
    builder  the engine of this name, on the case's device; recipe  that of the precision, as the model fills it in.
    """
    rewrite = made_by(recipes.origin(precision), recipe)
    samples: Facts = {"samples": source.model.calibration, "seed": SEED}
    return {
        "engine": engine,
        "recipe": {
            "name": recipe.name,
            "number_format": recipe.number_format,
            "activations": recipe.activations,
            "only": recipe.only,
            "left": recipe.left,
            "most_drop": recipe.most_drop,
            "bits": recipe.bits,
            **({"autocast": True} if recipe.autocast else {}),
            "rewrite": fingerprint(recipe.rewrite),
            "code": rewrite.digests(),
            "versions": versions(sorted(rewrite.packages)),
        },
        "search": None if recipe.most_drop is None else _search(source),
        "weights": weights.digest,
        **({"stage": key(weights.made_from)} if recipe.steps else {}),
        "network": network.facts(),
        "calibration": {**data_facts(source.dataset, source.folder), **samples} if recipe.calibrated else None,
        "builder": class_digest(builder),
        "versions": versions(builder.packages),
        "settings": builder.settings(),
        "seed": SEED,
        # absent on the CPU: keys stay what they were
        **({} if builder.device == "cpu" else {"device": builder.device}),
    }


def _search(source: Source) -> list[str]:
    """The digests of the code that finds the layers that stay in FP32, and judges them."""
    files = [source_digest(HARNESS / "build" / name) for name in SEARCH]
    return [*files, class_digest(tasks.get(source.model.task))]


def class_digest(value: Any) -> str:
    """The digest of the files that define the class of an engine or of a step, and its base classes.

    A user's class adds the files that its module reaches by imports. A class of the harness adds the files in its own
    folder that its module takes functions or modules from, and recursively theirs. A package's `__init__` adds none:
    what is imported from it varies.
    """
    classes = [cls for cls in type(value).__mro__ if cls.__module__ not in ("builtins", "abc")]
    users = code_of([module for cls in classes for module in users_modules(cls)])
    waiting = [sys.modules[cls.__module__] for cls in classes if not users_modules(cls)]
    files = {str(module.__file__) for module in waiting} | {str(file) for file in users.files}
    while waiting:
        module = waiting.pop()
        for part in () if hasattr(module, "__path__") else vars(module).values():
            name = part.__name__ if isinstance(part, ModuleType) else getattr(part, "__module__", None)
            neighbour = sys.modules.get(str(name))
            file = getattr(neighbour, "__file__", None)
            if (
                neighbour is None
                or file is None
                or file in files
                or Path(file).parent != Path(str(module.__file__)).parent
            ):
                continue
            files.add(file)
            waiting.append(neighbour)
    return hashlib.sha256("".join(sorted(source_digest(Path(file)) for file in files)).encode()).hexdigest()
