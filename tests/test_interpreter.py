"""Claims about the other environment that baselines may run in."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from toy import CONFTEST

import bench
from bench import Case
from bench.errors import BaselineError
from bench.machine.interpreter import Interpreter
from bench.timing.baseline import examined
from bench.timing.settings import Bench

SUITE = """
import pytest
from bench import Grid

@pytest.mark.grid(Grid("linear", "fp32", "toy", baseline={"engine": "toy"}))
def test_linear(case, measure):
    measure(case)
"""
LIBRARIES = Path(pytest.__file__).parents[1]
ENTRY_POINTS = "[pytest11]\nbench = bench.plugin\n"


def environment(folder, versions):
    """An environment with this one's libraries, but those of which it is told other versions; its site-packages."""
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for path in LIBRARIES.iterdir():
        if path.name.partition("-")[0] not in {*versions, "bench_harness", "__editable__.bench_harness"}:
            (site / path.name).symlink_to(path)
    for name, version in versions.items():
        if (LIBRARIES / name).is_dir():
            (site / name).symlink_to(LIBRARIES / name)
        place = site / f"{name}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return site


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Run pytest in an environment that this harness was installed into, beside another with an older numpy."""
    for name in ("BENCH_DATA", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    site, other = environment(tmp_path / "here", {}), environment(tmp_path / "there", {"numpy": "0.0.1"})
    shutil.copytree(Path(bench.__file__).parent, site / "bench")
    told = site / "bench_harness-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-harness\nVersion: 1\n")
    (told / "entry_points.txt").write_text(ENTRY_POINTS)
    project = tmp_path / "project"
    project.mkdir()
    (project / "conftest.py").write_text(CONFTEST)
    (project / "test_linear.py").write_text(SUITE)

    def run(**variables):
        command = [tmp_path / "here" / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "--bench-quick"]
        options = [f"--bench-baseline-python={tmp_path / 'there' / 'bin' / 'python'}", "--benchmark-json=run.json"]
        settings = os.environ | {"BENCH_CACHE": str(tmp_path / "cache")} | variables
        return subprocess.run([*command, *options], cwd=project, env=settings, capture_output=True, text=True)

    return run, project, site, other


def test_a_baseline_has_its_own_libraries_where_the_harness_was_installed_beside_this_ones(installed):
    run, project, _, _ = installed
    result = run()
    assert result.returncode == 0, result.stdout + result.stderr
    (told,) = (entry["extra_info"] for entry in json.loads((project / "run.json").read_text())["benchmarks"])
    assert told["speedup"]["baseline"]["versions"]["numpy"] == "0.0.1"
    assert told["process"]["versions"]["numpy"] == importlib.metadata.version("numpy")


def test_a_baseline_that_finds_this_environments_libraries_is_refused_before_anything_is_measured(installed):
    run, project, site, _ = installed
    result = run(PYTHONPATH=str(site))
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("ERROR"))
    assert "finds numpy of the engine toy in this environment" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert not (project / "run.json").exists()


@pytest.mark.parametrize(
    ("python", "reason"),
    [("/nowhere/bin/python", "No such file or directory"), (shutil.which("false"), "exited with status 1")],
)
def test_an_interpreter_that_cannot_run_the_harness_is_refused_with_the_reason(tmp_path, python, reason):
    with pytest.raises(BaselineError, match=f"interpreter {python} cannot run the harness: .*{reason}"):
        examined(python, [Case("m", "fp32", "torch")], Bench(tmp_path))


def test_an_interpreter_tells_versions_and_places_of_what_it_has():
    here = Interpreter.here(["numpy", "no-such-library"])
    assert here.versions == {"numpy": importlib.metadata.version("numpy")}
    assert here.places == {"numpy": str(LIBRARIES.resolve())}
