"""Claims about the facts of the machine."""

import json
import os
import platform
import re

import psutil
import pytest

from bench.isa import cpu_flags
from bench.machine import available_bytes, cgroup, cores_for, describe, energy_j, fingerprint


def test_the_facts_are_strict_json_and_agree_with_a_second_source():
    facts = json.loads(json.dumps(describe(), allow_nan=False))
    assert facts["ram_bytes"] == psutil.virtual_memory().total
    assert facts["cores_logical"] == os.cpu_count()
    assert facts["python"] == platform.python_version()
    assert set(facts["isa"]) <= cpu_flags()


def test_two_descriptions_of_one_machine_are_equal():
    assert describe() == describe()


def test_versions_are_those_installed_and_null_where_absent():
    import numpy as np
    import torch

    versions = describe()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__


def test_thread_and_allocator_settings_are_on_record(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    settings = describe()["settings"]
    assert (settings["OMP_NUM_THREADS"], settings["MALLOC_TRIM_THRESHOLD_"]) == ("3", "7")
    assert "SECRET_TOKEN" not in settings


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, {"cpus": None, "memory_bytes": None}),
        ({"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"}, {"cpus": None, "memory_bytes": None}),
        ({"a/b/cpu.max": "150000 100000\n", "a/memory.max": "1024\n"}, {"cpus": 1.5, "memory_bytes": 1024}),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, {"cpus": 2.0, "memory_bytes": None}),
        (
            {
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "4096",
            },
            {"cpus": 0.5, "memory_bytes": 4096},
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"},
            {"cpus": None, "memory_bytes": None},
        ),
    ],
)
def test_the_least_limit_of_a_control_group_and_its_ancestors_counts(tmp_path, files, limits):
    process = written(tmp_path, {"self": "0::/a/b\n"}) / "self"
    assert cgroup(written(tmp_path / "cgroup", files), process) == limits


def test_a_case_is_bound_to_the_last_cores_one_of_each_before_their_siblings(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert [cores_for(threads, tmp_path) for threads in (1, 2, 3, 4, 5)] == [[3], [2, 3], [1, 2, 3], [0, 1, 2, 3], None]


def test_energy_is_summed_over_packages_and_null_where_it_cannot_be_read(tmp_path):
    assert energy_j(tmp_path) is None
    for package, microjoules in (("intel-rapl:0", "1500000"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "9")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "energy_uj").write_text(microjoules)
    assert energy_j(tmp_path) == 2.0


def test_memory_is_what_the_machine_has_left_or_the_control_group_allows(monkeypatch):
    assert 0 < available_bytes() <= psutil.virtual_memory().total
    monkeypatch.setattr("bench.machine.cgroup", lambda: {"cpus": None, "memory_bytes": 1e6})
    assert available_bytes() == 1e6


def test_the_fingerprint_is_the_same_from_run_to_run_whatever_the_versions_and_settings():
    facts = describe()
    again = facts | {"versions": {}, "settings": {"OMP_NUM_THREADS": "1"}, "governor": "performance", "python": "9"}
    assert fingerprint(facts, "id") == fingerprint(again, "id")
    assert describe()["fingerprint"] == facts["fingerprint"]
    assert re.fullmatch("[0-9a-f]{12}", facts["fingerprint"])


@pytest.mark.parametrize("other", [{"cpu": "Another"}, {"isa": ["avx2"]}, {"cores_physical": 99}, {"ram_bytes": 2**40}])
def test_machines_that_differ_have_other_fingerprints(other):
    facts = describe()
    assert fingerprint(facts | other, "id") != fingerprint(facts, "id")
    assert fingerprint(facts, "another") != fingerprint(facts, "id")
