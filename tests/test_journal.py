"""Claims about what is kept of a run that was killed."""

import datetime
from dataclasses import replace

import pytest

from bench import Case
from bench.records.journal import Journal, read
from bench.records.record import Record

CASE = Case("m", "fp32", "toy", 4)
DONE = Record(CASE, "ok", quality={"top1": 0.5}, samples_s=(0.25, 0.5), warnings=("loud",))


def as_measured(records):
    return {node: replace(record, resumed={}) for node, record in records.items()}


def test_what_is_finished_is_found_again_as_it_was(tmp_path):
    Journal(tmp_path, {"code": 1}).write("a::b[c]", DONE)
    assert as_measured(Journal(tmp_path, {"code": 1}).finished()) == {"a::b[c]": DONE}


def test_what_is_taken_over_says_when_it_was_measured_however_often_it_is_taken_over(tmp_path):
    begun = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    Journal(tmp_path, {}).write("node", DONE)
    (first,) = Journal(tmp_path, {}).finished().values()
    at = datetime.datetime.fromisoformat(first.resumed["from"])
    assert begun <= at <= datetime.datetime.now(datetime.UTC)
    long_ago = replace(first, resumed={"from": "2020-01-01T00:00:00+00:00"})
    again = Journal(tmp_path, {})
    again.write("node", long_ago)
    assert read(again.path)[0].at >= first.resumed["from"]
    assert Journal(tmp_path, {}).finished() == {"node": long_ago}


def test_runs_of_another_code_machine_or_options_are_not_taken_over(tmp_path):
    Journal(tmp_path, {"code": 1}).write("node", DONE)
    assert Journal(tmp_path, {"code": 2}).finished() == {}


def test_a_run_that_came_to_its_end_leaves_nothing_to_take_over(tmp_path):
    journal = Journal(tmp_path, {})
    journal.write("node", DONE)
    journal.end()
    assert Journal(tmp_path, {}).finished() == {}


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_only_what_was_measured_is_taken_over(tmp_path, status):
    Journal(tmp_path, {}).write("node", Record(CASE, status, "a reason"))
    assert Journal(tmp_path, {}).finished() == {}


def test_a_line_that_was_cut_off_costs_that_line_only(tmp_path):
    journal = Journal(tmp_path, {})
    journal.write("first", DONE)
    journal.write("second", DONE)
    whole = journal.path.read_bytes()
    for end in range(whole.index(b"\n") + 2, len(whole) - 1, 7):
        journal.path.write_bytes(whole[:end])
        assert list(Journal(tmp_path, {}).finished()) == ["first"]


def test_what_two_interrupted_runs_finished_is_put_together_and_the_newer_counts(tmp_path):
    older, newer = Journal(tmp_path, {}), Journal(tmp_path, {})
    older.write("first", DONE)
    older.write("second", DONE)
    again = Record(CASE, "ok", samples_s=(1.0,))
    newer.write("second", again)
    assert as_measured(Journal(tmp_path, {}).finished()) == {"first": DONE, "second": again}


def test_a_run_of_a_part_does_not_end_one_that_had_more(tmp_path):
    whole, part = Journal(tmp_path, {}), Journal(tmp_path, {})
    whole.write("first", DONE)
    whole.write("second", DONE)
    part.write("second", DONE)
    part.end()
    assert set(Journal(tmp_path, {}).finished()) == {"first", "second"}
