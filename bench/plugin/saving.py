"""What a session saves and shows at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.plugin.options import RECORDS


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add the facts of the machine that ran the benchmarks."""
    from bench.machine.facts import describe

    machine_info["bench"] = dataclasses.asdict(describe())


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the cases without a benchmark: unsupported or failed."""
    from bench.records.schema import SCHEMA

    records = config.stash[RECORDS].values()
    lost = [record.saved() for record in records if record.status != "ok" and not record.samples_s]
    output_json["bench"] = {"schema": SCHEMA, "cases": lost}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the tables of this run and write them to the reports folder."""
    records = config.stash[RECORDS].values()
    if not records:
        return

    from bench.report import summary

    terminalreporter.section("benchmarks")
    try:
        text, path = summary.session(list(records), Path(config.rootpath / config.option.bench_reports))
    except BenchError as error:  # a bad table definition; the measurements are saved all the same
        terminalreporter.write_line(f"bench: no report: {error}", red=True)
        return
    terminalreporter.write_line(text)
    if config.option.bench_resume and not any(record.resumed for record in records):
        terminalreporter.write_line(
            "nothing was resumed: no interrupted run of this code, machine and options has finished these cases"
        )
    terminalreporter.write_line(f"written to {path}")
