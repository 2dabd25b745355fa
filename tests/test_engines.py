"""Claims about the engines, on a small network without data and on ResNet20 with the real ones."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import Case, engines, models, recipes
from bench.measure import measure, prepare
from bench.sampling import Plan
from bench.session import Bench, unsupported
from bench.tasks import sqnr_db

pytest_plugins = "pytester"

ENGINES = ("torch", "torchscript", "inductor", "onnxruntime", "onnxruntime_mobile", "openvino", "executorch")
QUICK = Plan(least_launches=1, most_launches=1, pass_s=0.01, slice_s=0.001)
README = Path(__file__).parents[1] / "README.md"


def test_every_engine_gives_a_reason_for_a_device_it_does_not_serve():
    for engine in ENGINES:
        assert "'tpu'" in engines.get(engine).supports(recipes.get("fp32"), "tpu")


def test_an_engine_whose_package_is_missing_says_so(monkeypatch):
    import toy  # noqa: F401 - registers the model

    monkeypatch.setattr(engines.get("openvino"), "packages", ("openvino", "no-such-package"))
    assert unsupported(Case("linear", "fp32", "openvino"), None) == "package no-such-package is not installed"


def test_fp32_on_openvino_is_not_bfloat16(tmp_path):
    import numpy as np
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3)).eval()
    example = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    engine = engines.get("openvino")
    engine.build(network, recipes.get("fp32"), example, tmp_path)
    outputs = engine.load(tmp_path, recipes.get("fp32"), None, example, 1)(example)
    with torch.inference_mode():
        expected = network(torch.from_numpy(example)).numpy()
    # bfloat16 keeps 8 bits of a product: sums of 576 of them would differ by some 1e-3 of their size, FP32 ones by 1e-6
    assert np.abs(outputs - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["torch", "torchscript", "onnxruntime", "onnxruntime_mobile", "openvino"])
def test_int8_of_a_part_leaves_the_other_in_fp32(engine, tmp_path):
    import numpy as np
    import torch
    from torch import nn

    def part():
        first, last = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1)
        return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), last)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = part(), part()

        def forward(self, x):
            code = self.encoder(x)
            return code, self.decoder(code)

    torch.manual_seed(0)
    network = Two().eval().requires_grad_(False)
    samples = np.random.default_rng(0).normal(size=(16, 8, 16, 16)).astype(np.float32)
    codes, _ = (part.numpy() for part in network(torch.from_numpy(samples)))
    decoder = copy.deepcopy(network.decoder)
    recipe = replace(recipes.get("int8_encoder"), only=("encoder",))
    engines.get(engine).build(network, recipe, samples, tmp_path)
    predict = engines.get(engine).load(tmp_path, recipe, lambda: Two().eval(), samples[:2], 1)
    code, answer = predict(samples[:2])
    assert 20 < sqnr_db(code, codes[:2]) < 60
    assert sqnr_db(answer, decoder(torch.from_numpy(np.ascontiguousarray(code))).numpy()) > 90


@pytest.mark.parametrize("engine", ["torch", "torchscript", "onnxruntime", "openvino"])
@pytest.mark.parametrize("layer", ["2x2 transposed", "3x3 transposed", "depthwise"])
def test_int8_of_layers_whose_kernels_are_known_to_err_is_near_fp32(layer, engine, tmp_path):
    """torch.ao's own are at -10 to 20 dB: oneDNN's and FBGEMM's transposed, FBGEMM's depthwise with 8 bits."""
    import numpy as np
    import torch
    from torch import nn

    kinds = {
        "2x2 transposed": lambda: nn.ConvTranspose2d(16, 8, 2, 2),
        "3x3 transposed": lambda: nn.ConvTranspose2d(16, 8, 3, 2, padding=1, output_padding=1),
        "depthwise": lambda: nn.Conv2d(128, 128, 3, padding=1, groups=128),
    }

    def network():
        torch.manual_seed(0)
        return nn.Sequential(kinds[layer]()).eval().requires_grad_(False)

    planes = network()[0].in_channels
    samples = np.random.default_rng(0).normal(size=(16, planes, 12, 12)).astype(np.float32)
    known = network()(torch.from_numpy(samples[:2])).numpy()
    recipe = recipes.get("int8_static")
    engines.get(engine).build(network(), recipe, samples, tmp_path)
    found = engines.get(engine).load(tmp_path, recipe, network, samples[:2], 1)(samples[:2])
    assert 28 < sqnr_db(found, known) < 90


@pytest.mark.parametrize(("precision", "most"), [("int4_simulated", 7), ("int2_simulated", 1)])
def test_simulated_bits_leave_weights_so_many_levels_and_activations_so_wide_steps(precision, most):
    import numpy as np
    import torch
    from torch import nn

    from bench.engines.torch import lowered

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval().requires_grad_(False)
    samples = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    known = network[:2](torch.from_numpy(samples))
    module = lowered(network, recipes.get(precision), samples[:1], samples)
    first, last = module.get_submodule("0"), module.get_submodule("2")
    for part in (first, last):
        weights = part.weight().int_repr()
        assert (int(weights.min()), int(weights.max())) == (-most, most)
    assert first.scale == pytest.approx(float(known.max()) / (2 * most + 1), rel=1e-5)


def test_dynamic_int8_of_a_network_without_linear_layers_is_unsupported_in_torch_ao(tmp_path):
    import numpy as np
    import torch

    from bench.errors import Unsupported

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    example = np.zeros((2, 3, 8, 8), np.float32)
    for engine in ("torch", "torchscript"):
        with pytest.raises(Unsupported, match="this network has none"):
            engines.get(engine).build(network, recipes.get("int8_dynamic"), example, tmp_path)


def test_an_engine_that_cannot_simulate_few_bits_says_so():
    import fixtures.models  # noqa: F401

    reason = unsupported(Case("resnet20", "int4_simulated", "onnxruntime"), None)
    assert reason == "onnxruntime holds whole numbers to 8 bits here, not to 4"


def test_the_readmes_own_model_of_fifteen_lines_runs_on_all_engines(pytester, monkeypatch):
    conftest, suite = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(conftest.splitlines()) <= 15
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(pytester.path / "cache"))
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_mine=suite)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--bench-batch", "3", "--bench-quick")
    result.assert_outcomes(passed=14)
    for engine in ENGINES:
        result.stdout.fnmatch_lines([f"| mine *| int8_static *| {engine} *"])


@pytest.fixture(scope="module")
def real_bench(tmp_path_factory, real_data):
    import fixtures.data
    import fixtures.models  # noqa: F401

    return Bench(tmp_path_factory.mktemp("cache"), real_data, QUICK)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_static", "int8_dynamic"])
def test_resnet20_keeps_its_accuracy(real_bench, engine, precision):
    case = Case("resnet20", precision, engine, batch=64, threads=2)
    if (reason := unsupported(case, real_bench.data)) is not None:
        pytest.skip(reason)
    prepare([case], real_bench)
    record = measure(case, real_bench)
    assert record.status == "ok", record.reason
    right = round(record.quality["top1"] * record.quality["n"])
    assert record.quality["n"] == 1017
    own_pool = {"openvino": ("inference_num_threads", "2"), "executorch": ("threadpool", 2)}
    setting, count = own_pool.get(engine, ("intra_op", 2))
    assert record.process["pool"][setting] == count
    slack = {"fp32": 0 if engine == "torch" else 1}.get(precision, 10)  # INT8 within 1.0 point
    assert abs(right - 932) <= slack
    if precision == "fp32":
        assert record.fidelity["sqnr_db"] > 100
        assert record.fidelity["agreement"] >= 1016 / 1017


def test_the_documents_models_all_name_a_task_that_exists():
    from bench.tasks import tasks

    for name in models.names():
        assert models.get(name).task in tasks.names()
