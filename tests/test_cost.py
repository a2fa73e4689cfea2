"""What a run cost, over the processes that took it up."""

import json

import pytest

from popcorn.utils import usage


@pytest.fixture
def earlier(tmp_path):
    """A run's folder in which a process before this one was at work, longer and with more memory than any test takes."""
    (tmp_path / usage.COST).write_text('{"2026-11-26T18:00:00": {"seconds": 1e6, "peak_memory": 1e15}}')
    return tmp_path


def test_processes_before_are_counted_and_kept(earlier):
    usage.update(earlier)
    first = usage.total(earlier)
    assert first["seconds"] > 1e6 and first["peak_memory"] == 1e15
    usage.update(earlier)  # the same process, now a little older
    second = usage.total(earlier)
    assert first["seconds"] < second["seconds"] < first["seconds"] + 60
    assert len(json.loads((earlier / usage.COST).read_text())) == 2


def test_to_look_at_a_finished_run_costs_nothing(earlier):
    assert usage.total(earlier) == {"seconds": 1e6, "peak_memory": 1e15}


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_missing_or_damaged_file_ends_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / usage.COST).write_text(content)
    assert usage.total(tmp_path)["seconds"] > 0
    usage.update(tmp_path)
    assert len(json.loads((tmp_path / usage.COST).read_text())) == 1


def test_where_it_cannot_be_written_the_run_goes_on(tmp_path):
    (tmp_path / "file").touch()
    usage.update(tmp_path / "file")  # no folder, and none can be made there
    assert usage.total(tmp_path / "file")["peak_memory"] > 0
