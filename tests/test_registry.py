"""Claims about the tables of members."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

from bench import engines
from bench.errors import UnknownMember
from bench.spec.registry import Origin, Registry


def test_an_unknown_member_is_named_with_those_there_are():
    with pytest.raises(UnknownMember, match="no engine is named 'onnx'; registered: torch, torchscript, inductor"):
        engines.get("onnx")


def test_an_empty_registry_says_none():
    with pytest.raises(UnknownMember, match="registered: none"):
        Registry("metric").get("x")


def test_a_member_given_as_text_is_imported_when_first_asked_for():
    registry = Registry("thing")
    registry.add("case", "bench.spec.case:Case")
    from bench.spec.case import Case

    assert registry.get("case") is Case
    assert registry.names() == ("case",)


def test_an_origin_imports_a_module_from_its_file(tmp_path, monkeypatch):
    package = tmp_path / "somewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registers_a_member.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import somewhere.registers_a_member as module

    origin = Origin.of("somewhere.registers_a_member")
    assert (origin.root, origin.file) == (str(tmp_path), str(package / "registers_a_member.py"))
    monkeypatch.delitem(__import__("sys").modules, "somewhere.registers_a_member")
    origin.load()
    assert __import__("sys").modules["somewhere.registers_a_member"] is not module


def test_two_conftests_do_not_hide_each_other(tmp_path, monkeypatch):
    (tmp_path / "conftest_of_a_user.py").write_text("VALUE = 8\n")
    origin = Origin("conftest_of_a_user", str(tmp_path / "conftest_of_a_user.py"), str(tmp_path / "elsewhere"))
    origin.load()
    import sys

    assert sys.modules.pop("conftest_of_a_user").VALUE == 8


def test_an_origin_names_the_files_of_its_own_package_that_it_takes_functions_from(tmp_path, monkeypatch):
    package = tmp_path / "models_of_mine"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "near": "from models_of_mine.far import scale\n\ndef preprocess(): return scale()\n",
        "far": "import json\n\ndef scale(): return json\n",
        "other": "def unused(): pass\n",
        "own": "from bench import Model\nfrom models_of_mine.near import preprocess\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("models_of_mine.other")
    importlib.import_module("models_of_mine.own")
    assert Origin.of("models_of_mine.own").files() == [str(package / f"{name}.py") for name in ("far", "near", "own")]


def test_each_of_several_files_that_are_modules_of_one_name_is_loaded_once(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(sys, "loaded_here", loaded, raising=False)
    origins = []
    for team in ("alpha", "beta"):
        (tmp_path / team).mkdir()
        file = tmp_path / team / "of_a_team.py"
        file.write_text(f"import sys\nTEAM = {team!r}\nsys.loaded_here.append(TEAM)\n")
        origins.append(Origin("of_a_team", str(file), str(tmp_path / team)))
    for origin in (*origins, *origins):
        origin.load()
    assert loaded == ["alpha", "beta"]
    assert sys.modules.pop("of_a_team").TEAM == "beta"


def test_a_module_that_pytest_named_by_its_folder_is_loaded_from_its_file(tmp_path):
    place = tmp_path / "my-suite.v2"
    place.mkdir()
    (place / "registers.py").write_text("VALUE = 9\n")
    Origin("my-suite_v2.registers", str(place / "registers.py"), str(tmp_path)).load()
    assert sys.modules.pop("my-suite_v2.registers").VALUE == 9


def test_the_code_of_one_of_two_modules_of_one_name_is_not_the_others(tmp_path):
    files = []
    for team in ("alpha", "beta"):
        (tmp_path / team).mkdir()
        files.append(tmp_path / team / "of_a_team.py")
        files[-1].write_text(f"import helper_of_{team}\n")
        (tmp_path / team / f"helper_of_{team}.py").write_text("")
    sys.path[:0] = [str(file.parent) for file in files]
    try:
        for team, file in zip(("alpha", "beta"), files, strict=True):
            origin = Origin("of_a_team", str(file), str(file.parent))
            assert origin.files() == [str(file.parent / f"helper_of_{team}.py"), str(file)]
    finally:
        del sys.path[:2]


def test_workers_load_what_registered_members_in_the_order_of_registration(monkeypatch):
    from bench.spec.dataset import datasets
    from bench.spec.model import models
    from bench.tasks import tasks
    from bench.timing.builder import origins

    modules = ["json", "importlib", "pytest"]
    for registry, module in zip((tasks, datasets, models), modules, strict=True):
        for table in ("_members", "_origins", "_order"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
        registry.add("of mine", None, module)
    assert [origin.module for origin in origins()][-3:] == modules


def test_the_command_knows_what_the_conftests_of_a_team_and_above_it_register(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "team").mkdir()
    for place, name in ((tmp_path, "above"), (tmp_path / "team", "own")):
        text = f"from bench import Dataset, datasets\ndatasets.add('{name}', Dataset('{name}', '', None), __name__)\n"
        (place / "conftest.py").write_text(text)
    command = [sys.executable, "-m", "bench", "data", "list"]
    told = subprocess.check_output(command, cwd=tmp_path / "team", text=True)
    assert [line.split()[0] for line in told.splitlines()] == ["above", "own"]


def test_the_code_behind_an_entry_point_is_known_once_it_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "of_an_outsider.py").write_text("import near_an_outsider\nMEMBER = 5\n")
    (tmp_path / "near_an_outsider.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("theirs", "of_an_outsider:MEMBER", "bench.things")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    registry = Registry("thing")
    assert registry.get("theirs") == 5
    names = ("near_an_outsider.py", "of_an_outsider.py")
    assert registry.origin("theirs").files() == [str(tmp_path / name) for name in names]
    assert registry.origins() == {}  # a worker finds it as this process did
