"""The watcher's ejector and judge on a data plane in memory: who gets slots, and in how many transactions."""

from __future__ import annotations

import asyncio
import fcntl
import io
from dataclasses import replace
from pathlib import Path

from portfleet import journal_file, locks, outset
from portfleet.errors import Exit, PortfleetError
from portfleet.execute import Executor
from portfleet.journal import ColourRecord, Journal
from portfleet.kernel.changes import PointSlots, Transaction
from portfleet.watch.ejector import Ejector, fresh
from portfleet.watch.judge import Judge
from portfleet.watch.log import Log
from portfleet.watch.roster import Roster
from support.fake_kernel import FakeKernel
from support.fake_world import World
from support.fleets import ECHO, fleet


class Refusing(FakeKernel):
    """A kernel that refuses the next ``times`` transactions, as one that is short of memory does."""

    times = 0

    def run(self, transaction: Transaction) -> None:
        if self.times:
            self.times -= 1
            raise PortfleetError("cannot allocate memory", code=Exit.KERNEL)
        super().run(transaction)


class Watched:
    """A fleet that serves, with the parts of a watcher that decide; made within a running loop."""

    def __init__(self, directory: Path) -> None:
        self.kernel = Refusing()
        self.world = world = World(directory, kernel=self.kernel)
        self.paths = world.paths
        self.paths.applied.write_text(ECHO)
        world.apply(fleet())
        self.log, self.roster = io.StringIO(), Roster(self.paths)
        log = Log(as_json=False, file=self.log)
        self.ejector = Ejector(
            kernel=self.kernel, paths=self.paths, latest=self.roster.latest, forget_half_open=lambda _: None, log=log
        )
        self.judge = Judge(roster=self.roster, ejector=self.ejector, log=log, blind=str)
        self.roster.changed = self.judge.reloaded
        self.roster.reload()
        self.kernel.log.clear()

    def change(self, **changes: object) -> None:
        """Change the journal's record of echo, as a command does."""

        def changed(journal: Journal) -> Journal:
            return journal.with_service("echo", replace(journal.services["echo"], **changes))  # type: ignore[arg-type] # by name

        journal_file.update(self.paths.journal, changed)

    def slots(self) -> dict[str, int]:
        owners = self.kernel.read_slots("echo")
        return {name: owners.count(name) for name in {*owners} if name}

    def moves(self) -> list[Transaction]:
        """Give the transactions since the begin that moved slots."""
        return [done for done in self.kernel.log if any(isinstance(change, PointSlots) for change in done)]


def names(colour: str) -> list[str]:
    return [f"echo-{colour}-{number}" for number in range(1, 5)]


def run(tmp_path: Path, test) -> None:  # type: ignore[no-untyped-def] # a coroutine function of one argument
    """Run ``test`` on a fleet that serves."""

    async def main() -> None:
        await test(Watched(tmp_path))

    asyncio.run(main())


def test_all_that_were_found_ready_get_their_slots_at_once_though_the_journal_has_just_changed(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        want = watched.roster.desired.services["echo"]  # type: ignore[union-attr] # it was read
        colours = {"blue": ColourRecord(), "green": ColourRecord(since="2026-01-31T12:00:00Z")}
        watched.change(live="green", colours=colours)
        watched.ejector.deal(want, ready=names("green"))
        assert watched.slots() == dict.fromkeys(names("green"), 1024)
        assert len(watched.moves()) == 1
        assert watched.ejector.pending == {} and outset.read(watched.paths.out) == {}

    run(tmp_path, test)


def test_one_that_was_never_ready_gets_no_slots_by_anybody_and_is_ejected_where_it_has_some(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        paths, kernel = watched.paths, watched.kernel
        watched.change(instances=3, config_instances=4, leaving=3)
        watched.roster.reload()
        watched.ejector.deal(watched.roster.members["echo-blue-1"].service)
        watched.change(instances=None, leaving=0)
        watched.roster.reload()
        assert list(watched.ejector.pending) == ["echo-blue-4"]
        executor = Executor(watched.world.desired(fleet()), kernel, watched.world.supervisor, paths, say=lambda _: None)
        three = watched.slots()
        with paths.watch_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert locks.held(paths.watch_lock)
            executor.point("echo", frozenset())
            assert watched.slots() == three and len(three) == 3
            for name in names("blue")[:3]:
                watched.ejector.out[name] = fresh("probe", "hangs")
            watched.ejector.deal(watched.roster.members["echo-blue-1"].service)
            assert watched.slots() == three  # the last state is kept, and nobody new is in it
        executor.point("echo", frozenset())  # without a watcher nobody knows who is new
        watched.judge.died(watched.roster.members["echo-blue-4"], "process 7 ended")
        assert watched.ejector.out["echo-blue-4"].kind == "died"

    run(tmp_path, test)


def test_slots_that_cannot_be_dealt_are_dealt_a_little_later(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        watched.kernel.times = 2  # the detour and the first deal
        watched.judge.died(watched.roster.members["echo-blue-2"], "process 7 ended")
        async with asyncio.timeout(10):
            while "echo-blue-2" in watched.slots():
                await asyncio.sleep(0.01)
        assert watched.log.getvalue().count("cannot-deal") == 1

    run(tmp_path, test)
