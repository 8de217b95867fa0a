"""What two boxes tell each other: the same record gives the same table, and what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.derive import settle
from portfleet.core.errors import PortfleetError
from portfleet.core.exported import (
    Exported,
    differences,
    exported,
    from_json,
    obstacles,
    table_checksum,
    taken_over,
    to_json,
)
from portfleet.core.journal import Journal
from portfleet.core.model import Fleet, Launch, Listen, Service
from portfleet.core.policies import Forward
from portfleet.core.records import ColourRecord

ECHO = Service("echo", (Listen(7000, None, (4,)),), ("echo",), (7100, 7115), 4, slots=256)
CACHE = Service("cache", (Listen(7200, None, (4,)),), ("cache",), (7300, 7307), 3, slots=256)


def fleet(*services: Service) -> Fleet:
    return Fleet({service.name: service for service in services})


def told(found: Fleet, journal: Journal) -> Exported:
    tables = {name: journal.services[name].home for name in found.services}
    return exported(found, journal, tables)


def scaled(journal: Journal, found: Fleet, count: int) -> Journal:
    record = replace(journal.services["echo"], instances=count, config_instances=4)
    return settle(found, journal.with_service("echo", record))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 8), max_size=5), st.lists(st.integers(1, 8), max_size=5))
def test_after_an_import_whatever_histories_there_were_the_tables_are_equal(mine: list[int], other: list[int]) -> None:
    found = fleet(ECHO, CACHE)
    here = there = settle(found, Journal())
    for count in mine:
        here = scaled(here, found, count)
    for count in other:
        there = scaled(there, found, count)

    text = json.dumps(to_json(told(found, there)))
    after = settle(found, taken_over(here, from_json(text, source="a file")))

    for name in found.services:
        assert after.services[name].home == there.services[name].home
        assert table_checksum(after.services[name], Forward()) == table_checksum(there.services[name], Forward())
    assert list(differences(told(found, after), told(found, there))) == []


def test_the_order_of_services_in_the_file_does_not_matter() -> None:
    one, other = fleet(ECHO, CACHE), fleet(CACHE, ECHO)
    assert settle(one, Journal()).services == settle(other, Journal()).services


def test_nothing_of_how_an_instance_is_started_is_told() -> None:
    journal = settle(fleet(ECHO), Journal())
    launch = Launch(("echo", "--key", "hush"), {"TOKEN": "hush"}, None, None, None)
    record = journal.services["echo"].with_colour("blue", ColourRecord(command=("hush",), launch=launch))

    assert "hush" not in json.dumps(to_json(told(fleet(ECHO), journal.with_service("echo", record))))


def test_what_differs_in_the_configs_is_named() -> None:
    here, there = fleet(ECHO, CACHE), fleet(replace(ECHO, instances=6, environment={"A": "1"}), CACHE)
    theirs = told(there, settle(there, Journal()))

    found = list(obstacles(here, settle(here, Journal()), theirs))

    assert found == ["service.echo.instances differs: 4 here, 6 there"]


def test_another_release_is_named() -> None:
    found = fleet(ECHO)
    journal = settle(found, Journal())
    record = journal.services["echo"].with_colour("blue", ColourRecord(release="2"))

    lines = list(obstacles(found, journal, told(found, journal.with_service("echo", record))))

    assert lines == ["echo: blue serves here, blue with release 2 there"]


def test_two_services_never_get_the_same_number() -> None:
    found = fleet(ECHO, CACHE)
    there = settle(fleet(ECHO), Journal())
    with pytest.raises(PortfleetError, match="the same number 1 for an instance"):
        taken_over(settle(found, Journal()), told(fleet(ECHO), there))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"portfleet_export": 2}', '{"portfleet_export": 1, "journal": {}}'])
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(PortfleetError, match="cannot read a file: "):
        from_json(text, source="a file")


@given(st.integers(0, 3))
def test_a_damaged_export_is_refused(at: int) -> None:
    found = fleet(ECHO)
    data = to_json(told(found, settle(found, Journal())))
    key = ("config", "slots", "journal", "portfleet_export")[at]
    with pytest.raises(PortfleetError, match="cannot read a file: "):
        from_json(json.dumps(data | {key: {"echo": 7}}), source="a file")


def test_boxes_that_send_clients_to_other_boxes_are_told_apart() -> None:
    forward = Forward(("203.0.113.100",), {"one": ("192.0.2.11",), "two": ("192.0.2.12",)})
    here, journal = fleet(ECHO), settle(fleet(ECHO), Journal())
    there = replace(here, forward=replace(forward, draining=("two",)))
    mine, theirs = told(replace(here, forward=forward), journal), told(there, journal)

    (words,) = differences(mine, from_json(json.dumps(to_json(theirs)), source="a file"))

    assert words.startswith('forward.draining differs: [] here, ["two"] there')
    record = journal.services["echo"]
    sums = {table_checksum(record, one) for one in (Forward(), forward, there.forward)}
    assert len(sums) == 3
    other_order = Forward(forward.addresses, dict(reversed([*forward.boxes.items()])))
    assert table_checksum(record, other_order) not in sums
    assert list(differences(mine, told(replace(here, forward=forward), journal))) == []
