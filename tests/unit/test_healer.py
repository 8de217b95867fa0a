"""The healer on a data plane in memory: what it puts back, and what is none of its business."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from portfleet.core.changes import Route
from portfleet.core.operations import Operation
from portfleet.core.work.undrain import Undrain
from portfleet.store.log import Log
from portfleet.watch.ejector import DEALT, fresh
from portfleet.watch.healer import Healer
from support.fake_watched import Watched, run
from support.fleets import ECHO


def healer(watched: Watched) -> Healer:
    """Return one for a fleet that serves."""
    log = Log(as_json=False, file=watched.log)
    return Healer(plane=watched.kernel, paths=watched.paths, roster=watched.roster, ejector=watched.ejector, log=log)


def points_at(watched: Watched, *owners: str) -> None:
    """Have another program point the slots of echo."""
    rule = watched.kernel.observe().services["echo"]
    assert rule is not None
    watched.kernel.run((Route(rule, owners * (4096 // len(owners)), {}),))
    watched.kernel.log.clear()


def test_slots_that_another_program_has_pointed_are_put_back_once(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        points_at(watched, "echo-blue-1", "echo-blue-2")
        heals = healer(watched)

        assert [heals.heal(), heals.heal()] == [True, False]

        assert watched.slots() == {f"echo-blue-{number}": 1024 for number in range(1, 5)}

    run(tmp_path, test)


def test_slots_that_are_being_dealt_are_left_to_who_deals_them(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        points_at(watched, "echo-blue-1", "echo-blue-2")
        heals, echo = healer(watched), watched.roster.members["echo-blue-1"].service

        assert watched.ejector.point(echo, most=100) and heals.waits
        assert not heals.heal() and "healed" not in watched.log.getvalue()
        while watched.ejector.point(echo, most=100):
            assert not heals.heal()

        assert watched.slots() == {f"echo-blue-{number}": 1024 for number in range(1, 5)}

    run(tmp_path, test)


def test_what_a_watcher_before_this_one_has_begun_to_deal_is_left_to_the_operation_that_goes_on(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        points_at(watched, "echo-blue-1", "echo-blue-2")
        work = Undrain(instances=("echo-blue-1",))
        operation = Operation(1, "echo", "undrain echo/1", "root", "2026-01-31T12:00:00Z", work, begun=True)
        watched.world.store.update(lambda journal: journal.with_operation(operation))
        watched.roster.reload()
        heals = healer(watched)

        assert heals.waits and not heals.heal() and "healed" not in watched.log.getvalue()
        later = time.monotonic() + DEALT
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: later)
            assert not heals.waits and heals.heal()

    run(tmp_path, test)


def test_the_slots_of_another_service_say_nothing_of_those_that_are_being_dealt(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        points_at(watched, "echo-blue-1", "echo-blue-2")
        heals, echo = healer(watched), watched.roster.members["echo-blue-1"].service
        other = watched.roster.members["other-blue-2"]

        assert watched.ejector.point(echo, most=100)
        watched.ejector.eject(other.service, other.want, fresh("died", "process 7 ended"))
        watched.ejector.point(other.service)

        assert heals.waits and not heals.heal() and "healed" not in watched.log.getvalue()

    run(
        tmp_path, test, ECHO + ECHO.replace("echo", "other").replace(":7000", ":8000").replace("7100-7107", "8100-8107")
    )


def test_one_that_is_to_stop_and_serves_for_those_that_are_out_is_left_to_the_next_apply(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        points_at(watched, "echo-blue-2")
        watched.paths.applied.write_text(ECHO.replace("= 4", "= 1"))
        watched.roster.reload()
        watched.ejector.out["echo-blue-1"] = fresh("died", "process 7 ended")
        heals = healer(watched)

        assert not heals.heal()

        assert watched.kernel.log == [] and "healed" not in watched.log.getvalue()

    run(tmp_path, test)
