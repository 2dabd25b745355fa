"""Claims about what makes a measurement noisy."""

import json
from dataclasses import replace

import pytest

from bench.errors import BenchWarning
from bench.machine.noise import Counters, Watch, snapshot
from bench.machine.pace import Pace
from bench.machine.probes import Peak, _kernels, _layers, peaks, probe
from bench.timing.baseline import Shared
from bench.timing.settings import Bench

QUIET = Counters(at_s=0.0, busy_s=100.0, steal_s=1.0, own_s=10.0, throttled=0, mhz=3000.0)


def watched(**changes):
    watch = Watch(probes=[{"fp32_gflops": 200.0, "copy_gb_per_s": 30.0}])
    watch.add(QUIET, QUIET)
    watch.add(QUIET, replace(QUIET, **({"at_s": 10.0, "busy_s": 110.0, "own_s": 20.0} | changes)))
    return watch.noise({"fp32_gflops": 210.0, "copy_gb_per_s": 40.0})


def test_a_machine_that_does_nothing_else_is_steady():
    noise = watched()
    assert (noise.verdict, noise.why, noise.foreign_cores) == ("steady", (), 0.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"busy_s": 125.0}, "other processes used 1.50 cores"),
        ({"steal_s": 3.0}, "the hypervisor took 10.0% of the CPUs' time"),
        ({"throttled": 4}, "the CPU was throttled for heat 4 times"),
        ({"mhz": 2000.0}, "the CPU's clock ranged from 2000 to 3000 MHz"),
    ],
)
def test_what_others_took_is_named(monkeypatch, changes, why):
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)
    noise = watched(**changes)
    assert (noise.verdict, noise.why) == ("noisy", (why,))


def test_a_probe_below_its_best_is_named():
    watch = Watch(probes=[{"fp32_gflops": 200.0}, {"fp32_gflops": 100.0}])
    assert watch.noise({"fp32_gflops": 200.0}).why == ("control probe fp32_gflops fell to 50% of its best",)


def test_the_best_is_what_the_machine_kept_up_over_a_case_in_any_session(tmp_path):
    quick, slow = [{"fp32_gflops": figure} for figure in (240.0, 260.0, 250.0)], [{"fp32_gflops": 200.0}] * 3
    assert Pace(tmp_path).learn(1, quick) == {"fp32_gflops": 250.0}
    best = Pace(tmp_path).learn(1, slow)
    assert best == {"fp32_gflops": 250.0}
    assert Watch(probes=slow).noise(best).why == ("control probe fp32_gflops fell to 80% of its best",)
    assert Pace(tmp_path).learn(2, slow) == {"fp32_gflops": 200.0}


@pytest.mark.parametrize("content", ["", "[1]", "{", "3"])
def test_a_damaged_file_of_the_best_is_told_and_replaced(tmp_path, content):
    Pace(tmp_path).learn(1, [{"fp32_gflops": 250.0}])
    (file,) = (tmp_path / "pace").glob("*.json")
    file.write_text(content)
    with pytest.warns(BenchWarning, match="is damaged"):
        assert Pace(tmp_path).learn(1, [{"fp32_gflops": 200.0}]) == {"fp32_gflops": 200.0}
    assert json.loads(file.read_text()) == {"fp32_gflops": 200.0}


def test_a_case_without_probes_or_with_other_ones_teaches_what_it_can(tmp_path):
    pace = Pace(tmp_path)
    assert pace.learn(1, []) == {}
    assert pace.learn(1, [{"copy_gb_per_s": 20.0}, {"copy_gb_per_s": 30.0, "fp32_gflops": 200.0}]) == {
        "copy_gb_per_s": 25.0,
        "fp32_gflops": 200.0,
    }


