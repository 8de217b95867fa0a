"""Idle colours end when their time is up, and never while they have connections."""

from __future__ import annotations

import asyncio

import pytest

from portfleet.core.changes import Route
from portfleet.operations.expire import end_expired
from support import virtual_time
from support.fake_operated import Box


@pytest.fixture
def kept(box: Box) -> Box:
    """Return a box whose blue colour is kept for another minute."""
    box.operate("cutover", "echo", "--release", "v2", "--keep", "60s")
    box.log.clear()
    return box


def wait(box: Box, seconds: float) -> None:
    """Let a watcher look every second for so long."""

    async def looks() -> None:
        world, until = box.world(), box.clock.slept + seconds
        while box.clock.slept < until:
            await end_expired(world)
            await asyncio.sleep(1)

    virtual_time.run(box.clock, looks())


def test_in_time_it_is_stopped_and_what_it_ran_stays_known(kept: Box) -> None:
    wait(kept, 50)
    assert kept.log == []
    wait(kept, 20)
    blue = kept.journal.services["echo"].colours["blue"]
    assert kept.log == ["end blue-1", "end blue-2", "end blue-3"] and kept.processes() == "green-1, green-2, green-3"
    assert (blue.stopped, blue.release, blue.keep_until) == (True, "v1", None) and kept.lost == {}
    wait(kept, 20)
    assert kept.told.getvalue().count("stopped-idle-colour") == 1


def test_while_it_has_connections_it_is_kept_and_that_is_told_once(kept: Box) -> None:
    kept.daemons.connections["echo-blue-2"] = 4
    wait(kept, 300)
    assert kept.log == [] and kept.told.getvalue().count('reason="it has 4 connections"') == 1
    kept.daemons.connections["echo-blue-2"] = 0
    wait(kept, 2)
    assert "blue-1" not in kept.processes() and kept.lost == {}


def test_while_it_has_slots_as_no_other_serves_it_is_kept(kept: Box) -> None:
    rule, back = kept.kernel.observe().services["echo"], kept.kernel.read_slots("echo")
    assert rule is not None
    kept.kernel.run((Route(rule, ("echo-blue-1", *back[1:]), {}),))
    wait(kept, 300)
    assert "blue-1" in kept.processes() and kept.told.getvalue().count('reason="it has 1 slot"') == 1
    kept.kernel.run((Route(rule, back, {}),))
    wait(kept, 2)
    assert "blue-1" not in kept.processes()


def test_one_that_does_not_answer_is_judged_by_its_sockets(kept: Box) -> None:
    kept.daemons.silent.add("echo-blue-2")
    kept.daemons.connections["echo-blue-2"] = 4
    wait(kept, 300)
    assert "blue-2" in kept.processes()
    kept.daemons.connections["echo-blue-2"] = 0
    wait(kept, 2)
    assert "blue-2" not in kept.processes() and kept.lost == {}


def test_while_an_operation_runs_it_is_left_alone(kept: Box) -> None:
    kept.command("rollback", "echo")
    wait(kept, 300)
    assert "blue-1" in kept.processes()
    assert kept.finish().ok and kept.slots() == "blue-1 86, blue-2 85, blue-3 85"


def test_of_a_service_that_is_gone_nothing_is_ended(kept: Box) -> None:
    kept.paths.applied.write_text(kept.text.replace("echo", "other").replace("7000", "7001"))
    wait(kept, 100)
    assert kept.log == []
