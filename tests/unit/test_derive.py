"""What shall be, of config and journal: a journal is settled once, and settled it goes with the config."""

from __future__ import annotations

from dataclasses import replace

from portfleet.core.derive import make_desired, settle
from portfleet.core.journal import Journal
from portfleet.core.records import ServiceRecord
from portfleet.core.slots import count
from support.fleets import ECHO, PATHS, fleet


def record(journal: Journal) -> ServiceRecord:
    return journal.services["echo"]


def test_a_new_service_gets_marks_for_both_colours_and_an_even_home_table() -> None:
    settled = settle(fleet(), Journal())
    assert len(record(settled).numbers) == 8 and settled.last_number == 8
    assert count(record(settled).home) == dict.fromkeys("1234", 1024)


def test_settled_again_it_is_the_same() -> None:
    settled = settle(fleet(), Journal())
    assert settle(fleet(), settled) == settled
    assert make_desired(fleet(), settled, PATHS).journal == settled


def test_other_members_get_their_share_and_the_rest_stays() -> None:
    four = settle(fleet(), Journal())
    three = settle(fleet(ECHO.replace("= 4", "= 3")), four)
    assert count(record(three).home) == {"1": 1366, "2": 1365, "3": 1365}
    moved = [old for old, new in zip(record(four).home, record(three).home, strict=True) if old != new]
    assert set(moved) == {"4"} and record(three).numbers == record(four).numbers
    weighed = settle(fleet(ECHO + "weight = { 1 = 5 }\n"), four)
    assert count(record(weighed).home) == {"1": 2560, "2": 512, "3": 512, "4": 512}


def test_a_journal_that_is_not_settled_yet_is_settled_on_the_way() -> None:
    asked = settle(fleet(), Journal())
    scaled = asked.with_service("echo", replace(record(asked), instances=2, config_instances=4))
    desired = make_desired(fleet(), scaled, PATHS)
    assert desired.journal == settle(fleet(), scaled) != scaled
    assert desired.services["echo"].home == record(desired.journal).home
