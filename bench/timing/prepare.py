"""Builds what a run's cases lack before the first case is measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from bench.errors import BenchError, CacheError
from bench.spec.case import Case
from bench.timing.builder import Builder, environment_of, find, stage_of
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported


def prepare(cases: Iterable[Case], bench: Bench, told: Callable[[str, int, int], None] | None = None) -> None:
    """Build what the cases lack, in one worker process after another; nothing is built while something is timed.

    Reference outputs come first, then artefacts, grouped by the environment of their engines. A case that cannot be
    built is skipped; `bench.failures` keeps the error, and `measure` puts it in the record. CacheError is raised.

    told  gets (label, done, total) as the work goes on.
    """
    wanted = dict.fromkeys(replace(case, batch=1, threads=1) for case in cases if unsupported(case, bench) is None)
    missing = [case for case in wanted if find(case, bench) is None]
    stages = {stage_of(case, bench): case for case in missing}
    alike: dict[tuple[tuple[str, str], ...], list[Case]] = {}
    for case in missing:
        environment = environment_of(case, bench, os.cpu_count() or 1)
        alike.setdefault(tuple(sorted(environment.items())), []).append(case)
    with Builder(bench, told) as builder:
        steps: list[tuple[str, Callable[[Case], Any], Case]] = [
            (f"reference outputs of {' after '.join(stage)}", builder.refer, case) for stage, case in stages.items()
        ]
        steps += [
            (f"building {case.model} {case.precision} for {case.engine}", builder.build, case)
            for cases_alike in alike.values()
            for case in cases_alike
        ]
        for done, (label, make, case) in enumerate(steps):
            if told is not None:
                told(label, done, len(steps))
            try:
                make(case)
            except CacheError:
                raise
            except BenchError:
                continue  # bench.failures has it
    if told is not None and missing:
        told("built", len(steps), len(steps))
