"""Claims about the store of what was built."""

import errno
import hashlib
import json
import multiprocessing
import os

import pytest

from bench.artifact import MANIFEST, Store, key
from bench.errors import BenchWarning, CacheError

FACTS = {"engine": "toy", "versions": {"toy": "1.0"}, "seed": 0}


def write_two_files(folder):
    (folder / "a.bin").write_bytes(b"one")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.bin").write_bytes(b"three")


def never(folder):
    raise AssertionError("built although it was there")


def test_what_was_built_once_is_found_and_not_built_again(tmp_path):
    store = Store(tmp_path)
    assert store.find("artifact", FACTS) is None
    built = store.get("artifact", FACTS, write_two_files)
    assert store.get("artifact", FACTS, never) == built == store.find("artifact", FACTS)
    assert built.bytes == len(b"one") + len(b"three")


def test_the_digest_is_of_names_and_contents_alone(tmp_path):
    built = Store(tmp_path).get("artifact", FACTS, write_two_files)
    other = Store(tmp_path / "elsewhere").get("artifact", FACTS | {"seed": 1}, write_two_files)
    text = "".join(f"{n}\0{hashlib.sha256(c).hexdigest()}\n" for n, c in [("a.bin", b"one"), ("sub/b.bin", b"three")])
    assert built.digest == other.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("change", [{"seed": 1}, {"versions": {"toy": "1.1"}}, {"engine": "toy2"}, {"more": None}])
def test_any_fact_that_differs_is_another_address(change):
    assert key(FACTS | change) != key(FACTS) == key(dict(reversed(FACTS.items())))


def damage_by_a_changed_byte(folder):
    (folder / "a.bin").write_bytes(b"onE")


def damage_by_truncation(folder):
    (folder / "sub" / "b.bin").write_bytes(b"thr")


def damage_by_removal(folder):
    (folder / "a.bin").unlink()


def damage_by_addition(folder):
    (folder / "c.bin").write_bytes(b"")


def damage_of_the_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:20])


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again_with_a_warning(tmp_path, damage):
    store = Store(tmp_path)
    whole = store.get("artifact", FACTS, write_two_files)
    damage(whole.folder)
    with pytest.warns(BenchWarning, match=r"is damaged \(.*\); it is built again"):
        again = store.get("artifact", FACTS, write_two_files)
    assert again == whole
    assert sorted(path.name for path in whole.folder.parent.iterdir() if path.is_dir()) == [whole.folder.name]


def test_a_build_that_breaks_leaves_nothing_behind(tmp_path):
    store = Store(tmp_path)

    def broken(folder):
        write_two_files(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.get("artifact", FACTS, broken)
    assert store.find("artifact", FACTS) is None
    assert [path.suffix for path in (tmp_path / "artifact").iterdir()] == [".lock"]


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path):
    def full(folder):
        write_two_files(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CacheError, match=r"cannot write the cache at .*the disk is full.*--bench-cache"):
        Store(tmp_path).get("artifact", FACTS, full)
    assert Store(tmp_path).find("artifact", FACTS) is None


def test_a_cache_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheError, match=r"cannot write the cache at .*choose another by --bench-cache"):
        Store(tmp_path / "cache").get("artifact", FACTS, write_two_files)


def _get_and_count(root, index, counts):
    def counted(folder):
        counts.put(index)
        write_two_files(folder)

    Store(root).get("artifact", FACTS, counted)


def test_sessions_that_want_the_same_at_once_build_it_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    counts = spawn.Queue()
    processes = [spawn.Process(target=_get_and_count, args=(tmp_path, index, counts)) for index in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    counts.get(timeout=10)
    assert counts.empty()


def test_the_manifest_tells_what_an_artefact_was_made_from(tmp_path):
    built = Store(tmp_path).get("artifact", FACTS, write_two_files)
    assert json.loads((built.folder / MANIFEST).read_text())["made_from"] == FACTS


def test_the_key_of_an_engines_artefact_covers_what_it_takes_from_its_neighbours(monkeypatch):
    from pathlib import Path

    from bench import build, engines

    covered = []
    monkeypatch.setattr(build, "source_digest", lambda path: covered.append(Path(path).name) or "digest")
    build._source_digest(engines.get("executorch"))
    assert {"executorch.py", "equivalents.py", "pt2e.py", "__init__.py"} <= set(covered)
    assert "openvino.py" not in covered
