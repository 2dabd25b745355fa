"""Network files as tests: `pytest theirs.onnx` measures the file."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import BenchError, DataError
from bench.plugin.options import FILES, NETWORKS, REFUSED, folder_of
from bench.spec.case import Axes, Grid
from bench.spec.network import FORMATS, format_of

PRECISIONS = ("fp32", "int8_dynamic", "int8_static")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect network files that are named on the command line, or lie in a folder named there that has no tests."""
    config = parent.config
    if file_path.suffix not in FORMATS or not _is_asked(file_path, config) or not _is_network(file_path):
        return None
    from bench.store import MANIFEST

    if (file_path.parent / MANIFEST).is_file():  # an entry of the harness's own cache
        return None
    made: pytest.Collector = NetworkFileTests.from_parent(parent, path=file_path)
    return made


def _is_asked(file: Path, config: pytest.Config) -> bool:
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return False
    for argument in config.args:
        place = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if place == file.resolve():
            return True
        if place in file.resolve().parents and not _has_tests(place):
            return True
    return False


@functools.cache
def _has_tests(folder: Path) -> bool:
    return any(folder.rglob("test_*.py"))


def _is_network(file: Path) -> bool:
    """Whether a file with a network's ending is one: other programs write .xml, too."""
    if file.suffix != ".xml":
        return True
    with file.open("rb") as opened:
        return b"<net " in opened.read(512)


def named_tests(session: pytest.Session) -> Iterator[pytest.Item]:
    """The tests of the networks that are named on the command line, such as hf:NAME."""
    for network, wanted in session.config.stash[NETWORKS].items():
        made: NetworkFileTests = NetworkFileTests.from_parent(session, path=session.config.rootpath / network)
        made.network = network
        for item in session.genitems(made):
            if "" in wanted or item.name in wanted:
                yield item


class NetworkFileTests(pytest.Module):
    """A network file, or a network by its name, as a module of one test with a grid; the test fails where it cannot be
    measured.
    """

    network: Path | None = None  # by its name

    def _getobj(self) -> types.ModuleType:
        module = types.ModuleType(self.path.stem)
        try:
            vars(module)["network"] = self._measured()
        except BenchError as error:
            self.config.stash[REFUSED].append(str(error))
            vars(module)["network"] = _failing(str(error))
        return module

    def funcnamefilter(self, name: str) -> bool:
        """Only the test of the network."""
        return name == "network"

    def classnamefilter(self, name: str) -> bool:
        """No classes."""
        return False

    def _measured(self) -> object:
        from bench.build.file_inputs import RealInputs
        from bench.build.network_files import given_files, model_name, taken
        from bench.engines import engines, engines_on, native_to

        config, file = self.config, self.network or self.path.resolve()
        place, preprocess = folder_of(config, "inputs"), config.option.bench_preprocess
        if preprocess is not None and place is None:
            raise DataError("--bench-preprocess makes inputs of pictures: name their folder by --bench-inputs")
        inputs = None if place is None else RealInputs.at(place, preprocess, config.invocation_params.dir)
        registered = config.stash[FILES]
        shapes, name = config.option.bench_shape or [], model_name(file)
        made = given_files(file, shapes, inputs, name)
        if taken(made, registered):
            made = given_files(file, shapes, inputs, f"{model_name(file.parent)}_{name}")
        if names := taken(made, registered):
            raise DataError(f"{file} would be the model {names[0]}, and another model has that name: rename the file")
        for given in made:
            given.register()
            registered[given.name] = given
        given_already, format = made[0].quantized, format_of(file)
        native = native_to(format)
        baseline: Axes = {"engine": native, "precision": "as_given" if given_already else "fp32"}
        grid = Grid(
            [given.name for given in made],
            "as_given" if given_already else PRECISIONS,
            [engine for engine in engines_on("cpu") if format in engines.get(engine).reads],
            baseline=baseline,
        )

        @pytest.mark.grid(grid)
        def network(case, measure):  # type: ignore[no-untyped-def]  # pytest's fixtures
            measure(case)

        return network


def _failing(reason: str) -> object:
    def network() -> None:
        pytest.fail(reason, pytrace=False)

    return network
