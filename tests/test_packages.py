"""Claims about packages that are not installed."""

import importlib.metadata
from pathlib import Path

import pytest

from bench import Dataset, Model, Samples, Weights, datasets, engines, models, recipes
from bench.build.networks import architecture
from bench.errors import Unsupported
from bench.spec import packages
from bench.spec.case import Case
from bench.spec.model import source
from bench.spec.packages import lacking
from bench.timing.settings import Bench
from bench.timing.unsupported import unsupported


@pytest.fixture
def without(monkeypatch):
    """Make distributions look as if they were not installed."""
    known = importlib.metadata.distribution

    def hide(*names):
        def distribution(name):
            if name in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return known(name)

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)

    return hide


def test_what_is_installed_lacks_nothing():
    assert lacking(["numpy", "pytest"]) is None


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("openvino", "openvino"),
        ("executorch", "executorch"),
        ("timm", "hub"),
        ("torchao", "inductor"),
        ("pooch", "documents"),
    ],
)
def test_a_package_that_an_extra_brings_names_the_extra(package, extra, without):
    without(package)
    assert lacking(["numpy", package]) == f"package {package} is not installed; pip install 'bench-harness[{extra}]'"


def test_of_several_extras_the_one_that_brings_most_of_what_is_missing_is_named(without):
    without("timm", "pooch", "transformers")
    assert "'bench-harness[documents]'" in lacking(["timm", "pooch"])
    assert "'bench-harness[hub]'" in lacking(["timm", "transformers"])


def test_a_package_that_nothing_brings_is_named_itself(without, monkeypatch):
    assert lacking(["no-such-thing"]) == "package no-such-thing is not installed; pip install no-such-thing"
    without("openvino")
    monkeypatch.setattr(packages, "HARNESS", "not-installed-either")
    assert lacking(["openvino"]) == "package openvino is not installed; pip install openvino"


def test_the_data_sets_packages_are_asked_for(without, monkeypatch):
    name = "of_a_missing_package"
    for registry in (models, datasets):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    datasets.add(name, Dataset(name, "", lambda split, folder: Samples([], []), packages=("timm", "pooch")), __name__)
    models.add(name, Model(name, "classification", None, (Weights("as built", name),)), __name__)
    case = Case(name, "fp32", "torch", 1, 1)
    bench = Bench(Path("cache"))
    assert unsupported(case, bench) is None
    without("timm", "pooch")
    assert "'bench-harness[documents]'" in unsupported(case, bench)


def test_a_network_of_a_package_that_is_not_there_is_unsupported(monkeypatch):
    def network():
        import no_such_module.inside  # noqa: F401

    monkeypatch.setattr(models, "_members", dict(models._members))
    monkeypatch.setattr(datasets, "_members", dict(datasets._members))
    datasets.add("none", Dataset("none", "", lambda split, folder: Samples([], [])), __name__)
    models.add("of_nothing", Model("of_nothing", "classification", network, (Weights("as built", "none"),)), __name__)
    with pytest.raises(Unsupported, match="package no-such-module is not installed"):
        architecture(source(models.get("of_nothing"), None))


def test_int8_of_inductor_needs_torchao_and_fp32_does_not(without):
    without("torchao")
    inductor = engines.get("inductor")
    assert inductor.supports(recipes.get("fp32"), "cpu") is None
    assert "'bench-harness[" in inductor.supports(recipes.get("int8_static"), "cpu")
    assert inductor.settings()["quantizer"] == "no torchao"


def test_the_extra_all_brings_every_other():
    requires = importlib.metadata.requires("bench-harness")
    extras = set(importlib.metadata.metadata("bench-harness").get_all("Provides-Extra")) - {"all", "mobile"}
    (line,) = [line for line in requires if line.endswith('extra == "all"')]
    assert extras == set(line.partition("[")[2].partition("]")[0].split(","))
