"""Claims about the weights as they are stored: tied ones, and those that a parametrization gives."""

import numpy as np
import pytest

from bench.build.bill import Bill
from bench.build.networks import architecture, folded
from bench.build.weights import trained_network
from bench.engines import engines
from bench.errors import DataError
from bench.spec.dataset import Dataset, Samples
from bench.spec.model import Model, Source, Weights
from bench.spec.recipe import recipes
from bench.spec.state import read_state
from bench.store import Store


def source(network):
    data = Samples(np.ones((4, 8), np.float32), np.zeros(4, int))
    own = Weights("as built", "ones")
    dataset = Dataset("ones", "ones", lambda split, folder: data)
    return Source(Model("net", "features", network, (own,)), own, dataset, None)


def tied():
    from torch import nn

    first, second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def viewed():
    import torch
    from torch import nn

    network, whole = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(2, 8, 8)
    for layer, part in zip(network, whole, strict=True):
        layer.weight = nn.Parameter(part)
    return network


def parametrized():
    from torch import nn
    from torch.nn.utils import parametrizations, prune, spectral_norm

    layers = [parametrizations.weight_norm(nn.Linear(8, 8)), parametrizations.orthogonal(nn.Linear(8, 8))]
    layers += [spectral_norm(nn.Linear(8, 8)), prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("network", [tied, viewed, parametrized])
def test_a_network_with_weights_that_are_not_plain_computes_the_same_from_the_store(tmp_path, network):
    import torch

    chosen = source(network)
    made = architecture(chosen)
    inputs = torch.randn(4, 8)
    loaded = trained_network(chosen, Bill(Store(tmp_path), chosen).weights)
    torch.testing.assert_close(loaded(inputs), made(inputs))


def test_a_tied_weight_is_stored_once_and_is_tied_again(tmp_path):
    chosen = source(tied)
    kept = Bill(Store(tmp_path), chosen).weights
    assert 8 * 8 * 4 < (kept.folder / "weights.safetensors").stat().st_size < 2 * 8 * 8 * 4 + 300
    loaded = trained_network(chosen, kept)
    assert loaded[0].weight is loaded[2].weight
    assert read_state(kept.folder / "weights.safetensors").keys() == loaded.state_dict().keys()


def test_parametrizations_are_folded_for_engines():
    network = folded(architecture(source(parametrized)))
    assert sorted(network.state_dict()) == sorted(f"{n}.{what}" for n in range(4) for what in ("weight", "bias"))


def test_a_state_that_is_no_tensor_is_refused_in_one_line(tmp_path):
    import torch

    class Odd(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(DataError, match="keeps _extra_state in its state dict, a dict; only tensors are kept"):
        Bill(Store(tmp_path), source(lambda: Odd(8, 8))).reference()


def test_what_an_engine_keeps_of_folded_weights_fits_the_folded_architecture(tmp_path):
    import torch

    chosen, store = source(parametrized), Store(tmp_path)
    built, weights = Bill(store, chosen).artefact("torch", "fp32"), Bill(store, chosen).weights
    inputs = np.random.default_rng(0).normal(0, 1, (4, 8)).astype(np.float32)

    def network():
        return folded(architecture(chosen))

    predict = engines.get("torch").load(built.folder, recipes.get("fp32"), network, inputs, 1)
    with torch.inference_mode():
        known = trained_network(chosen, weights)(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(predict(inputs), known, rtol=1e-5, atol=1e-6)
