"""Claims about devices: their clocks, queues, memory, energy and noise, on a device that computes nothing."""

import copy
import importlib
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import Case, devices
from bench.engines.contradiction import contradiction
from bench.errors import WorkerError
from bench.machine.devices.cuda import THROTTLED
from bench.machine.devices.device import DeviceCounters, disturbances, foreign_processes, on_device
from bench.machine.devices.fake import IDLE_W, WATTS, Fake
from bench.spec.outcome import Likeness
from bench.spec.recipe import recipes
from bench.timing.opened import waits
from bench.timing.sampling import Timer, left_over_s

pytest_plugins = ["pytester"]

QUEUED = """
from bench import Engine, devices, engines
from bench.engines.engine import Session

class Queued(Engine):
    packages, format = ("numpy", "torch"), "none"
    formats_on, devices = {"fake": ("fp32",)}, ("fake",)
    waits, falls_back = True, False

    def build(self, network, recipe, samples, folder):
        import torch
        torch.save(network.state_dict(), folder / "state.pt")

    def load(self, folder, recipe, network, example, threads):
        import torch
        module, device = network(), devices.get("fake")
        module.load_state_dict(torch.load(folder / "state.pt", weights_only=True))

        def predict(inputs):
            if not self.falls_back:
                device.queue(2e-3)
            if self.waits:
                device.synchronize()
            with torch.inference_mode():
                return module(torch.from_numpy(inputs)).numpy()

        return Session(predict, resident=lambda batch: lambda: device.queue(2e-3))

class Asynchronous(Queued):
    waits = False

class FallenBack(Queued):
    falls_back = True

engines.add("queued", Queued(), __name__)
engines.add("asynchronous", Asynchronous(), __name__)
engines.add("fallen_back", FallenBack(), __name__)
"""
SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(
    Grid(
        "linear", "fp32", ["queued", "asynchronous", "fallen_back"], device="fake",
        baseline=dict(engine="torch", precision="fp32", device="cpu"),
    )
)
def test_queued(case, measure):
    measure(case)
"""


class Hands:
    """A clock that moves when somebody sleeps or works."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def fake(hands):
    return Fake(hands, hands.sleep)


def test_a_device_is_timed_by_its_own_clock_and_a_slow_host_does_not_lengthen_it(hands, fake):
    def call():
        hands.sleep(3e-3)  # to issue it
        fake.queue(0.5e-3)

    spell = on_device(fake, call)
    assert spell.device_s == pytest.approx(0.5e-3)
    assert spell.issue_s == pytest.approx(3e-3)
    eager = fake.spell(call, 4, 0.0)
    assert eager.device_s > 2e-3, "without holding the device its time would be the host's"


def test_a_call_that_waits_for_the_device_cannot_be_timed_there(hands, fake):
    def call():
        fake.queue(0.5e-3)
        fake.synchronize()

    assert on_device(fake, call) is None
    assert on_device(devices.get("cpu"), call) is None


def test_a_call_that_does_not_wait_leaves_work_and_is_refused(hands, fake):
    def asynchronous():
        hands.sleep(1e-4)
        fake.queue(2e-3)

    def synchronous():
        asynchronous()
        fake.synchronize()

    assert left_over_s(asynchronous, fake.synchronize, hands) == pytest.approx((1e-4, 2e-3))
    call_s, left_s = left_over_s(synchronous, fake.synchronize, hands)
    assert (call_s, left_s) == (pytest.approx(2.1e-3), 0.0)


def test_a_wait_that_is_disturbed_once_is_no_work_left_over(hands, fake):
    disturbed = iter([0.0, 5e-3, *[0.0] * 20])

    def wait():
        hands.sleep(next(disturbed))

    assert left_over_s(lambda: hands.sleep(1e-4), wait, hands)[1] == 0.0


def test_a_slice_ends_with_an_empty_queue(hands, fake):
    def call():
        hands.sleep(0.1)
        fake.queue(0.05)

    Timer(0.1, hands, wait=fake.synchronize).slice(call, 1.0)
    before_s = hands.now_s
    fake.synchronize()
    assert hands.now_s == before_s


