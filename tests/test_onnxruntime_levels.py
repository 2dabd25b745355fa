"""Claims about ONNX Runtime with other optimizations: other graphs, the same outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from bench import engines, engines_on, recipes
from bench.errors import Unsupported


class Encoder(nn.Module):
    """A linear layer with GELU, added to its input, and a normalization."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(x + self.down(nn.functional.gelu(self.up(x))))


LEVELS = ("onnxruntime_unoptimized", "onnxruntime_basic", "onnxruntime_transformers")


@pytest.mark.parametrize("engine", LEVELS)
def test_a_level_of_optimizations_changes_no_output(engine, tmp_path):
    torch.manual_seed(0)
    network, rows = Encoder().eval().requires_grad_(False), np.random.default_rng(0).normal(size=(4, 6, 16))
    rows = rows.astype(np.float32)
    known = network(torch.from_numpy(rows)).numpy()
    member = engines.get(engine)
    member.build(network, recipes.get("fp32"), rows, tmp_path)
    outputs = member.load(tmp_path, recipes.get("fp32"), None, rows, 1)(rows)
    np.testing.assert_allclose(outputs, known, atol=1e-5)
    layers = member.layers(tmp_path, recipes.get("fp32"), None, rows, 1)
    assert [(layer.kind, layer.format, layer.macs) for layer in layers] == [("linear", "fp32", 6 * 16 * 32)] * 2
    assert engine not in engines_on("cpu"), "grids of all engines do not grow by it"


def test_the_levels_execute_other_graphs(tmp_path):
    rows, executed = np.zeros((1, 6, 16), np.float32), {}
    for engine in ("onnxruntime", *LEVELS):
        folder = tmp_path / engine
        folder.mkdir()
        member, recipe = engines.get(engine), recipes.get("fp32")
        member.build(Encoder().eval().requires_grad_(False), recipe, rows, folder)
        executed[engine] = tuple(operation.kind for operation in member.operations(folder, recipe, None, rows, 1))
    assert len(set(executed.values())) == 4, executed
    assert executed["onnxruntime_unoptimized"].count("MatMul") == 2
    assert {"BiasGelu", "SkipLayerNormalization"} <= set(executed["onnxruntime_transformers"])


def test_a_tool_that_finds_nothing_to_fuse_says_so(tmp_path):
    network = nn.Sequential(nn.Linear(16, 4)).eval().requires_grad_(False)
    with pytest.raises(Unsupported, match="finds nothing to fuse"):
        engines.get("onnxruntime_transformers").build(
            network, recipes.get("fp32"), np.zeros((1, 16), np.float32), tmp_path
        )
