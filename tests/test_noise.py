"""Claims about what makes a measurement noisy."""

import json

import pytest

from bench.errors import BenchWarning
from bench.noise import Pace, Watch, probe, snapshot

QUIET = {"at_s": 0.0, "busy_s": 100.0, "steal_s": 1.0, "own_s": 10.0, "throttled": 0, "mhz": 3000.0}


def watched(**changes):
    watch = Watch(probes=[{"fp32_gflops": 200.0, "copy_gb_per_s": 30.0}])
    watch.add(QUIET, QUIET)
    watch.add(QUIET, QUIET | {"at_s": 10.0, "busy_s": 110.0, "own_s": 20.0} | changes)
    return watch.noise({"fp32_gflops": 210.0, "copy_gb_per_s": 40.0})


def test_a_machine_that_does_nothing_else_is_steady():
    noise = watched()
    assert (noise["verdict"], noise["why"], noise["foreign_cores"]) == ("steady", [], 0.0)


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
    assert (noise["verdict"], noise["why"]) == ("noisy", [why])


def test_a_probe_below_its_best_is_named():
    watch = Watch(probes=[{"fp32_gflops": 200.0}, {"fp32_gflops": 100.0}])
    assert watch.noise({"fp32_gflops": 200.0})["why"] == ["control probe fp32_gflops fell to 50% of its best"]


def test_the_best_is_what_the_machine_kept_up_over_a_case_in_any_session(tmp_path):
    quick, slow = [{"fp32_gflops": figure} for figure in (240.0, 260.0, 250.0)], [{"fp32_gflops": 200.0}] * 3
    assert Pace(tmp_path).learn(1, quick) == {"fp32_gflops": 250.0}
    best = Pace(tmp_path).learn(1, slow)
    assert best == {"fp32_gflops": 250.0}
    assert Watch(probes=slow).noise(best)["why"] == ["control probe fp32_gflops fell to 80% of its best"]
    assert Pace(tmp_path).learn(2, slow) == {"fp32_gflops": 200.0}


@pytest.mark.parametrize("content", ["", "[1]", "{", "3"])
def test_a_damaged_file_of_the_best_is_told_and_replaced(tmp_path, content):
    Pace(tmp_path).learn(1, [{"fp32_gflops": 250.0}])
    (file,) = (tmp_path / "pace").glob("*.json")
    file.write_text(content)
    with pytest.warns(BenchWarning, match="is damaged"):
        assert Pace(tmp_path).learn(1, [{"fp32_gflops": 200.0}]) == {"fp32_gflops": 200.0}
    assert json.loads(file.read_text()) == {"fp32_gflops": 200.0}


def test_where_the_system_tells_no_steal_time_it_is_null():
    watch = Watch()
    watch.add(QUIET | {"steal_s": None}, QUIET | {"at_s": 1.0, "steal_s": None})
    assert watch.noise({})["steal_share"] is None


def test_snapshots_of_this_machine_grow():
    before = snapshot([])
    sum(range(3_000_000))
    after = snapshot([])
    assert after["at_s"] > before["at_s"]
    assert after["own_s"] > before["own_s"]
    assert after["busy_s"] >= before["busy_s"]


def test_a_probe_gives_its_three_figures():
    sessions = {}
    figures = probe(sessions, 1)
    assert set(figures) == {"fp32_gflops", "int8_gops", "copy_gb_per_s"}
    assert all(figure > 0 for figure in figures.values())
