"""What is built of a model before it can be measured: its weights, its reference outputs, an engine's artefact.

Each function gives the artefact from the store. With `make=False` it only looks, and gives None where it, or what
it is made from, is not there yet: this is how a session plans without importing a framework.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench import interface as interfaces
from bench import sensitivity
from bench.artifact import Artifact, Store, file_digest
from bench.dataset import Dataset, Samples, datasets
from bench.engines import Engine, engines
from bench.errors import BenchError, BuildError, DataError
from bench.inference import answered, inputs_of_all, preprocessed, save_answers, stacked
from bench.interface import adapted, interface_of
from bench.model import Source, models, recipe_for
from bench.recipe import Recipe, recipes

if TYPE_CHECKING:
    import numpy as np
    import torch

SEED = 0
LEFT, CALIBRATION, INTERFACE = "left.json", "calibration.json", "interface.json"
INPUTS, INPUT_BYTES = 64, 2**24


_version = functools.cache(importlib.metadata.version)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of distributions."""
    return {package: _version(package) for package in packages}


def source_digest(path: Path) -> str:
    """The sha256 of a file that things are made from, read again only where its size or time has changed."""
    status = path.stat()
    return _digest_as_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_as_of(path: Path, size: int, mtime_ns: int) -> str:
    return file_digest(path)