def test_work_that_never_reached_the_device_is_a_fall_back():
    with pytest.raises(WorkerError, match="nothing was computed on fake: the engine fell back to the CPU"):
        waits(lambda: None, Fake())
    waits(lambda: None, devices.get("cpu"))


def test_what_keeps_a_device_s_clock_down_and_who_else_computes_there_is_noise():
    steady = DeviceCounters(mhz=1980.0, celsius=50.0, processes=(11, 12))
    assert disturbances([steady, steady], {11, 12}) == []
    slower = DeviceCounters(mhz=1500.0, throttled=("power cap",), processes=(11, 12, 99))
    assert disturbances([steady, slower], {11, 12}) == [
        "the device kept its clock down: power cap",
        "the device's clock ranged from 1500 to 1980 MHz",
        "1 other processes computed on the device",
    ]


@pytest.mark.parametrize(
    ("seen", "own", "foreign"),
    [
        pytest.param((11, 12), {11, 12}, 0, id="ours alone"),
        pytest.param((11, 99), {11, 12}, 1, id="ours that are not there yet, and another's"),
        pytest.param((4011, 4012), {11, 12}, 0, id="a container: the host's numbers of ours"),
        pytest.param((4011, 4012, 4099), {11, 12}, 1, id="a container, and another's"),
    ],
)
def test_other_processes_on_a_device_are_told_from_ours(seen, own, foreign):
    assert foreign_processes(DeviceCounters(processes=seen), own) == foreign


def test_energy_is_read_over_blocks_and_a_counter_that_wraps_around_is_dropped(hands, fake):
    from bench.timing.answers import _metered

    def predict(_):
        fake.queue(0.01)
        fake.synchronize()

    def session():
        timer = Timer(0.01, hands, wait=fake.synchronize)
        return SimpleNamespace(device=fake, predict=predict, batch=None, timer=timer)

    began = fake.energy_j()
    meter = _metered(session(), 5.0, hands, hands.sleep)
    assert meter.joules / meter.calls == pytest.approx(WATTS * 0.01, rel=0.02)
    assert meter.idle_w == pytest.approx(IDLE_W, rel=0.6), "a second of a counter that moves by 30 J"
    assert fake.energy_j() > began
    readings = iter([100.0, 150.0, 90.0, 10.0])
    fake.energy_j = lambda: next(readings)
    assert _metered(session(), 5.0, hands, hands.sleep) is None


def test_tf32_called_fp32_is_a_failure_where_the_device_tells_them_apart():
    tf32 = Likeness(70.0)
    assert contradiction(recipes.get("fp32"), tf32, None, devices.get("cpu").fp32_db) is None
    reason = contradiction(recipes.get("fp32"), tf32, None, devices.get("cuda").fp32_db)
    assert "was not computed in FP32" in reason
    assert contradiction(recipes.get("tf32"), tf32) is None
    assert "nothing was computed in tf32" in contradiction(recipes.get("tf32"), Likeness(125.0))


