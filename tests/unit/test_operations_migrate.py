"""migrate: a share of the slots at once, then as many of the connections; and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import ECHO, REDIS, Box

ALL, MOVED = "blue-1 86, blue-2 85, blue-3 85", "blue-2 171, blue-3 85"
WORDS = ("migrate", "echo/1", "2")
REMOTE = ECHO.replace('":7000"]', '"0.0.0.0:7000"]\nremote = ["203.0.113.2:7101"]')


def test_all_of_a_share_goes_with_its_connections(box: Box) -> None:
    done = box.operate(*WORDS)
    assert box.log == [f"slots {MOVED}", "[moving]", "5 from blue-1 to blue-2", "rules of blue-1"]
    assert done.outcome == "echo-blue-2 serves 100 % of echo-blue-1's share; 5 connections were handed off"


def test_a_part_of_it_takes_as_many_of_the_connections(directory: Path) -> None:
    box = Box(directory, blue_1=8)
    done = box.operate(*WORDS, "--share", "25%")
    assert box.connections() == {"blue-1": 6, "blue-2": 2} and box.slots() == "blue-1 64, blue-2 107, blue-3 85"
    assert done.outcome.endswith("; 2 connections were handed off")


def test_given_back_it_takes_its_part_of_the_connections_along(box: Box) -> None:
    box.operate(*WORDS)
    done = box.operate("migrate", "echo/1", "1")
    assert box.slots() == ALL and box.connections() == {"blue-1": 6, "blue-2": 6, "blue-3": 3}
    assert done.outcome == "echo-blue-1 serves its own share again; 6 connections were handed off"


def test_without_hand_off_connections_drain_by_the_services_policy(box: Box) -> None:
    done = box.operate(*WORDS, "--drain")
    assert box.log[-3:] == ["evict blue-1 10", "rules of blue-1", "resume blue-1"]
    assert done.outcome.endswith("; connections of echo-blue-1: 0 ended, 5 were closed")


def test_a_part_that_is_not_handed_off_stays(box: Box) -> None:
    done = box.operate(*WORDS, "--share", "50%", "--drain")
    assert done.outcome.endswith("; established connections stay where they are until they end")
    assert box.connections()["blue-1"] == 5


def test_what_the_target_does_not_take_stays_and_is_told(box: Box) -> None:
    box.daemons.refusing["echo-blue-2"] = "no room"
    done = box.operate(*WORDS)
    assert (done.ok, done.stays, box.slots(), box.connections()["blue-1"]) == (False, False, MOVED, 5)
    assert done.outcome == (
        "echo-blue-2 serves 100 % of echo-blue-1's share; 0 connections were handed off, 5 could not be (no room) "
        "and stay until they end"
    )


def test_another_box_gets_the_share_and_the_connections_drain(directory: Path) -> None:
    box = Box(directory, REMOTE, blue_1=4)
    box.command("migrate", "echo/1", "203.0.113.2:7101")
    done = box.finish()
    assert "remote-1 " in box.slots() and "blue-1" not in box.slots()
    share = "echo-remote-1 serves 100 % of echo-blue-1's share"
    assert done.outcome == f"{share}; connections of echo-blue-1: 0 ended, 4 were closed"


@pytest.mark.parametrize(
    ("words", "out", "said", "code"),
    [
        (("migrate", "echo", "2"), (), "name one instance", Exit.USAGE),
        (("migrate", "echo/1", "9"), (), "has no instance '9'", Exit.USAGE),
        (("migrate", "echo/1", "203.0.113.9:1"), (), "is no remote instance", Exit.USAGE),
        (("migrate", "echo/1", "2"), ("blue-2",), "does not serve: hangs", Exit.FAILED),
    ],
)
def test_refused_it_changes_nothing(
    box: Box, words: tuple[str, ...], out: tuple[str, ...], said: str, code: Exit
) -> None:
    box.eject(*out)
    before = box.journal
    with pytest.raises(PortfleetError, match=said) as refused:
        box.command(*words)
    assert refused.value.code is code and box.journal == before and box.slots() == ALL


def test_a_drained_target_is_refused(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    with pytest.raises(PortfleetError, match="it is drained"):
        box.command(*WORDS)


@pytest.mark.parametrize("words", [WORDS, (*WORDS, "--share", "50%"), (*WORDS, "--drain")])
def test_killed_at_any_point_it_is_resumed(again: Make, words: tuple[str, ...]) -> None:
    whole, seen = undisturbed(again, *words), []
    for point, box, done in killed_at_each(again, *words):
        assert done.ok and "resumed at" in done.outcome and same(box, whole) and box.lost == {}, (point, done)
        seen.append(point)
    assert seen == ["migrate moving"]


def test_cancelled_the_share_is_served_as_before(again: Make) -> None:
    box, done = cancelled_at(again, "migrate moving", *WORDS, "--drain")
    assert done.outcome == "cancelled; echo-blue-1 has its share again; connections stay where they are"
    assert box.slots() == ALL and box.lost == {}


def test_cancelled_it_goes_back_to_an_earlier_migration(again: Make) -> None:
    def migrated() -> Box:
        box = again()
        box.operate("migrate", "echo/1", "3", "--share", "50%")
        return box

    before = migrated().slots()
    box, done = cancelled_at(migrated, "migrate moving", *WORDS, "--drain")
    assert "echo-blue-3 serves 50 % of echo-blue-1's share as before" in done.outcome and box.slots() == before


def test_a_daemon_that_cannot_hand_off_drains(directory: Path) -> None:
    box = Box(directory, REDIS, blue_1=9)
    assert box.operate(*WORDS).outcome.endswith("connections of echo-blue-1: 0 ended, 9 were reset")
    assert box.daemons.ended == 9
