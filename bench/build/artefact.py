"""What is built of a model before it can be measured: its weights, its reference outputs, an engine's artefact.

Each function gives the artefact from the store. With `make=False` it only looks, and gives None where it, or what
it is made from, is not there yet: this is how a session plans without importing a framework.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from bench.build import sensitivity
from bench.build.fingerprint import fingerprint, modules_of, state, structure
from bench.build.following import add_modules, following
from bench.engines import engines
from bench.engines.engine import Engine
from bench.errors import BenchError, BuildError, DataError
from bench.spec.code import HARNESS, Code, code_of, users_modules
from bench.spec.dataset import Dataset, Samples, datasets
from bench.spec.interface import adapted, interface_of
from bench.spec.model import Source, models, recipe_for
from bench.spec.recipe import Recipe, recipes
from bench.spec.registry import Origin
from bench.store import BESIDE, FOLLOWED, Artifact, Store, Used
from bench.store import source_digest as source_digest
from bench.store import versions as versions
from bench.tasks.inference import answered, inputs_of_all, preprocessed, save_answers, stacked

if TYPE_CHECKING:
    import numpy as np
    import torch

SEED = 0
LEFT, CALIBRATION, INTERFACE = f"{BESIDE}/left.json", f"{BESIDE}/calibration.json", "interface.json"
NETWORK = "network.json"
TIED = "tied"
# the harness's own rooms that shape what is built
SHAPING = ("build.py", "inference.py", "interface.py", "onnx_model.py", "tiling.py")
INPUTS, INPUT_BYTES = 64, 2**24
SAID = 240  # characters of a library's error that stand in a reason


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


def _beside(source: Source) -> Path:
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
    places = [_beside(source), *([] if source.folder is None else [source.folder])]
    with following(used, places, known, store.root):
        yield known


def network_facts(store: Store, source: Source, make: bool = True) -> dict[str, Any] | None:
    """What identifies a model's network: its name, its structure as it was built, `structure`, the names and shapes of
    its parameters, `state`, the code and the values it was built by, what else turned out to shape it, and the
    installed versions of the packages that it is built from.

    It is built once to know them, and they are kept, so that a session looks them up without a framework. What the
    code's own text does not tell, such as what a partial or a closure holds, is in the key they are kept under.
    """
    code, beside = _code_of(source), _beside(source)
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


def weights(store: Store, source: Source, make: bool = True) -> Artifact | None:
    """The model's weights as one safetensors file, read from the user's file or trained.

    The key holds no library versions: weights trained once stay the same under all of them, as long as the network has
    parameters of these names and shapes.
    """
    facts = network_facts(store, source, make)
    if facts is None:
        return None
    trained = source.weights.train is not None
    made_from = {
        **{name: facts[name] for name in ("model", "weights", "code", "values", "file", "state")},
        "shaped by": facts.get(FOLLOWED, {}).get("files", {}),
        "data": data_facts(source.dataset, source.folder) if trained else None,
        "seed": SEED,
    }
    if not make:
        return store.find("weights", made_from, _beside(source))

    def write(folder: Path) -> Used:
        used = Used()
        with _followed(store, source, used):
            network = architecture(source)
            if source.weights_file is not None and source.weights.read is not None:
                load_state(network, source.weights.read(source.weights_file), str(source.weights_file))
            elif source.weights.train is not None:
                samples = load_data(source, "train")
                inputs = stacked([preprocessed(source.model, item) for item in samples.inputs])
                source.weights.train(network, inputs, samples.targets)
        save_state(network, folder / "weights.safetensors")
        return Used(used.files)

    return store.get("weights", made_from, write, _beside(source))


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
        "network": network_facts(store, source, make),
        "weights": network_weights.digest,
        "data": data_facts(source.dataset, source.folder),
        "files": ["answers.npz", "outputs.npy", "whole.npy", "inputs.npy", "macs.json", INTERFACE],
    }
    if not make:
        return store.find("reference", made_from, _beside(source))

    def write(folder: Path) -> Used:
        used = Used()
        with _followed(store, source, used):
            _refer(source, network_weights, folder)
        return used

    return store.get("reference", made_from, write, _beside(source))


def _refer(source: Source, network_weights: Artifact, folder: Path) -> None:
    import numpy as np

    from bench.engines.torch import predictor

    network = trained_network(source, network_weights)
    items = load_data(source, "test").inputs
    first = next(inputs_of_all(source.model, items))
    count = max(1, min(INPUTS, INPUT_BYTES // first.nbytes))
    inputs = stacked(list(itertools.islice(inputs_of_all(source.model, items), count)))
    interface = interface_of(network, inputs[:1])
    network = adapted(network, interface)
    known = answered(predictor(network), source.model, items, count, interface)
    macs = macs_per_item(network, inputs[:1])
    np.save(folder / "inputs.npy", inputs, allow_pickle=False)
    np.save(folder / "outputs.npy", known.raw, allow_pickle=False)
    np.save(folder / "whole.npy", known.whole, allow_pickle=False)
    (folder / INTERFACE).write_text(json.dumps(asdict(interface)))
    save_answers(folder / "answers.npz", known.answers)
    (folder / "macs.json").write_text(json.dumps({"macs_per_item": macs}))


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
    rewrite = made_by(recipes.origin(precision), recipe)
    made_from = {
        "engine": engine,
        "recipe": {
            "name": recipe.name,
            "number_format": recipe.number_format,
            "activations": recipe.activations,
            "only": recipe.only,
            "left": recipe.left,
            "most_drop": recipe.most_drop,
            "bits": recipe.bits,
            "rewrite": fingerprint(recipe.rewrite),
            "code": rewrite.digests(),
            "versions": versions(sorted(rewrite.packages)),
        },
        "search": None if recipe.most_drop is None else source_digest(Path(sensitivity.__file__)),
        "weights": network_weights.digest,
        "network": network_facts(store, source, make),
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
        return store.find("artifact", made_from, _beside(source))

    def write(folder: Path) -> Used:
        used = Used()
        with _followed(store, source, used):
            _build(builder, recipe, source, network_weights, folder)
        return used

    return store.get("artifact", made_from, write, _beside(source))


def _build(builder: Engine, recipe: Recipe, source: Source, network_weights: Artifact, folder: Path) -> None:
    try:
        tried = trial(builder, recipe, source, network_weights)
        if recipe.most_drop is not None:
            recipe = sensitivity.settled(tried, recipe, source, load_data(source, "train"))
        builder.build(tried.network(), recipe, tried.samples, folder)
        (folder / BESIDE).mkdir(exist_ok=True)
        if recipe.most_drop is not None:
            (folder / LEFT).write_text(json.dumps({"left": recipe.left, "by": recipe.left_by}))
        if recipe.calibrated:
            used = {"asked": source.model.calibration, "used": len(tried.samples)}
            (folder / CALIBRATION).write_text(json.dumps(used))
    except (BenchError, OSError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())  # libraries tell it in paragraphs, some with an empty line first
        said = said if len(said) <= SAID else f"{said[:SAID]} ..."
        raise BuildError(f"{recipe.name} could not be built: {type(error).__name__}: {said}") from error


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


def digest_of(built: Artifact, builder: Engine) -> str:
    """The digest that a record names an artefact by: its own, or with that of the network's structure where the
    artefact holds weights alone: an edited network is another one though its weights are the same.
    """
    if builder.whole:
        return built.digest
    return hashlib.sha256(f"{built.digest}\n{built.made_from['network']['structure']}".encode()).hexdigest()


def as_built(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that an artefact in a folder was built by, with the layers that were found to stay in FP32."""
    if not (folder / LEFT).is_file():
        return recipe
    told = json.loads((folder / LEFT).read_text())
    told = {"left": told, "by": None} if isinstance(told, list) else told  # as it was before it told by what
    return replace(recipe, left=tuple(told["left"]), left_by=told["by"])


