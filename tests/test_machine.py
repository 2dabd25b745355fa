"""Claims about the facts of the machine."""

import json
import os
import platform

import psutil
import pytest

from bench.isa import cpu_flags
from bench.machine import cgroup, describe


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
