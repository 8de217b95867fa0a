"""The watcher's ejector and judge on a data plane in memory: who gets slots, and in how many transactions."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

import pytest

from portfleet.core.changes import Divert, Transaction
from portfleet.core.errors import PortfleetError
from portfleet.core.observed import ObservedInstance
from portfleet.core.records import ColourRecord
from portfleet.store import locks
from portfleet.store.out import left_out, read_out, write_out
from portfleet.watch.ejector import fresh
from support.fake_watched import Watched, run
from support.fleets import ECHO, fleet


def names(colour: str) -> list[str]:
    return [f"echo-{colour}-{number}" for number in range(1, 5)]


def test_all_that_were_found_ready_get_their_slots_at_once_though_the_journal_has_just_changed(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        want = watched.roster.desired.services["echo"]  # type: ignore[union-attr] # it was read
        colours = {"blue": ColourRecord(), "green": ColourRecord(since="2026-01-31T12:00:00Z")}
        watched.change(live="green", colours=colours)
        watched.ejector.point(want, ready=names("green"))
        assert watched.slots() == dict.fromkeys(names("green"), 1024)
        assert len(watched.moves()) == 1
        assert watched.ejector.pending == {} and read_out(watched.paths.out) == {}
        told = [line.split()[2] for line in watched.log.getvalue().splitlines() if " ready " in line]
        assert told == [f"instance={name}" for name in names("green")]

    run(tmp_path, test)


def test_slots_that_are_dealt_in_parts_end_as_those_that_are_dealt_at_once(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        gone = watched.roster.members["echo-blue-2"]
        watched.judge.died(gone, "process 7 ended")  # it is diverted, and its slots are dealt later
        left = list[int]()
        while not left or left[-1]:
            assert watched.ejector.deals == bool(left)
            left.append(watched.ejector.point(gone.service, most=300))
            assert watched.slots().get("echo-blue-2", 0) == left[-1]
            assert ("echo-blue-2" in watched.kernel.observe().drift) == bool(left[-1])
        assert left == [724, 424, 124, 0] and not watched.ejector.deals
        assert watched.slots() == {"echo-blue-1": 1366, "echo-blue-3": 1365, "echo-blue-4": 1365}

    run(tmp_path, test)


def test_the_first_part_of_the_slots_reaches_all_that_are_new_though_the_home_has_grown(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        watched.paths.applied.write_text(ECHO)  # the fourth member's slots are the first of each of the others
        watched.world.apply(fleet(ECHO))
        watched.roster.reload()
        want = watched.roster.members["echo-blue-3"].service
        colours = {"blue": ColourRecord(), "green": ColourRecord(since="2026-01-31T12:00:00Z")}
        watched.change(live="green", colours=colours)
        assert watched.ejector.point(want, ready=names("green"), most=512) == 3584
        assert watched.slots().keys() == {*names("green"), *names("blue")}
        assert all(100 < watched.slots()[name] < 160 for name in names("green"))

    run(tmp_path, test, ECHO.replace("instances = 4", "instances = 3"))


def test_one_that_ends_before_any_of_the_slots_went_over_is_diverted_to_another_of_its_colour(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        colours = {"blue": ColourRecord(), "green": ColourRecord(since="2026-01-31T12:00:00Z")}
        watched.change(live="green", colours=colours)
        watched.roster.reload()
        for number in (3, 4):
            watched.judge.died(watched.roster.members[f"echo-blue-{number}"], "process 7 ended")
            assert watched.kernel.log[-1] == (Divert(f"echo-blue-{number}", "echo-blue-1"),)

    run(tmp_path, test)


def test_one_that_ends_before_all_of_its_slots_have_left_it_is_diverted_though_it_is_not_wanted(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        want = watched.roster.members["echo-blue-3"].service
        colours = {"blue": ColourRecord(), "green": ColourRecord(since="2026-01-31T12:00:00Z")}
        watched.change(live="green", colours=colours)
        assert watched.ejector.point(want, ready=names("green"), most=512) == 3584
        watched.roster.reload()
        watched.judge.died(watched.roster.members["echo-blue-3"], "process 7 ended")
        assert isinstance(watched.kernel.log[-1][0], Divert) and watched.kernel.log[-1][0].name == "echo-blue-3"
        assert watched.ejector.out == {} and "echo-blue-3" in watched.kernel.observe().drift
        async with asyncio.timeout(10):
            while watched.ejector.deals:
                await asyncio.sleep(0)  # one turn of the loop
        assert watched.slots() == dict.fromkeys(names("green"), 1024) and not watched.kernel.observe().drift
        watched.judge.died(watched.roster.members["echo-blue-4"], "process 8 ended")  # without slots it costs nothing
        assert len(watched.moves()) == 2

    run(tmp_path, test)


def test_one_that_was_never_ready_gets_no_slots_by_anybody_and_is_ejected_where_it_has_some(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        paths = watched.paths
        watched.change(instances=3, config_instances=4, leaving=3)
        watched.roster.reload()
        watched.ejector.point(watched.roster.members["echo-blue-1"].service)
        watched.change(instances=None, leaving=0)
        watched.roster.reload()
        assert list(watched.ejector.pending) == ["echo-blue-4"]
        for _ in range(3):
            watched.judge.died(watched.roster.members["echo-blue-4"], "it does not run")
        assert watched.log.getvalue().count(" process-ended ") == 1
        executor = watched.world.executor(watched.world.desired(fleet()))
        three = watched.slots()
        with paths.watch_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert locks.held(paths.watch_lock)
            executor.point("echo", frozenset())
            assert watched.slots() == three and len(three) == 3
            for name in names("blue")[:3]:
                watched.ejector.out[name] = fresh("probe", "hangs")
            watched.ejector.point(watched.roster.members["echo-blue-1"].service)
            assert watched.slots() == three  # the last state is kept, and nobody new is in it
        executor.point("echo", frozenset())  # without a watcher nobody knows who is new
        watched.judge.died(watched.roster.members["echo-blue-4"], "process 7 ended")
        assert watched.ejector.out["echo-blue-4"].kind == "died"

    run(tmp_path, test)


def test_slots_that_a_command_gave_to_new_ones_are_never_taken_back(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        want = watched.roster.members["echo-blue-1"].service
        three = {name: watched.roster.members[name].want for name in names("blue")[1:]}
        watched.ejector.pending = dict.fromkeys(names("blue"), fresh("new", "not ready yet"))
        before = watched.slots()
        watched.ejector.admit(want, "echo-blue-1")
        assert watched.slots() == before and watched.moves() == []
        assert watched.ejector.pending == {}
        for name, instance in three.items():
            watched.ejector.admit(want, instance.name)
            assert watched.slots() == before and name in before

    run(tmp_path, test)


def test_all_of_a_service_that_were_seen_to_be_ready_are_let_in_by_one_change(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        for name in names("blue")[1:]:
            watched.ejector.out[name] = fresh("died", "process 7 ended")
        watched.ejector.point(watched.roster.members["echo-blue-1"].service)
        watched.kernel.log.clear()
        seen = {name: ObservedInstance("RUNNING", None, ready=True) for name in names("blue")[1:3]}
        await watched.judge.looked_at(seen | {"echo-blue-4": ObservedInstance("FATAL", fault="ended at once")})
        assert len(watched.moves()) == 1
        assert watched.slots().keys() == {"echo-blue-1", "echo-blue-2", "echo-blue-3"}
        assert watched.ejector.out["echo-blue-4"].reason == "ended at once"
        assert watched.log.getvalue().count(" serving ") == 2

    run(tmp_path, test)


def test_only_the_first_look_waits_for_a_trial_of_a_detour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(watched: Watched) -> None:
        tried = list[Transaction]()
        monkeypatch.setattr(watched.kernel, "check", tried.append)
        desired = watched.roster.desired
        assert desired is not None
        for _ in range(3):
            watched.ejector.warm_up(desired)
        ((trial,),) = tried
        assert isinstance(trial, Divert)

    run(tmp_path, test)


def test_a_trial_that_is_refused_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rules that an earlier version has loaded refuse it, until they are set anew."""

    async def test(watched: Watched) -> None:
        def refuse(_: Transaction) -> None:
            raise PortfleetError("cannot change nftables")

        monkeypatch.setattr(watched.kernel, "check", refuse)
        desired = watched.roster.desired
        assert desired is not None
        watched.ejector.warm_up(desired)

    run(tmp_path, test)


