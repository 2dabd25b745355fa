"""Claims about the tables of members."""

import importlib

import pytest

from bench import engines
from bench.errors import UnknownMember
from bench.registry import Origin, Registry


def test_an_unknown_member_is_named_with_those_there_are():
    with pytest.raises(UnknownMember, match="no engine is named 'onnx'; registered: torch, torchscript, inductor"):
        engines.get("onnx")


def test_an_empty_registry_says_none():
    with pytest.raises(UnknownMember, match="registered: none"):
        Registry("metric").get("x")


def test_a_member_given_as_text_is_imported_when_first_asked_for():
    registry = Registry("thing")
    registry.add("case", "bench.case:Case")
    from bench.case import Case

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