def test_counters_that_go_backwards_tell_nothing_below_zero():
    watch = Watch()
    watch.add(QUIET, replace(QUIET, **{"at_s": 10.0, "busy_s": 90.0, "steal_s": 0.0, "throttled": None}))
    noise = watch.noise({})
    assert (noise.foreign_cores, noise.steal_share, noise.throttled, noise.verdict) == (0, 0, 0, "steady")


def test_a_system_whose_clocks_cannot_be_read_tells_none(monkeypatch):
    def broken(percpu):
        raise NotImplementedError("can't find current frequency file")

    monkeypatch.setattr("psutil.cpu_freq", broken, raising=False)
    assert snapshot([]).mhz is None


def test_the_peak_of_a_number_format_is_the_best_of_several_products_and_convolutions():
    found = peaks(1)
    assert {"fp32", "int8"} <= set(found)
    assert all(one.gops > 0 and one.by.startswith(("onnxruntime", "openvino")) for one in found.values())
    kernels = [(number_format, by) for number_format, by, _ in _kernels(1)]
    for number_format, one in found.items():
        assert (number_format, one.by) in kernels
    assert len({by.split("'")[0] for number_format, by in kernels if number_format == "fp32"}) == 2


@pytest.mark.parametrize("number_format", ["fp32", "int8"])
@pytest.mark.parametrize("shapes", [([64, 64], [64, 64]), ([1, 8, 14, 14], [8, 8, 3, 3])])
def test_what_the_peaks_kernels_are_counted_with_is_what_pytorch_counts(number_format, shapes):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    values, weight = (torch.zeros(shape) for shape in shapes)
    with FlopCounterMode(display=False) as counter:
        for _ in range(4):
            values = values @ weight if values.ndim == 2 else torch.nn.functional.conv2d(values, weight, padding=1)
    call, amount = _layers(1, number_format, *map(list, shapes))
    call()
    assert amount == counter.get_total_flops()


def test_peaks_are_kept_by_threads_and_only_raised(tmp_path):
    pace = Pace(tmp_path)
    assert pace.peaks(1) == {}
    assert pace.raise_peaks(1, {"fp32": Peak(100.0, "a"), "int8": Peak(400.0, "a")})["fp32"] == Peak(100.0, "a")
    best = pace.raise_peaks(1, {"fp32": Peak(90.0, "b"), "int8": Peak(500.0, "b")})
    assert best == Pace(tmp_path).peaks(1) == {"fp32": Peak(100.0, "a"), "int8": Peak(500.0, "b")}
    assert pace.peaks(2) == {}
    assert pace.learn(1, [{"fp32_gflops": 1.0}]) == {"fp32_gflops": 1.0}  # the probes' own file


def test_a_case_that_was_faster_than_the_peak_has_it_measured_again(tmp_path):
    with Shared(Bench(tmp_path)) as shared:
        shared.pace.raise_peaks(1, {"fp32": Peak(0.01, "a slow hour")})
        assert shared.peak(1, "fp32", 0.005) == Peak(0.01, "a slow hour")
        again = shared.peak(1, "fp32", 0.02)
        assert again.gops > 0.02
        assert again == shared.peak(1, "fp32", 0.02)
        assert shared.peak(1, "fp16", 0.02) is None


def test_where_the_system_tells_no_steal_time_it_is_null():
    watch = Watch()
    watch.add(replace(QUIET, **{"steal_s": None}), replace(QUIET, **{"at_s": 1.0, "steal_s": None}))
    assert watch.noise({}).steal_share is None


def test_snapshots_of_this_machine_grow():
    before = snapshot([])
    sum(range(3_000_000))
    after = snapshot([])
    assert after.at_s > before.at_s
    assert after.own_s > before.own_s
    assert after.busy_s >= before.busy_s


def test_a_probe_gives_its_three_figures():
    sessions = {}
    figures = probe(sessions, 1)
    assert set(figures) == {"fp32_gflops", "int8_gops", "copy_gb_per_s"}
    assert all(figure > 0 for figure in figures.values())