def test_slots_that_cannot_be_dealt_are_dealt_a_little_later(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        watched.kernel.times = 2  # the detour and the first deal
        watched.judge.died(watched.roster.members["echo-blue-2"], "process 7 ended")
        async with asyncio.timeout(10):
            while "echo-blue-2" in watched.slots():
                await asyncio.sleep(0.01)
        assert watched.log.getvalue().count("cannot-point") == 1

    run(tmp_path, test)


def test_a_held_table_lock_delays_the_deal_and_not_the_detour_nor_the_loop(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        with watched.paths.table_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            began = time.monotonic()
            watched.judge.died(watched.roster.members["echo-blue-2"], "process 7 ended")
            (detour,) = watched.kernel.log
            assert isinstance(detour[0], Divert) and detour[0].name == "echo-blue-2"
            await asyncio.sleep(0.2)
            assert time.monotonic() - began < 5, "the loop waits for no lock, which it would for ten seconds"
            assert watched.slots()["echo-blue-2"] == 1024 and watched.moves() == []
        async with asyncio.timeout(10):
            while "echo-blue-2" in watched.slots():
                await asyncio.sleep(0.01)
        assert f"is held by pid {os.getpid()} " in watched.log.getvalue()

    run(tmp_path, test)


def test_one_that_answers_again_is_admitted_though_the_table_lock_was_held_then(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        member = watched.roster.members["echo-blue-2"]
        for _ in range(member.health.fall):
            watched.judge.probed("echo-blue-2", "no answer", by_port=False)
        async with asyncio.timeout(10):
            while "echo-blue-2" in watched.slots():
                await asyncio.sleep(0.01)
        with watched.paths.table_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in range(member.health.rise):
                watched.judge.probed("echo-blue-2", "", by_port=False)
            assert "echo-blue-2" not in watched.slots()
        async with asyncio.timeout(10):
            while "echo-blue-2" not in watched.slots():
                await asyncio.sleep(0.01)

    run(tmp_path, test)


def test_a_command_takes_new_ones_with_slots_for_serving(tmp_path: Path) -> None:
    """Right after `up` the watcher has not looked at them yet, and a drain then must not be refused for that."""

    async def test(watched: Watched) -> None:
        watched.ejector.pending = dict.fromkeys(names("blue"), fresh("new", "not ready yet"))
        write_out(watched.paths.out, watched.ejector.pending)
        with watched.paths.watch_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert list(left_out(watched.paths)) == names("blue")
            assert left_out(watched.paths, watched.kernel.read_slots("echo")) == {}
            executor = watched.world.executor(watched.world.desired(fleet()))
            executor.point("echo", frozenset({"echo-blue-2"}))
        assert set(watched.slots()) == {"echo-blue-1", "echo-blue-3", "echo-blue-4"}

    run(tmp_path, test)
