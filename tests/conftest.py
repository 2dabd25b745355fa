"""What several tests are given."""

import os
from pathlib import Path

import pytest

from bench.errors import DataError
from bench.spec.model import models, source

for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
    os.environ.pop(name, None)  # sessions that tests start are not this one's workers


@pytest.fixture(scope="session")
def real_data():
    """The folder that BENCH_DATA names, with CIFAR-10 and the published weights; without it the test is skipped."""
    named = os.environ.get("BENCH_DATA")
    if not named:
        pytest.skip("needs real data: BENCH_DATA names no folder")
    folder = Path(named).expanduser()
    try:
        source(models.get("resnet20"), folder)
    except DataError as error:
        pytest.skip(f"needs real data: {error}")
    return folder