@pytest.fixture
def project(pytester, monkeypatch):
    import toy

    monkeypatch.setenv("BENCH_CACHE", str(pytester.path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    pytester.makepyfile(own_queued=QUEUED, test_queue=SUITE, toy=Path(toy.__file__).read_text())
    pytester.makeconftest("import toy, own_queued")
    return pytester


def run(project, *options):
    result = project.runpytest_subprocess(
        "-p", "no:cacheprovider", "--bench-budget=3", "--benchmark-json=run.json", *options
    )
    saved = json.loads((project.path / "run.json").read_text())
    return result, {one["extra_info"]["case"]["engine"]: one["extra_info"] for one in saved["benchmarks"]}


def test_a_case_on_a_device_is_measured_there_and_work_that_is_not_is_refused(project):
    result, records = run(project)
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert "before fake is done; the engine's predict must wait for its outputs" in text
    assert "nothing was computed on fake: the engine fell back to the CPU" in text
    facts = records["queued"]["on_device"]
    assert facts["device"]["kind"] == "fake"
    assert facts["device_s"] == pytest.approx(2e-3, rel=0.05)
    assert facts["launch_bound"] is False
    assert facts["energy_j_per_call"] > 0
    assert records["queued"]["speedup"]["baseline"]["case"]["device"] == "cpu"
    assert records["queued"]["efficiency"]["peak_gops"] is None, "the CPU's peak is not the device's"
    assert Case.named(records["queued"]["id"]).device == "fake"


def test_a_device_that_throttles_makes_a_case_noisy(project, monkeypatch):
    monkeypatch.setenv("BENCH_FAKE_THROTTLED", "heat")
    _, records = run(project, "-k", "queued-b1", "--bench-quick")
    noise = records["queued"]["noise"]
    assert noise["verdict"] == "noisy"
    assert "the device kept its clock down: heat" in noise["why"]


def test_a_device_that_is_not_there_is_one_line(project):
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--bench-device", "cuda", "--bench-device-index=77")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.stderr.str().splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("ERROR: --bench-device cuda: ")


# PyTorch's own code for devices, on the CPU: what it lowers, keeps and counts


class Layers:
    """A network with a linear layer that GPU kernels take and one whose size they do not take."""

    def __new__(cls):
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).eval()


def test_torchao_lowers_what_the_gpu_s_kernels_take_and_its_state_is_read_back_as_it_was(tmp_path):
    import numpy as np

    from bench.engines.torch_count import layers_of, products_of
    from bench.engines.torch_devices import lowered_on, restored_on
    from bench.engines.torch_modules import predictor, save

    recipe, inputs = recipes.get("int8_dynamic"), np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    lowered = lowered_on(Layers(), recipe, "cpu:0", inputs[:1])
    save(lowered, tmp_path / "state.pt")
    outputs = predictor(lowered, "cpu:0")(inputs)
    again = predictor(restored_on(Layers(), recipe, "cpu:0", inputs[:1], tmp_path / "state.pt"), "cpu:0")(inputs)
    np.testing.assert_array_equal(again, outputs)
    layers = layers_of(products_of(lambda: predictor(lowered, "cpu:0")(inputs)), 4)
    assert {layer.name: layer.format for layer in layers} == {"0": "int8", "2": "fp32"}
    fp32 = predictor(Layers(), "cpu:0")(inputs)
    assert 0 < np.abs(outputs - fp32).max() < 0.05 * np.abs(fp32).max()


def test_whole_numbers_summed_in_a_wider_type_are_a_product_in_int8():
    import torch
    from torch._higher_order_ops.out_dtype import out_dtype

    from bench.engines.torch_count import products_of

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(16, 8, dtype=torch.int8))

        def forward(self, inputs):
            return out_dtype(torch.ops.aten.mm.default, torch.int32, inputs.to(torch.int8), self.weight)

    network, inputs = Whole(), torch.ones(4, 16)
    (product,) = products_of(lambda: network(inputs))
    assert (product.kind, product.format, product.macs, product.weights) == ("linear", "int8", 4 * 16 * 8, 16 * 8)


@pytest.mark.parametrize(
    ("precision", "device", "reason"),
    [
        pytest.param("tf32", "cpu", "torch computes in fp32, bf16, int8 here, not in tf32", id="TF32 on a CPU"),
        pytest.param("fp16_autocast", "xpu", "torch has no mixed precision on xpu", id="mixed precision"),
        pytest.param("int8_static", "cuda", "torchao's int8 on cuda takes the scales of activations from each call"),
    ],
)
def test_a_precision_that_a_device_does_not_have_is_unsupported(precision, device, reason, monkeypatch):
    import toy  # noqa: F401 - registers the model

    from bench.timing.settings import Bench
    from bench.timing.unsupported import unsupported

    monkeypatch.setattr(importlib.import_module("bench.engines.torch_devices"), "built_without", lambda device: None)
    assert unsupported(Case("linear", precision, "torch", device=device), Bench(Path("cache"))) == reason


