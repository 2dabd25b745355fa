"""Claims about what an import costs."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pandas", "onnxruntime", "openvino")


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_importing_bench_loads_neither_torch_nor_numpy_nor_pytest():
    assert not {*HEAVY, "pytest"} & set(loaded_by("import bench"))


@pytest.mark.parametrize("module", ["bench.plugin", "bench.measure", "fixtures.models", "fixtures.data"])
def test_what_every_pytest_run_imports_loads_no_framework(module):
    assert not {*HEAVY} & set(loaded_by(f"import {module}"))


def test_asking_all_engines_whether_they_can_loads_no_framework():
    statement = """
from bench import engines, recipes
for engine in engines.names():
    for recipe in recipes.names():
        engines.get(engine).supports(recipes.get(recipe), 'cpu')
"""
    assert not {*HEAVY} & set(loaded_by(statement))
