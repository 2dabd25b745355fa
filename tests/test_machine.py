"""Claims about the facts of the machine."""

import json
import os
import platform
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import psutil
import pytest

from bench.machine import isa
from bench.machine.facts import Limits, available_bytes, cgroup, cores_for, describe, energy_j, fingerprint
from bench.machine.isa import cpu_flags


def test_the_facts_are_strict_json_and_agree_with_a_second_source():
    facts = json.loads(json.dumps(asdict(describe()), allow_nan=False))
    assert facts["ram_bytes"] == psutil.virtual_memory().total
    assert facts["cores_logical"] == os.cpu_count()
    assert facts["python"] == platform.python_version()
    assert set(facts["isa"]) <= cpu_flags()


@pytest.mark.parametrize(
    ("processor", "flags", "saturates"),
    [
        ("x86_64", {"avx2"}, True),
        ("AMD64", {"avx2", "avx512f"}, True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512f", "avx512_vnni"}, False),
        ("aarch64", {"asimd"}, False),
    ],
)
def test_8_bit_sums_saturate_on_x86_without_vnni_alone(processor, flags, saturates, monkeypatch):
    monkeypatch.setattr(isa.platform, "machine", lambda: processor)
    monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset(flags))
    assert isa.saturates() is saturates


def test_two_descriptions_of_one_machine_are_equal():
    assert describe() == describe()


def test_versions_are_those_installed_and_null_where_absent():
    import numpy as np
    import torch

    versions = describe().versions
    assert versions["numpy"] == np.__version__
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__


def test_thread_and_allocator_settings_are_on_record(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    settings = describe().settings
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
    assert cgroup(written(tmp_path / "cgroup", files), process) == Limits(**limits)


def test_a_case_is_bound_to_the_last_cores_one_of_each_before_their_siblings(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert [cores_for(threads, tmp_path) for threads in (1, 2, 3, 4, 5)] == [
        (3,),
        (2, 3),
        (1, 2, 3),
        (0, 1, 2, 3),
        None,
    ]


def test_energy_is_summed_over_packages_and_null_where_it_cannot_be_read(tmp_path):
    assert energy_j(tmp_path) is None
    zones = {
        "intel-rapl:0": ("package-0", "1500000"),
        "intel-rapl:1": ("package-1", "500000"),
        "intel-rapl:10": ("package-2-die-1", "250000"),
        "intel-rapl:0:0": ("core", "900000"),
        "intel-rapl:0:1": ("dram", "70000"),
        "intel-rapl:2": ("psys", "9000000"),  # the whole platform: contains the packages
        "intel-rapl-mmio:0": ("package-0", "1500000"),  # the same package by another way
    }
    for zone, (name, microjoules) in zones.items():
        written(tmp_path, {f"{zone}/name": f"{name}\n", f"{zone}/energy_uj": f"{microjoules}\n"})
    assert energy_j(tmp_path) == 2.25
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert energy_j(tmp_path) is None


def test_a_platform_that_tells_of_no_package_tells_no_energy(tmp_path):
    written(tmp_path, {"intel-rapl:0/name": "psys", "intel-rapl:0/energy_uj": "5"})
    assert energy_j(tmp_path) is None


GIB = 2**30


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"a/b/memory.max": f"{4 * GIB}", "a/b/memory.current": f"{3 * GIB}"}, 1 * GIB),
        (
            {
                "a/b/memory.max": f"{4 * GIB}",
                "a/b/memory.current": f"{3 * GIB}",
                "a/b/memory.stat": f"anon 5\ninactive_file {2 * GIB}\nactive_file 9\n",
            },
            3 * GIB,
        ),
        (
            {
                "a/b/memory.max": f"{4 * GIB}",
                "a/b/memory.current": f"{1 * GIB}",
                "a/memory.max": f"{8 * GIB}",
                "a/memory.current": f"{7 * GIB + GIB // 2}",  # brothers of the group use it up
            },
            GIB // 2,
        ),
        ({"a/b/memory.max": "max", "a/b/memory.current": f"{3 * GIB}"}, 100 * GIB),
        ({"a/b/memory.max": f"{2 * GIB}", "a/b/memory.current": f"{3 * GIB}"}, 0),
        (
            {
                "memory/c/memory.limit_in_bytes": f"{6 * GIB}",
                "memory/c/memory.usage_in_bytes": f"{5 * GIB}",
                "memory/c/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            2 * GIB,
        ),
        (
            {"memory/memory.limit_in_bytes": f"{6 * GIB}", "memory/memory.usage_in_bytes": f"{5 * GIB}"},
            1 * GIB,
        ),
        ({"a/b/memory.max": "odd\n", "a/b/memory.current": "?", "a/b/memory.stat": "\n\nodd"}, 100 * GIB),
    ],
)
def test_memory_is_what_the_machine_or_any_control_group_has_left(tmp_path, monkeypatch, files, left):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100 * GIB))
    process = written(tmp_path, {"self": "4:memory:/c\n0::/a/b\n"}) / "self"
    assert available_bytes(written(tmp_path / "cgroup", files), process) == left


def test_memory_of_this_machine_is_no_more_than_it_has():
    assert 0 < available_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize("text", ["", "max", "x y", "1 0", "-5 100000", "-1"])
def test_files_of_a_control_group_that_tell_nothing_limit_nothing(tmp_path, text):
    files = dict.fromkeys(("cpu.max", "memory.max", "cpu/cpu.cfs_quota_us"), text)
    assert cgroup(written(tmp_path / "cgroup", files), tmp_path / "absent").cpus is None


def test_the_fingerprint_is_the_same_from_run_to_run_whatever_the_versions_and_settings():
    facts = describe()
    again = replace(facts, versions={}, settings={"OMP_NUM_THREADS": "1"}, governor="performance", python="9")
    assert fingerprint(facts, "id") == fingerprint(again, "id")
    assert describe().fingerprint == facts.fingerprint
    assert re.fullmatch("[0-9a-f]{12}", facts.fingerprint)


@pytest.mark.parametrize("other", [{"cpu": "Another"}, {"isa": ("sve",)}, {"cores_physical": 99}, {"ram_bytes": 2**40}])
def test_machines_that_differ_have_other_fingerprints(other):
    facts = describe()
    assert fingerprint(replace(facts, **other), "id") != fingerprint(facts, "id")
    assert fingerprint(facts, "another") != fingerprint(facts, "id")