def test_key_of_an_artefact_on_the_cpu_stays_and_another_device_has_its_own(tmp_path):
    import toy  # noqa: F401 - registers the model

    from bench.build.artefact import artefact_entry
    from bench.build.bill import Bill
    from bench.spec.model import models, source
    from bench.store import Store

    store = Store(tmp_path)
    bill = Bill(store, source(models.get("linear"), None))
    recipe = bill.recipe("fp32")
    built = [
        artefact_entry(store, bill.source, bill.network, bill.weights, "torch", "fp32", recipe, *device).made_from
        for device in ((), ("cpu",), ("cuda",))
    ]
    assert built[0] == built[1]
    assert "device" not in built[0]
    assert built[2]["device"] == "cuda"


# files in FP16 on the CPU


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's own
@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime_mobile", "openvino", "executorch"])
def test_an_fp16_file_is_near_fp32_and_says_what_it_is_computed_in(engine, tmp_path):
    import numpy as np
    import torch

    from bench import engines
    from bench.engines.lowered import lowered
    from bench.spec.interface import adapted, interface_of
    from bench.statistics import sqnr_db

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3)).eval()
    inputs = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    member, recipe, sizes = engines.get(engine), recipes.get("fp16"), {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        fresh = adapted(network, interface_of(network, inputs[:1]), 1)
        member.build(copy.deepcopy(fresh), recipes.get(precision), inputs, folder)
        sizes[precision] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    loading = (tmp_path / "fp16", recipe, None, inputs, 1)
    outputs = member.load(*loading)(inputs)
    assert 50 < sqnr_db(expected, outputs) < 90
    stored = recipe.number_format in member.stores
    counted = lowered(member.layers(*loading), "fp16", stored=stored)
    assert counted.shares["fp16"] == 1.0
    if stored:
        assert sizes["fp16"] < 0.6 * sizes["fp32"]
        assert counted.reason == "weights are stored in FP16, and products are computed in FP32"
    else:
        assert counted.reason == "100% of the weights are stored in FP32; products are computed in FP16"


# what the machine says of its devices, and what an environment for them installs


def test_doctor_says_how_a_device_s_clock_is_held_and_who_else_is_there(fake, monkeypatch):
    from bench.machine.doctor import gpu_findings

    monkeypatch.setattr(fake, "advice", lambda index: ["clocks follow load and heat; hold them"])
    monkeypatch.setattr(fake, "counters", lambda index: DeviceCounters(processes=(7, 8)))
    name = "a device that computes nothing"
    assert gpu_findings(fake) == [
        f"{name}: clocks follow load and heat; hold them",
        f"{name}: 2 processes compute there: end them, or choose another device",
    ]
    monkeypatch.setattr(fake, "missing", lambda index: "there is none")
    assert gpu_findings(fake) == []


def test_onnxruntime_gpu_stands_in_for_onnxruntime_and_is_named(monkeypatch):
    import importlib.metadata

    from bench.spec import packages

    real = importlib.metadata.distribution

    class Gpu:
        version, metadata = "1.31.1", {"Name": "onnxruntime_gpu"}

    def distribution(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return Gpu() if name == "onnxruntime-gpu" else real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert packages.lacking(("onnxruntime",)) is None
    assert packages.version("onnxruntime") == "1.31.1 (onnxruntime-gpu)"


def test_the_environment_for_gpus_installs_one_of_the_two_builds_of_onnxruntime(tmp_path):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the PATH")
    root = Path(__file__).parents[1]
    (tmp_path / "more.in").write_text("onnxruntime-gpu\n")
    command = [uv, "pip", "compile", "-q", "--no-header", "--no-annotate", "pyproject.toml", str(tmp_path / "more.in")]
    command += ["--extra", "cuda", "--override", "overrides-cuda.txt", "--constraint", "constraints.txt"]
    done = subprocess.run([*command, "--python-version", "3.11"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"onnxruntime-gpu", "nvidia-ml-py", "torchao", "torch"} <= names
    assert "onnxruntime" not in names


def test_launches_fit_in_a_device_s_memory_beside_the_baseline_s(tmp_path, fake, monkeypatch):
    from bench.timing.pairs import Pairs
    from bench.timing.protocol import Usage
    from bench.timing.settings import Bench

    free = iter([10e9, 8e9, 8e9])
    monkeypatch.setattr(fake, "free_bytes", lambda index: next(free))
    monkeypatch.setattr("bench.timing.pairs.available_bytes", lambda: 100e9)
    monkeypatch.setattr("bench.timing.pairs.devices.get", lambda name: fake)
    monkeypatch.setattr("bench.timing.pairs.open_all", lambda sessions: None)
    pairs = Pairs(Case("linear", "fp32", "torch", device="fake"), Bench(tmp_path), None, None, None)
    pairs._free_bytes = fake.free_bytes(0)
    pairs.before = Usage(peak_rss_bytes=10**9)
    assert pairs.room() == 3, "the first took 2 GB, and each further launch takes as much, twice with its baseline"


class Nvml(types.ModuleType):
    """NVML of two GPUs."""

    NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 3, 1, 0
    NVMLError = type("NVMLError", (Exception,), {})
    uuids, mode, reasons = ("GPU-a", "GPU-b"), 0, 0

    def __init__(self):
        super().__init__("pynvml")
        for bit, words in enumerate(THROTTLED):
            setattr(self, words, 1 << bit)
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlDeviceGetCount = lambda: len(self.uuids)
        self.nvmlDeviceGetHandleByIndex = lambda index: self.uuids[index]
        self.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
        self.nvmlDeviceGetUUID = lambda handle: handle
        self.nvmlDeviceGetComputeMode = lambda handle: self.mode
        self.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: self.reasons
        self.nvmlDeviceGetComputeRunningProcesses = lambda handle: [SimpleNamespace(pid=7, usedGpuMemory=5)]
        self.nvmlDeviceGetClockInfo = lambda handle, clock: 1980
        self.nvmlDeviceGetTemperature = self.refused

    def refused(self, *_):
        raise self.NVMLError("not supported")


@pytest.fixture
def nvml(monkeypatch):
    stub = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", stub)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stub


@pytest.mark.parametrize(
    ("visible", "index", "uuid"),
    [(None, 0, "GPU-a"), (None, 1, "GPU-b"), ("1", 0, "GPU-b"), ("GPU-b,GPU-a", 1, "GPU-a"), (" 1, 0", 1, "GPU-a")],
)
def test_a_gpu_s_number_is_what_this_process_sees_and_its_worker_gets_the_uuid(nvml, monkeypatch, visible, index, uuid):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.get("cuda").missing(index) is None
    assert devices.get("cuda").environment(index)["CUDA_VISIBLE_DEVICES"] == uuid


@pytest.mark.parametrize(("visible", "words"), [("1", "sees 1, since CUDA_VISIBLE_DEVICES is '1'"), ("", "sees 0")])
def test_a_gpu_that_this_process_does_not_see_is_missing(nvml, monkeypatch, visible, words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert words in devices.get("cuda").missing(1)


def test_a_gpu_that_serves_a_single_process_is_refused(nvml):
    nvml.mode = nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
    assert devices.get("cuda").missing(1).endswith("sudo nvidia-smi -i 1 -c DEFAULT")


def test_counters_of_a_gpu_name_what_throttles_it_and_leave_out_what_it_does_not_tell(nvml):
    assert devices.get("cuda").counters(0) == DeviceCounters(mhz=1980, processes=(7,))
    nvml.reasons = 0b101
    assert devices.get("cuda").counters(0).throttled == ("power cap", "heat")


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_device_by_pytorch_says_how_many_pytorch_finds(name):
    assert re.fullmatch(rf"there is no {name} 0: torch \S+ finds 0", devices.get(name).missing(0))
