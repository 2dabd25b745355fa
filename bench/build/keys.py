"""What identifies a model's network and a data set: the facts that keys are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.build.fingerprint import fingerprint, modules_of, state, structure
from bench.build.following import add_modules, following
from bench.build.networks import SEED, architecture
from bench.spec.code import HARNESS, Code, code_of, users_modules
from bench.spec.dataset import Dataset, datasets
from bench.spec.model import Source, models
from bench.spec.registry import Origin
from bench.store import Store, Used
from bench.store import source_digest as source_digest
from bench.store import versions as versions

if TYPE_CHECKING:
    pass


NETWORK = "network.json"


# the harness's own rooms that shape what is built
SHAPING = (
    *("build/keys.py", "build/networks.py", "build/weights.py", "build/reference.py", "build/artefact.py"),
    "build/onnx_files.py",
    *("spec/interface.py", "spec/tiling.py", "tasks/inference.py"),
)


def made_by(origin: Origin | None, *parts: Any) -> Code:
    """The code that members come from: what the module that registered them reaches, and what their functions do,
    wherever these were written.
    """
    starts = [] if origin is None else [(origin.module, Path(origin.file))]
    return code_of([*starts, *(module for part in parts for module in users_modules(part))])


def data_facts(dataset: Dataset, folder: Path | None) -> dict[str, Any]:
    """What identifies a data set on this machine: its code and values, its files' digests, its packages' versions."""
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
    """The code that a source's network and its answers come from."""
    return made_by(models.origin(source.model.name), replace(source.model, weights=()), source.weights)


def beside_of(source: Source) -> Path:
    """The folder that what a source uses is named from: that of the project that registered its model."""
    origin = models.origin(source.model.name)
    code = users_modules(source.model)
    return Path(origin.root) if origin is not None else code[0][1].parent if code else Path.cwd()


@contextmanager
def _followed(store: Store, source: Source, used: Used) -> Iterator[set[Path]]:
    """Learn what else shapes what is made of a source meanwhile; give the files that its key covers already."""
    data = _data_files(source.dataset, source.folder)
    known = {*_code_of(source).files, *made_by(datasets.origin(source.dataset.name), source.dataset).files, *data}
    known |= set() if source.weights_file is None else {source.weights_file}
    known = {file.resolve() for file in known}
    places = [beside_of(source), *([] if source.folder is None else [source.folder])]
    with following(used, places, known, store.root):
        yield known


def network_facts(store: Store, source: Source, make: bool = True) -> dict[str, Any] | None:
    """What identifies a model's network: its name, its structure as it was built, `structure`, the names and shapes of
    its parameters, `state`, the code and the values it was built by, what else turned out to shape it, and the
    installed versions of the packages that it is built from.

    It is built once to know them, and they are kept, so that a session looks them up without a framework. What the
    code's own text does not tell, such as what a partial or a closure holds, is in the key they are kept under.
    """
    code, beside = _code_of(source), beside_of(source)
    model = replace(source.model, weights=(source.weights,))
    made_from: dict[str, Any] = {
        "model": model.name,
        "weights": source.weights.name,
        "code": code.digests(),
        "values": fingerprint(model, beside),
        "file": None if source.weights_file is None else source_digest(source.weights_file),
        "versions": versions(sorted(code.packages | {"torch"})),
        "harness": [source_digest(HARNESS / file) for file in SHAPING],
        "seed": SEED,
    }

    def write(folder: Path) -> Used:
        used = Used()
        with _followed(store, source, used) as known:
            network = architecture(source)
        add_modules(used, modules_of(network), known)
        used.packages -= made_from["versions"].keys()
        facts = {"structure": structure(network, beside), "state": state(network)}
        (folder / NETWORK).write_text(json.dumps(facts))
        return used

    kept = store.get("network", made_from, write, beside) if make else store.find("network", made_from, beside)
    return None if kept is None else kept.made_from | json.loads((kept.folder / NETWORK).read_text())
