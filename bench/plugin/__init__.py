"""The thin interface to pytest: its hooks, and the fixture `measure`."""

from bench.plugin.cases import (
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_report_collectionfinish,
)
from bench.plugin.files import pytest_collect_file
from bench.plugin.options import pytest_addoption, pytest_configure
from bench.plugin.running import (
    measure,
    pytest_collection_finish,
    pytest_runtest_makereport,
    pytest_runtestloop,
    pytest_sessionfinish,
    shared,
)
from bench.plugin.saving import (
    pytest_benchmark_update_json,
    pytest_benchmark_update_machine_info,
    pytest_terminal_summary,
)

__all__ = [
    "measure",
    "pytest_addoption",
    "pytest_benchmark_update_json",
    "pytest_benchmark_update_machine_info",
    "pytest_collect_file",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_report_collectionfinish",
    "pytest_runtest_makereport",
    "pytest_runtestloop",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "shared",
]