def calibration_of(folder: Path) -> dict[str, int]:
    """How many inputs the artefact in a folder was to be calibrated with, `asked`, and how many there were, `used`;
    nothing where it was not calibrated.
    """
    counts = folder / CALIBRATION
    return dict(json.loads(counts.read_text())) if counts.is_file() else {}


def _source_digest(builder: Engine) -> str:
    """Digest of the files that define an engine's class and the classes it is derived from.

    Of a user's class also those that its module reaches by its imports; of the harness's own those beside its file that
    it takes functions or modules from, but a package's own file takes nothing: what is imported of it varies.
    """
    classes = [cls for cls in type(builder).__mro__ if cls.__module__ not in ("builtins", "abc")]
    users = code_of([module for cls in classes for module in users_modules(cls)])
    modules = {sys.modules[cls.__module__] for cls in classes if not users_modules(cls)}
    files = {str(module.__file__) for module in modules} | {str(file) for file in users.files}
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


def save_state(network: torch.nn.Module, file: Path) -> None:
    """Write a network's state dict as safetensors: a tensor that has several names once, its other names beside it.

    Raises DataError where the state holds what is no tensor: it could only be pickled.
    """
    import torch
    from safetensors.torch import save_file

    firsts: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise DataError(
                f"the network keeps {name} in its state dict, a {type(tensor).__name__}; only tensors are kept"
            )
        first = firsts.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)  # one view of several is alone
        else:
            tied[name] = first
    save_file(tensors, file, {TIED: json.dumps(tied)} if tied else None)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The state dict that `save_state` wrote."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no dictionary
        tied = json.loads((stored.metadata() or {}).get(TIED, "{}"))
    return tensors | {name: tensors[first] for name, first in tied.items()}


def trained_network(source: Source, network_weights: Artifact) -> torch.nn.Module:
    """The network with the stored weights, in eval mode, needing no gradients, parametrizations folded."""
    network = architecture(source)
    file = network_weights.folder / "weights.safetensors"
    load_state(network, read_state(file), str(file))
    return folded(network).requires_grad_(False)


def folded(network: torch.nn.Module) -> torch.nn.Module:
    """The network with the weights that parametrizations (weight and spectral norm, pruning, a user's own) give in
    their place, in both of PyTorch's ways to write them: engines know plain parameters alone, and a network that is
    measured computes them no more.
    """
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
    from torch.nn.utils.weight_norm import WeightNorm

    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module).parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                loading = module._load_state_dict_pre_hooks  # PyTorch 2.15.0 leaves its own there
                for place, wrapped in list(loading.items()):
                    if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
                        del loading[place]
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return network


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
    """Multiply-accumulates for one item (1, ...), which stays as it is: a network may work in place."""
    from bench.engines.torch import predictor
    from bench.engines.torch_count import products_of

    predict, item = predictor(network), example.copy()
    return sum(product.macs for product in products_of(lambda: predict(item)))


def calibration_inputs(source: Source) -> np.ndarray:
    """The preprocessed inputs (n, ...) that INT8 is calibrated with: a fixed choice of the training split."""
    import numpy as np

    items, count = load_data(source, "train").inputs, source.model.calibration
    chance = np.random.default_rng(SEED)
    chosen = (items[place] for place in np.sort(chance.permutation(len(items))[:count]))
    inputs = list(inputs_of_all(source.model, chosen))
    return stacked([inputs[place] for place in np.sort(chance.permutation(len(inputs))[:count])])
