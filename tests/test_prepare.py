"""Claims about what is built before anything is measured: in which environment, and how often what fails is tried."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.engines import engines
from bench.engines.engine import Engine
from bench.errors import BuildError, DataError, Unsupported
from bench.measure import measure
from bench.spec.case import Case
from bench.spec.dataset import Dataset, Samples, datasets
from bench.spec.model import Model, Weights, models
from bench.timing import builder
from bench.timing.builder import built_by
from bench.timing.prepare import prepare
from bench.timing.protocol import Built
from bench.timing.settings import Bench


class Plain(Engine):
    formats = ("fp32", "int8")
    activations = ("static",)

    def supports(self, recipe, device):
        return None

    def build(self, network, recipe, samples, folder):
        raise NotImplementedError

    def load(self, folder, recipe, network, example, threads):
        raise NotImplementedError


class Other(Plain):
    def environment(self, threads):
        return super().environment(threads) | {"OTHER": "1"}


CASES = [
    Case(model, precision, engine)
    for model in ("one_model", "two_model")
    for precision in ("fp32", "int8_static")
    for engine in ("plain", "other")
]


@pytest.fixture
def asked(monkeypatch):
    """The questions that stand-ins for workers are asked: (question, model, engine, precision, environment, worker)."""
    questions, workers = [], []

    class Stand:
        def __init__(self, environment):
            workers.append(self)
            self.environment, self.number = environment, len(workers)

        def ask(self, question, timeout_s, busy=1):
            case, name = question.target.case, question.name
            questions.append((name, case.model, case.engine, case.precision, self.environment, self.number))
            fault = FAULTS.get((name, case.model)) or FAULTS.get((name, case.engine))
            if fault is not None:
                raise fault
            return Built(Path(), Path())

        def close(self):
            pass

    def worker_for(case, bench, threads, told=None, python=sys.executable):
        return Stand(engines.get(case.engine).environment(threads))

    monkeypatch.setattr(builder, "worker_for", worker_for)
    for registry in (models, datasets, engines):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    datasets.add("ones", Dataset("ones", "ones", lambda split, folder: Samples(np.ones((4, 8)), np.zeros(4))))
    for name in ("one_model", "two_model"):
        models.add(name, Model(name, "features", lambda: None, (Weights("as built", "ones"),)))
    engines.add("plain", Plain())
    engines.add("other", Other())
    return questions


FAULTS: dict = {}


@pytest.fixture(autouse=True)
def no_faults():
    FAULTS.clear()
    yield
    FAULTS.clear()


def test_each_engine_builds_in_its_own_environment_and_references_in_pytorchs(asked, tmp_path):
    prepare(CASES, Bench(tmp_path))
    built = [question for question in asked if question[0] == "build"]
    assert {question[1:4] for question in built} == {(case.model, case.engine, case.precision) for case in CASES}
    assert {(engine, environment.get("OTHER")) for _, _, engine, _, environment, _ in built} == {
        ("plain", None),
        ("other", "1"),
    }
    referred = [question for question in asked if question[0] == "refer"]
    assert [(model, environment.get("OTHER")) for _, model, _, _, environment, _ in referred] == [
        ("one_model", None),
        ("two_model", None),
    ]
    assert max(question[-1] for question in asked) == 2  # one process for each environment


def test_a_model_that_cannot_be_built_is_tried_once(asked, tmp_path):
    FAULTS["refer", "one_model"] = DataError("the file is broken")
    bench = Bench(tmp_path)
    prepare(CASES, bench)
    for case in CASES[:4]:
        with pytest.raises(DataError, match="the file is broken"):
            built_by(case, bench)
        record = measure(case, bench)
        assert (record.status, record.reason) == ("failed", "the file is broken")
    assert [question[:2] for question in asked].count(("refer", "one_model")) == 1
    assert not [question for question in asked if question[:2] == ("build", "one_model")]
    assert len([question for question in asked if question[:2] == ("build", "two_model")]) == 4
    assert max(question[-1] for question in asked) == 2  # a file that is refused costs no process


@pytest.mark.parametrize(("kind", "status"), [(Unsupported, "unsupported"), (BuildError, "failed")])
def test_an_artefact_that_cannot_be_built_is_tried_once_and_stays_what_it_was(asked, tmp_path, kind, status):
    FAULTS["build", "plain"] = kind("no kernel")
    bench = Bench(tmp_path)
    prepare(CASES[:2], bench)
    record = measure(CASES[0], bench)
    assert (record.status, record.reason) == (status, "no kernel")
    assert [question[:3] for question in asked].count(("build", "one_model", "plain")) == 1
    assert [question[:3] for question in asked].count(("build", "one_model", "other")) == 1


def test_another_session_tries_again(asked, tmp_path):
    FAULTS["refer", "one_model"] = DataError("the file is broken")
    prepare(CASES[:1], Bench(tmp_path))
    prepare(CASES[:1], Bench(tmp_path))
    assert [question[0] for question in asked] == ["refer", "refer"]
