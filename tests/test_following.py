"""Claims about what shapes a thing while it is made."""

from bench.build.following import following
from bench.store import Used


def followed(tmp_path, read):
    used = Used()
    with following(used, [tmp_path], set(), tmp_path / "cache"):
        read()
    return {file.name for file in used.files}


def test_a_file_that_is_read_counts_and_one_that_is_written_meanwhile_does_not(tmp_path):
    for name in ("table", "counts"):
        (tmp_path / name).write_text("1")

    def read():
        (tmp_path / "table").read_text()
        (tmp_path / "counts").write_text((tmp_path / "counts").read_text() + "1")
        (tmp_path / "made").write_text("1")
        (tmp_path / "made").read_text()

    assert followed(tmp_path, read) == {"table"}


def test_what_is_followed_inside_of_another_counts_for_both(tmp_path):
    (tmp_path / "table").write_text("1")
    inner = []
    outer = followed(tmp_path, lambda: inner.append(followed(tmp_path, (tmp_path / "table").read_text)))
    assert outer == inner[0] == {"table"}


def test_a_file_in_the_cache_does_not_count(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kept").write_text("1")
    assert followed(tmp_path, (tmp_path / "cache" / "kept").read_text) == set()
