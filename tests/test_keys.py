"""Claims about what the keys of references and artefacts cover: the network itself, and all that it was made by."""

import functools
import importlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.build.bill import Bill
from bench.build.fingerprint import fingerprint, state, structure
from bench.engines.engine import quiet
from bench.spec.dataset import datasets
from bench.spec.model import models, source
from bench.spec.recipe import Recipe, recipes
from bench.spec.registry import Origin
from bench.store import Store, key

DATA = """
import numpy as np
from bench import Samples
COUNT = 8
def load(split, folder):
    return Samples(np.ones((COUNT, 2), "float32"), np.zeros(COUNT, int))
"""
HEAD = """
import functools, os
from bench import Dataset, Model, Recipe, Weights, datasets, models, recipes
import data_of_mine
datasets.add("points", Dataset("points", "points", data_of_mine.load), __name__)
def add(network, name="net", **more):
    models.add(name, Model(name, "features", network, (Weights("as built", "points"),), **more), __name__)
"""
NETWORK = """
def network(slope=1.0, act=None, file=None):
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(2))
            self.settings = {"a": 1, "b": {"y", "x"}}
            self.act = act
        def forward(self, x):
            x = slope * self.scale * x
            return x if self.act is None else self.act(x)
    return Net()
"""
OWN = HEAD + NETWORK
HELPED = HEAD + "import net_of_mine\nadd(net_of_mine.network)\n"
INSIDE = HEAD + "def late():\n    from net_of_mine import network\n    return network()\nadd(late)\n"
BY_NAME = HEAD + "import importlib\nadd(lambda: importlib.import_module('net_of' + '_mine').network())\n"
FROM_FILE = OWN + "import json, pathlib\nHERE = pathlib.Path(__file__).parent\n"
FROM_FILE += "def filed():\n    return network(json.loads((HERE / 'slope.json').read_text()))\nadd(filed)\n"
LIBRARY = HEAD + "def theirs():\n    from library_of_theirs import network\n    return network()\nadd(theirs)\n"
MODULES = ("registers", "data_of_mine", "net_of_mine", "core_of_mine", "library_of_theirs")
UNSEEN = {"net_of_mine.py": "from core_of_mine import network\n", "core_of_mine.py": NETWORK}

