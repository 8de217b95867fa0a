"""The logs of supervised programs: their ends, what was written since a time, and following over rotation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from portfleet.supervise.logs import Tail, last, since

MOMENT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of a log."""
    return tmp_path / "echo-blue-1.log"


def test_the_last_lines(log: Path) -> None:
    log.write_bytes(b"one\ntwo\nthree")
    assert last(log, 2) == [b"two", b"three"]
    assert last(log, 0) == []


def test_since_goes_by_the_time_a_line_begins_with(log: Path) -> None:
    log.write_bytes(
        b"2026-01-31T11:59:59.999Z before\n  of the one before\n2026-01-31T12:00:00Z at\n  its second line\n"
        b"2026-01-31T13:00:01+01:00 in another zone\n9999-99-99T99:99:99Z is no time\n"
    )
    assert since(log, MOMENT) == [
        b"2026-01-31T12:00:00Z at", b"  its second line", b"2026-01-31T13:00:01+01:00 in another zone",
        b"9999-99-99T99:99:99Z is no time",
    ]  # fmt: skip


def test_since_reads_what_was_rotated_away_too(log: Path) -> None:
    log.with_name(f"{log.name}.2").write_bytes(b"2026-01-31T12:00:01Z first\n")
    log.with_name(f"{log.name}.1").write_bytes(b"2026-01-31T12:00:02Z second\n")
    log.write_bytes(b"2026-01-31T12:00:03Z third\n")
    assert [line[-6:].strip() for line in since(log, MOMENT)] == [b"first", b"second", b"third"]


def test_following_begins_at_the_end_and_waits_for_whole_lines(log: Path) -> None:
    log.write_bytes(b"old\n")
    tail = Tail(log)
    with log.open("ab", buffering=0) as file:
        file.write(b"new\npart")
        assert list(tail.lines()) == [b"new"]
        file.write(b"ial\n")
        assert list(tail.lines()) == [b"partial"]
    tail.close()


@pytest.mark.parametrize("there", [True, False])
def test_following_goes_on_in_the_file_that_takes_the_logs_place(log: Path, there: bool) -> None:
    log.write_bytes(b"old\n")
    tail = Tail(log)
    with log.open("ab") as file:
        file.write(b"last of the old\n")
    log.rename(log.with_name(f"{log.name}.1"))
    if not there:
        assert list(tail.lines()) == [b"last of the old"]
    log.write_bytes(b"first of the new\n")
    assert list(tail.lines())[-1:] == [b"first of the new"]
    log.write_bytes(b"")  # emptied in place
    log.write_bytes(b"x\n")
    assert list(tail.lines()) == [b"x"]
    tail.close()


def test_following_a_log_that_is_not_there_yet(log: Path) -> None:
    tail = Tail(log)
    assert list(tail.lines()) == []
    log.write_bytes(b"hello\n")
    assert list(tail.lines()) == [b"hello"]
    tail.close()
