"""The journal's store: parsed once a version, whoever wrote it, and never a version missed."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import portfleet.store.journal
from portfleet.core.errors import PortfleetError
from portfleet.core.journal import Journal, JournalError, from_json, to_json
from portfleet.store.journal import JournalStore


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Return a count of the journals that were parsed."""
    found: Counter[str] = Counter()

    def counted(data: object) -> Journal:
        found["parses"] += 1
        return from_json(data)

    monkeypatch.setattr(portfleet.store.journal, "from_json", counted)
    yield found


def marked(number: int) -> Journal:
    return Journal(last_number=number)


def test_a_version_is_parsed_once_and_what_was_written_is_not_parsed_at_all(
    tmp_path: Path, parses: Counter[str]
) -> None:
    ours, theirs = JournalStore(tmp_path / "journal.json"), JournalStore(tmp_path / "journal.json")
    assert ours.read() is None and not ours.changed()
    assert ours.update(lambda _: marked(1)) == ours.read() == marked(1)
    assert not ours.changed() and theirs.changed() and parses == {}
    for _ in range(5):
        assert theirs.read() is theirs.read()
    assert parses == {"parses": 1}
    theirs.update(lambda journal: replace(journal, last_number=journal.last_number + 1))
    assert ours.changed() and ours.read() == marked(2) and not ours.changed()
    assert parses == {"parses": 2}


def test_a_change_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "journal.json")
    store.update(lambda _: marked(1))
    before = (tmp_path / "journal.json").stat().st_ino
    store.update(lambda _: marked(1))
    assert (tmp_path / "journal.json").stat().st_ino == before


def test_no_version_is_missed_however_fast_they_follow_one_another(tmp_path: Path) -> None:
    """Files may come back with the inode, the time and the size of an earlier one."""
    path, reader = tmp_path / "journal.json", JournalStore(tmp_path / "journal.json")
    for number in range(1, 200):
        for version in (number, number + 500):
            JournalStore(path).update(lambda _, version=version: marked(version))  # type: ignore[misc] # a default binds it
            os.utime(path, ns=(1, 1))
        assert reader.read() == marked(number + 500)


def test_a_file_edited_in_place_is_read_again(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "journal.json")
    store.update(lambda _: marked(1))
    (tmp_path / "journal.json").write_text(json.dumps(to_json(marked(70_000))))
    assert store.changed() and store.read() == marked(70_000)


def test_damage_is_told_every_time_and_looked_for_once(tmp_path: Path, parses: Counter[str]) -> None:
    path, store = tmp_path / "journal.json", JournalStore(tmp_path / "journal.json")
    path.write_text('{"version": 1}')
    for _ in range(3):
        with pytest.raises(JournalError, match="damaged"):
            store.read()
        with pytest.raises(JournalError, match="damaged"):
            store.update(lambda journal: journal)
    assert parses == {"parses": 1}
    assert store.set_aside() == tmp_path / "journal.json.damaged-1"
    assert store.read() is None
    path.write_text("[" * 100_000)
    with pytest.raises(JournalError, match="damaged"):
        store.read()


def test_what_cannot_be_written_leaves_the_old_journal_and_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "lib"
    store = JournalStore(directory / "journal.json")
    with pytest.raises(PortfleetError, match=r"cannot open the lock .*/journal.lock"):
        store.update(lambda _: marked(1))
    directory.mkdir()
    store.update(lambda _: marked(1))
    with pytest.raises(ZeroDivisionError):
        store.update(lambda _: marked(1 // 0))
    assert store.read() == JournalStore(directory / "journal.json").read() == marked(1)


def test_updates_of_many_do_not_undo_each_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"

    def count() -> None:
        store = JournalStore(path)
        for _ in range(20):
            store.update(lambda journal: replace(journal, last_number=journal.last_number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert JournalStore(path).read() == marked(80)


def test_a_store_that_is_gone_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        JournalStore(tmp_path / "journal.json").update(lambda _, number=number: marked(number))  # type: ignore[misc] # as above
    assert len(os.listdir("/proc/self/fd")) <= before + 1