PAIRS = {
    "an argument of a partial": ({"own": OWN + "add(functools.partial(network, 1))"}, {"1)": "-1)"}),
    "a value that a lambda closes over": (
        {"own": OWN + "def made(s):\n    return lambda: network(s)\nadd(made(2))"},
        {"made(2)": "made(3)"},
    ),
    "a function that the network holds": (
        {"own": OWN + "import torch\nadd(functools.partial(network, 1, torch.relu))"},
        {"torch.relu": "torch.tanh"},
    ),
    "a lambda in the same line": (
        {"own": OWN + "A, B = (lambda x: x), (lambda x: -x)\nadd(functools.partial(network, 1, A))"},
        {"1, A": "1, B"},
    ),
    "the model's name": ({"own": OWN + "add(network)"}, {"add(network)": "add(network, 'other')"}),
    "the preparation of inputs": (
        {"own": OWN + "def shifted(by, x):\n    return x + by\nadd(network, preprocess=functools.partial(shifted, 1))"},
        {"shifted, 1": "shifted, 2"},
    ),
    "a line of a module beside it": ({"own": HELPED, "net_of_mine.py": NETWORK}, {"x if self.act": "-x if self.act"}),
    "a line of a module imported in a function": (
        {"own": INSIDE, "net_of_mine.py": NETWORK},
        {"x if self.act": "-x if self.act"},
    ),
    "a line of a module imported by a module": ({"own": HELPED, **UNSEEN}, {"x if self.act": "-x if self.act"}),
    "a line of a module imported by a name that is computed": (
        {"own": BY_NAME, **UNSEEN},
        {"x if self.act": "-x if self.act"},
    ),
    "a line of the data set's module": ({"own": OWN + "add(network)"}, {"COUNT = 8": "COUNT = 9"}),
    "a file that is read while it is built": ({"own": FROM_FILE, "slope.json": "1.0"}, {"1.0": "2.0"}),
    "the version of the library it comes from": (
        {
            "own": LIBRARY,
            "site-packages/library_of_theirs/__init__.py": NETWORK,
            "site-packages/library_of_theirs-1.0.dist-info/METADATA": "Name: library-of-theirs\nVersion: 1.0\n",
            "site-packages/library_of_theirs-1.0.dist-info/RECORD": "library_of_theirs/__init__.py,,\n",
        },
        {"Version: 1.0": "Version: 1.1"},
    ),
}


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Give the keys of the reference and of the artefact of a project that is written to a folder of its own."""
    for registry in (models, datasets, recipes):
        for table in ("_members", "_origins", "_order"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    numbers, store, path = itertools.count(), Store(tmp_path / "cache"), list(sys.path)

    def made(texts, changes=(), recipe=None):
        from bench import store as artifact
        from bench.spec import code

        folder = tmp_path / f"project{next(numbers)}"
        for file, text in {"data_of_mine.py": DATA, **texts}.items():
            for old, new in dict(changes).items():
                text = text.replace(old, new)
            place = folder / ("registers.py" if file == "own" else file)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        for module in MODULES:
            sys.modules.pop(module, None)
        sys.path[:] = [str(folder), str(folder / "site-packages"), *path]
        importlib.invalidate_caches()
        artifact.version.cache_clear()
        code._same_named.cache_clear()
        Origin("registers", str(folder / "registers.py"), str(folder)).load()
        chosen = source(models.get("other" if "'other'" in str(changes) else "net"), None)
        if recipe is not None:
            recipes.add("mine", recipe, __name__)
        reference = Bill(store, chosen).reference()
        built = Bill(store, chosen).artefact("torch", "mine" if recipe else "fp32")
        assert Bill(store, chosen, build=False).reference() == reference  # what was built is found without building
        assert Bill(store, chosen, build=False).artefact("torch", "mine" if recipe else "fp32") == built
        return key(reference.made_from), key(built.made_from)

    yield made
    sys.path[:] = path


@pytest.mark.parametrize("pair", PAIRS)
def test_networks_that_differ_in_one_thing_have_different_keys(keys, pair):
    texts, changes = PAIRS[pair]
    before, after, again = keys(texts), keys(texts, changes), keys(texts)
    assert before[0] != after[0]
    assert before[1] != after[1] or pair == "a line of the data set's module"  # FP32 is not calibrated
    assert before == again  # two builds of one network, in folders of their own


def test_what_a_user_does_not_reach_is_in_no_key(keys):
    texts = {"own": HELPED, **UNSEEN, "of_another_team.py": "ONE = 1\n"}
    assert keys(texts) == keys(texts, {"ONE = 1": "ONE = 2"})


def changed(by, network):
    network.scale.data *= by
    return network


@pytest.mark.parametrize("change", [{"left": ("act",)}, {"rewrite": functools.partial(changed, 2)}])
def test_the_layers_that_a_recipe_leaves_and_the_values_of_its_rewrite_are_in_the_key(keys, change):
    texts = {"own": OWN + "add(network)\n"}
    recipe = Recipe("mine", "fp32", rewrite=functools.partial(changed, 1))
    before, after = keys(texts, recipe=recipe), keys(texts, recipe=replace(recipe, **change))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_values_have_one_fingerprint_in_all_processes():
    program = (
        "import functools, pathlib; from bench.build.fingerprint import fingerprint\n"
        "def scaled(by, x, *, more=('a', 'b')): return by * x\n"
        "held = [{'b', 'a', 'c'}, {'x': 1, 'y': {2.5: None}}, pathlib.Path('a')]\n"
        "print(fingerprint([functools.partial(scaled, 2), *held]))"
    )
    found = {
        subprocess.check_output([sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_a_structure_knows_attributes_and_no_weights():
    from torch import nn

    def made(dilation, seed=0):
        import torch

        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=dilation, dilation=dilation), nn.ReLU())

    assert structure(made(1)) == structure(made(1, seed=1)) != structure(made(2))
    assert state(made(1)) == state(made(2))  # the same weights fit both
    turned = made(1)
    turned[1].inplace = True
    assert structure(turned) != structure(made(1))


def test_a_structure_knows_values_that_no_state_dict_holds():
    import torch
    from torch import nn

    def made(value):
        network = nn.Identity()
        network.register_buffer("mask", torch.full((2,), value), persistent=False)
        network.apart = [nn.Linear(1, 1, bias=False)]
        nn.init.constant_(network.apart[0].weight, value)
        return network

    assert structure(made(1.0)) == structure(made(1.0)) != structure(made(2.0))


def test_what_scripts_and_graphs_execute_is_in_their_structure():
    import torch
    from torch import nn

    for traced in (torch.jit.script, torch.fx.symbolic_trace):
        with quiet():
            one, same, other = (traced(nn.Sequential(nn.Conv1d(1, 1, 3, padding=p))) for p in (1, 1, 2))
        assert structure(one) == structure(same) != structure(other)


def test_circles_end():
    ring = [1]
    ring.append(ring)
    assert fingerprint(ring) == fingerprint(ring)
