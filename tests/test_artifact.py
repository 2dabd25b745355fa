"""Claims about the store of what was built."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil

import pytest

from bench.errors import BenchWarning, CacheError
from bench.store import MANIFEST, Store, Used, key

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

    from bench import engines
    from bench.build import keys

    covered = []
    monkeypatch.setattr(keys, "source_digest", lambda path: covered.append(Path(path).name) or "digest")
    keys.class_digest(engines.get("executorch"))
    assert {"executorch.py", "equivalents.py", "pt2e.py", "engine.py"} <= set(covered)
    assert "openvino.py" not in covered
    covered.clear()
    keys.class_digest(engines.get("torch"))
    assert {"torch.py", "torch_quantization.py", "torch_modules.py", "attention.py", "open_attention.py"} <= set(
        covered
    )


def test_what_was_used_only_while_it_was_made_is_in_its_address_from_then_on(tmp_path):
    store, helper, built = Store(tmp_path / "cache"), tmp_path / "helper.txt", []

    def make(folder):
        built.append(helper.read_text())
        (folder / "a.bin").write_text(helper.read_text())
        return Used({helper})

    for text in ("one", "two", "one", "two"):
        helper.write_text(text)
        assert (store.find("artifact", FACTS, tmp_path) is None) == (text not in built)
        found = store.get("artifact", FACTS, make, tmp_path)
        assert (found.folder / "a.bin").read_text() == text
        assert store.find("artifact", FACTS, tmp_path) == found
        os.utime(helper, ns=(len(built), len(built)))  # the clock of a file system may be coarse
    assert built == ["one", "two"]
    helper.unlink()
    assert store.find("artifact", FACTS, tmp_path) is None


def test_what_brings_more_files_with_it_leads_on_to_them(tmp_path):
    store, first, second = Store(tmp_path / "cache"), tmp_path / "first.txt", tmp_path / "second.txt"
    second.write_text("b")

    def make(folder):
        used = {first, second} if first.read_text() == "second" else {first}
        (folder / "a.bin").write_text(" ".join(sorted(file.read_text() for file in used)))
        return Used(used)

    read = []
    for text, more in (("alone", "b"), ("second", "b"), ("second", "changed")):
        first.write_text(text)
        second.write_text(more)
        read.append((store.get("artifact", FACTS, make, tmp_path).folder / "a.bin").read_text())
    assert read == ["alone", "b second", "changed second"]


def test_an_entry_that_vanishes_while_it_is_read_is_none(tmp_path, monkeypatch):
    from bench import store as artifact

    store = Store(tmp_path)
    built = store.get("artifact", FACTS, write_two_files)
    whole = artifact._facts

    def vanishing(folder):
        shutil.rmtree(built.folder, ignore_errors=True)  # another session finds it damaged
        return whole(folder) if folder.is_dir() else {"a.bin": (artifact.file_digest(folder / "a.bin"), 0)}

    monkeypatch.setattr(artifact, "_facts", vanishing)
    assert store.find("artifact", FACTS) is None


def test_what_another_session_has_built_anew_is_not_removed(tmp_path, monkeypatch):
    from bench import store as artifact

    store = Store(tmp_path)
    built = store.get("artifact", FACTS, write_two_files)
    (built.folder / "a.bin").write_bytes(b"damaged")
    examine, seen = artifact._examined, []

    def slow(folder):
        said = examine(folder)
        if not seen:
            seen.append(said)
            (built.folder / "a.bin").write_bytes(b"one")  # as the other session builds it meanwhile
        return said

    monkeypatch.setattr(artifact, "_examined", slow)
    assert store.find("artifact", FACTS) == built


def test_a_damaged_entry_in_the_hands_of_another_session_is_left_to_it(tmp_path):
    from filelock import FileLock

    store = Store(tmp_path)
    built = store.get("artifact", FACTS, write_two_files)
    (built.folder / "a.bin").write_bytes(b"damaged")
    with FileLock(f"{built.folder}.lock"):
        assert store.find("artifact", FACTS) is None
        assert built.folder.is_dir()


def test_what_dead_processes_left_half_built_is_cleared_and_what_others_build_is_not(tmp_path):
    from filelock import FileLock

    kind = tmp_path / "artifact"
    names = [f".building-{'0' * 32}-x", f".damaged-{'1' * 32}-x", f".building-{'2' * 32}-x", ".building-of_old", ".new"]
    for name in names:
        (kind / name).mkdir(parents=True)
    os.utime(kind / ".building-of_old", (0, 0))
    with FileLock(kind / f"{'2' * 32}.lock"):
        built = Store(tmp_path).get("artifact", FACTS, write_two_files)
    left = {path.name for path in kind.iterdir() if path.is_dir()}
    assert left == {names[2], ".new", built.folder.name}
