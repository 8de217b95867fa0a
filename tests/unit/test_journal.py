"""The journal: nothing is lost by writing and reading it, and what cannot be read is said, not guessed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.errors import PortfleetError
from portfleet.core.journal import (
    HISTORY,
    VERSION,
    HistoryEntry,
    Journal,
    JournalError,
    from_json,
    to_json,
)
from portfleet.core.operations import Operation, read_work
from portfleet.core.records import NUMBER_LIMIT, Asked, ColourRecord, Moved, ServiceRecord
from portfleet.core.work.undrain import Undrain
from portfleet.store import atomic
from portfleet.store.journal import JournalStore
from support.fleets import ECHO, desired

TEXT = st.text(max_size=20)
PLAIN = st.text("abcü/-_.{}%$", max_size=20)
MOMENT = st.datetimes(datetime(1970, 1, 1), datetime(2099, 1, 1)).map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%SZ}")
COUNT = st.integers(1, 65535)
MEMBER = st.builds("{}{}".format, st.sampled_from(["", "remote-"]), st.integers(1, 99))
ASKED = st.builds(Asked, st.sampled_from(["drained", "maintenance"]), TEXT, TEXT, TEXT)
COLOUR = st.builds(
    ColourRecord,
    release=st.none() | PLAIN,
    command=st.none() | st.lists(PLAIN, min_size=1, max_size=3).map(tuple),
    since=st.none() | MOMENT,
    keep_until=st.none() | MOMENT,
)
WORK = st.just(Undrain(instances=("echo-blue-1",))) | TEXT.map(lambda verb: read_work(f"un{verb}", {"x": [1]}))
OPERATION = st.builds(Operation, work=WORK, owned=..., phase=...)
RECORD = st.builds(
    ServiceRecord,
    st.sampled_from(["blue", "green"]),
    st.integers(0, 0x7FFFFFFF),
    st.lists(st.none() | MEMBER, max_size=8).map(tuple),
    numbers=st.sets(TEXT).map(lambda names: {name: number for number, name in enumerate(names, 1)}),
    asked=st.dictionaries(TEXT, ASKED),
    colours=st.dictionaries(st.sampled_from(["blue", "green"]), COLOUR),
    config_release=st.none() | TEXT,
    canary=st.integers(0, 100),
    moved=st.dictionaries(MEMBER, st.builds(Moved, MEMBER, st.integers(0, 100))),
    instances=st.none() | COUNT,
    config_instances=st.none() | COUNT,
    leaving=st.integers(0, 65535),
    pins=st.dictionaries(st.ip_addresses().map(str), MEMBER),
)


def numbered(services: dict[str, ServiceRecord]) -> dict[str, ServiceRecord]:
    """Give every instance a number of its own."""
    numbers = itertools.count(1)
    return {
        name: replace(record, numbers={instance: next(numbers) for instance in record.numbers})
        for name, record in services.items()
    }


JOURNAL = st.builds(
    Journal,
    services=st.dictionaries(TEXT, RECORD, max_size=3).map(numbered),
    operations=st.lists(OPERATION, max_size=2).map(tuple),
    history=st.lists(st.builds(HistoryEntry), max_size=3).map(tuple),
    last_number=st.integers(0, NUMBER_LIMIT - 1),
)


@settings(max_examples=50)
@given(JOURNAL)
def test_what_is_written_is_what_is_read(journal: Journal) -> None:
    assert from_json(json.loads(json.dumps(to_json(journal)))) == journal


def test_on_disk_too_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path, journal = tmp_path / "journal.json", desired().journal
    assert JournalStore(path).read() is None
    JournalStore(path).update(lambda _: journal)

    assert JournalStore(path).read() == journal
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["journal.json", "journal.lock"], (
        "no temporary file stays"
    )


@settings(max_examples=50)
@given(JOURNAL, st.data())
def test_a_journal_cut_off_anywhere_is_called_damaged(journal: Journal, data: st.DataObject) -> None:
    text = json.dumps(to_json(journal))
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises((JournalError, ValueError)):
        from_json(json.loads(cut))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"[]",
        b"{}",
        b'{"version": "1"}',
        b'{"version": 1}',
        b'{"version": 1, "services": [], "history": []}',
        b'{"version": 1, "services": {"echo": {}}, "history": []}',
        b'{"version": 1, "services": {"echo": null}, "history": []}',
        b'{"version": 1, "services": {}, "history": [{"at": ""}]}',
        b'{"version": 1, "services": {}, "history": null}',
        b"\xff\xfe{}",
    ],
)
def test_damage_is_said_and_the_file_left_where_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(content)

    with pytest.raises(JournalError, match="damaged"):
        JournalStore(path).read()
    assert path.read_bytes() == content


@pytest.mark.parametrize("key", ["live", "seed", "home", "marks", "asked", "colours"])
def test_a_record_with_a_wrong_value_is_damaged(key: str) -> None:
    data = json.loads(json.dumps(to_json(desired().journal)))
    data["services"]["echo"][key] = "red"
    with pytest.raises(JournalError, match="damaged"):
        from_json(data)


def test_a_newer_journal_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text(json.dumps({"version": VERSION + 1, "all": "new"}))

    with pytest.raises(PortfleetError) as caught:
        JournalStore(path).read()

    assert f"newer portfleet (version {VERSION + 1}, known {VERSION})" in caught.value.message
    assert caught.value.hint
    with pytest.raises(JournalError, match="version"):
        from_json({"version": VERSION + 1})


def test_damaged_journals_are_kept_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    for content in ("one", "two"):
        path.write_text(content)
        JournalStore(path).set_aside()

    assert [(tmp_path / f"journal.json.damaged-{n}").read_text() for n in (1, 2)] == ["one", "two"]
    assert not path.exists()


def test_history_keeps_the_newest() -> None:
    journal = Journal()
    for number in range(1, HISTORY + 6):
        assert journal.next_number() == number
        operation = Operation(number, "echo", "", "me", "", Undrain(instances=("echo-blue-1",)))
        journal = journal.with_operation(operation)
        assert journal.running("echo") == journal.operation(number) == operation
        journal = journal.noting(HistoryEntry(number, "", "", "echo", "undrain", "", "done"))
    assert [entry.number for entry in journal.history] == list(range(6, HISTORY + 6))
    assert journal.operations == ()


def test_numbers_are_unique_and_stay_when_services_come_and_go() -> None:
    kv = ECHO.replace("echo", "kv").replace("7000", "6000").replace("71", "61")
    first = desired(ECHO).journal
    both = desired(ECHO + kv, first).journal
    more = desired((ECHO + kv).replace("instances = 4", "instances = 3"), both).journal

    assert both.services["echo"].numbers == first.services["echo"].numbers == more.services["echo"].numbers
    numbers = [number for record in both.services.values() for number in record.numbers.values()]
    assert max(Counter(numbers).values()) == 1 and all(0 < number < NUMBER_LIMIT for number in numbers)
    gone = first.without_service("echo")
    again = desired(ECHO, replace(gone, last_number=both.last_number)).journal
    assert min(again.services["echo"].numbers.values()) == max(numbers) + 1, (
        "a connection that is closing may carry the old ones"
    )
    last = desired(ECHO, replace(both, last_number=NUMBER_LIMIT - 3).without_service("echo")).journal
    wrapped = sorted(last.services["echo"].numbers.values())
    assert wrapped[-2:] == [NUMBER_LIMIT - 2, NUMBER_LIMIT - 1] and wrapped[0] == 1
    assert not set(wrapped) & set(both.services["kv"].numbers.values())


def test_a_standby_box_makes_the_same_table_from_the_same_config() -> None:
    assert desired().services == desired().services
    assert desired().journal == desired().journal


KILL_AT = """
import os, sys
from pathlib import Path
from portfleet.store import atomic
while True:
    for letter in "ab":
        atomic.write(Path(sys.argv[1]), letter.encode() * 300_000)
"""


def test_a_crash_while_writing_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"a" * 300_000)
    writer = subprocess.Popen([sys.executable, "-c", KILL_AT, str(path)], env={**os.environ, "PORTFLEET_FAULT": "3"})
    try:
        # Points 1, 2, 3 are before the write, before and after the rename; the third ends it.
        assert writer.wait(20) == -signal.SIGKILL
    finally:
        writer.kill()
        writer.wait()
    assert path.read_bytes() == b"a" * 300_000

    for point, letter in ((4, b"a"), (5, b"a"), (6, b"b")):
        killed = subprocess.run(
            [sys.executable, "-c", KILL_AT, str(path)],
            env={**os.environ, "PORTFLEET_FAULT": str(point)},
            check=False,
            timeout=20,
        )
        assert killed.returncode == -signal.SIGKILL
        assert path.read_bytes() == letter * 300_000