def _code(registered: dict[str, Any], name: str) -> str | None:
    """Digest of the files that registered a member and shape it, None for those of the harness itself."""
    if name not in registered:
        return None
    digests = [source_digest(Path(file)) for file in registered[name].files()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def data_facts(dataset: Dataset, folder: Path | None) -> dict[str, Any]:
    """What identifies a data set on this machine: its code, its files' digests, its packages' versions."""
    files = [] if folder is None or dataset.files is None else dataset.files(folder)
    return {
        "dataset": dataset.name,
        "code": _code(datasets.origins(), dataset.name),
        "files": [source_digest(file) for file in files],
        "versions": versions(dataset.packages),
    }


def weights(store: Store, source: Source, make: bool = True) -> Artifact | None:
    """The model's weights as one safetensors file, read from the user's file or trained.

    The key holds no library versions: weights trained once stay the same under all of them.
    """
    trained = source.weights.train is not None
    made_from = {
        "model": source.model.name,
        "weights": source.weights.name,
        "code": _code(models.origins(), source.model.name),
        "file": None if source.weights_file is None else source_digest(source.weights_file),
        "data": data_facts(source.dataset, source.folder) if trained else None,
        "seed": SEED,
    }
    if not make:
        return store.find("weights", made_from)

    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        network = architecture(source)
        if source.weights_file is not None and source.weights.read is not None:
            load_state(network, source.weights.read(source.weights_file), str(source.weights_file))
        elif source.weights.train is not None:
            samples = load_data(source, "train")
            inputs = stacked([preprocessed(source.model, item) for item in samples.inputs])
            source.weights.train(network, inputs, samples.targets)
        save_file(
            {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights.safetensors"
        )

    return store.get("weights", made_from, write)


def reference(store: Store, source: Source, make: bool = True) -> Artifact | None:
    """What FP32 PyTorch makes of the whole test split, against which fidelity is measured: `answers.npz`, and of the
    first inputs the raw `outputs.npy` and which of them are whole numbers, `whole.npy`; the first inputs themselves,
    `inputs.npy`, with which calls are timed, so that no timed process needs to load a data set; in `macs.json` how many
    multiply-accumulates the network makes for one; and in `interface.json` how it treats its input.
    """
    network_weights = weights(store, source, make)
    if network_weights is None:
        return None
    made_from = {
        "weights": network_weights.digest,
        "code": _code(models.origins(), source.model.name),
        "data": data_facts(source.dataset, source.folder),
        "versions": versions(("torch",)),
        "interface": source_digest(Path(interfaces.__file__)),
        "files": ["answers.npz", "outputs.npy", "whole.npy", "inputs.npy", "macs.json", INTERFACE],
    }
    if not make:
        return store.find("reference", made_from)

    def write(folder: Path) -> None:
        import numpy as np
        import torch

        from bench.engines.torch import predictor

        network = trained_network(source, network_weights)
        items = load_data(source, "test").inputs
        first = next(inputs_of_all(source.model, items))
        count = max(1, min(INPUTS, INPUT_BYTES // first.nbytes))
        inputs = stacked(list(itertools.islice(inputs_of_all(source.model, items), count)))
        interface = interface_of(network, inputs[:1])
        network = adapted(network, interface)
        known = answered(predictor(network), source.model, items, count, interface)
        with torch.inference_mode():
            macs = macs_per_item(network, inputs[:1])
        np.save(folder / "inputs.npy", inputs, allow_pickle=False)
        np.save(folder / "outputs.npy", known.raw, allow_pickle=False)
        np.save(folder / "whole.npy", known.whole, allow_pickle=False)
        (folder / INTERFACE).write_text(json.dumps(asdict(interface)))
        save_answers(folder / "answers.npz", known.answers)
        (folder / "macs.json").write_text(json.dumps({"macs_per_item": macs}))

    return store.get("reference", made_from, write)


def artifact(
    store: Store, source: Source, engine: str, precision: str, most_drop: float | None = None, make: bool = True
) -> Artifact | None:
    """What an engine runs: the network in the recipe's number format, in the engine's own file format; and the names of
    the layers that stayed in FP32, `left.json`, where these were to be found.
    """
    network_weights = weights(store, source, make)
    if network_weights is None:
        return None
    builder, recipe = engines.get(engine), recipe_for(source.model, precision, most_drop)
    made_from = {
        "engine": engine,
        "recipe": {
            "name": recipe.name,
            "number_format": recipe.number_format,
            "activations": recipe.activations,
            "only": recipe.only,
            "most_drop": recipe.most_drop,
            "bits": recipe.bits,
        },
        "rewrite": _code(recipes.origins(), precision),
        "search": None if recipe.most_drop is None else source_digest(Path(sensitivity.__file__)),
        "weights": network_weights.digest,
        "code": _code(models.origins(), source.model.name),
        "interface": source_digest(Path(interfaces.__file__)),
        "calibration": (
            {**data_facts(source.dataset, source.folder), "samples": source.model.calibration, "seed": SEED}
            if recipe.calibrated
            else None
        ),
        "builder": _source_digest(builder),
        "versions": versions(builder.packages),
        "settings": builder.settings(),
        "seed": SEED,
    }
    if not make:
        return store.find("artifact", made_from)

    def write(folder: Path) -> None:
        _build(builder, recipe, source, network_weights, folder)

    return store.get("artifact", made_from, write)


def _build(builder: Engine, recipe: Recipe, source: Source, network_weights: Artifact, folder: Path) -> None:
    try:
        tried = trial(builder, recipe, source, network_weights)
        if recipe.most_drop is not None:
            recipe = sensitivity.settled(tried, recipe, source, load_data(source, "train"))
            (folder / LEFT).write_text(json.dumps(recipe.left))
        if recipe.calibrated:
            used = {"asked": source.model.calibration, "used": len(tried.samples)}
            (folder / CALIBRATION).write_text(json.dumps(used))
        builder.build(tried.network(), recipe, tried.samples, folder)
    except (BenchError, OSError):
        raise
    except Exception as error:
        raise BuildError(f"{recipe.name} could not be built: {type(error).__name__}: {error}") from error


def trial(builder: Engine, recipe: Recipe, source: Source, network_weights: Artifact) -> sensitivity.Trial:
    """What recipes are built with: the engine, the trained network as the recipe rewrites it, calibration inputs."""
    import torch

    def network() -> torch.nn.Module:
        made = trained_network(source, network_weights)
        torch.manual_seed(SEED)
        return made if recipe.rewrite is None else recipe.rewrite(made)

    samples = calibration_inputs(source)
    interface = interface_of(network(), samples[:1])
    return sensitivity.Trial(builder, lambda: adapted(network(), interface), samples, os.cpu_count() or 1, interface)


def as_built(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that an artefact in a folder was built by, with the layers that were found to stay in FP32."""
    told = folder / LEFT
    return replace(recipe, left=tuple(json.loads(told.read_text()))) if told.is_file() else recipe


def calibration_of(folder: Path) -> dict[str, int]:
    """How many inputs the artefact in a folder was to be calibrated with, `asked`, and how many there were, `used`;
    nothing where it was not calibrated.
    """
    counts = folder / CALIBRATION
    return dict(json.loads(counts.read_text())) if counts.is_file() else {}


def _source_digest(builder: Engine) -> str:
    """Digest of the files that define an engine's class and the classes it is derived from, and of those beside them
    that these take functions or modules from; a package's own file takes nothing: what is imported of it varies.
    """
    modules = {
        sys.modules[cls.__module__] for cls in type(builder).__mro__ if cls.__module__ not in ("builtins", "abc")
    }
    files = {str(module.__file__) for module in modules}
    for module in (module for module in modules if not hasattr(module, "__path__")):
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            file = getattr(sys.modules.get(str(name)), "__file__", None)
            if file is not None and Path(file).parent == Path(str(module.__file__)).parent:
                files.add(file)
    return hashlib.sha256("".join(sorted(source_digest(Path(file)) for file in files)).encode()).hexdigest()


def architecture(source: Source) -> torch.nn.Module:
    """The model's network in eval mode, as its own function, or its weights' file, makes it under the fixed seed."""
    import torch

    torch.manual_seed(SEED)
    if source.weights.network is not None and source.weights_file is not None:
        return source.weights.network(source.weights_file).eval()
    assert source.model.network is not None, f"{source.model.name} has neither a network nor a file that holds one"
    return source.model.network().eval()


def load_state(network: torch.nn.Module, state: dict[str, Any], where: str) -> None:
    """Load a state dict. Raises DataError that names the keys that do not fit.

    BatchNorm's count of batches may be missing: PyTorch before 0.4.1 did not keep it, and inference does not use it.
    """
    own = network.state_dict()
    state = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | state
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "not the model's": sorted(state.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in wrong.items() if keys)
        raise DataError(f"{where} does not fit the network: of {len(own)} keys, {told}")
    network.load_state_dict(state)


def trained_network(source: Source, network_weights: Artifact) -> torch.nn.Module:
    """The network with the stored weights, in eval mode, needing no gradients."""
    from safetensors.torch import load_file

    network = architecture(source)
    file = network_weights.folder / "weights.safetensors"
    load_state(network, load_file(file), str(file))
    return network.requires_grad_(False)


def load_data(source: Source, split: str) -> Samples:
    """One split of the source's data. Raises DataError where it is empty or its two halves differ in length."""
    samples = source.dataset.load(split, source.folder)
    if not len(samples.inputs) or len(samples.inputs) != len(samples.targets):
        raise DataError(
            f"data set {source.dataset.name} gave {len(samples.inputs)} inputs and {len(samples.targets)} targets "
            f"for {split!r}; as many of both are needed, and at least one"
        )
    return samples


def macs_per_item(network: torch.nn.Module, example: np.ndarray) -> int:
    """Multiply-accumulates of products and convolutions for one item (1, ...), by PyTorch's counter of operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(torch.from_numpy(example))
    return int(counter.get_total_flops()) // 2


def calibration_inputs(source: Source) -> np.ndarray:
    """The preprocessed inputs (n, ...) that INT8 is calibrated with: a fixed choice of the training split."""
    import numpy as np

    items, count = load_data(source, "train").inputs, source.model.calibration
    chance = np.random.default_rng(SEED)
    chosen = (items[place] for place in np.sort(chance.permutation(len(items))[:count]))
    inputs = list(inputs_of_all(source.model, chosen))
    return stacked([inputs[place] for place in np.sort(chance.permutation(len(inputs))[:count])])
