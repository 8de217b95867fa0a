"""A fleet that serves on a data plane in memory, with the parts of a watcher that decide."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from portfleet.apply.applied import Applied
from portfleet.apply.context import Context
from portfleet.core.changes import Route, Transaction
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector
from portfleet.watch.judge import Judge
from portfleet.watch.roster import Roster
from support.fake_plane import FakePlane
from support.fake_world import World
from support.fleets import ECHO, fleet


class Refusing(FakePlane):
    """A kernel that refuses the next ``times`` transactions, as one that is short of memory does."""

    times = 0

    def run(self, transaction: Transaction) -> None:
        if self.times:
            self.times -= 1
            raise PortfleetError("cannot allocate memory", code=Exit.KERNEL)
        super().run(transaction)


class Watched:
    """A fleet that serves, with the parts of a watcher that decide; made within a running loop."""

    def __init__(self, directory: Path, text: str = ECHO) -> None:
        self.kernel = Refusing()
        self.world = world = World(directory, kernel=self.kernel)
        self.paths, self.store = world.paths, world.store
        self.paths.applied.write_text(text)
        world.apply(fleet(text))
        self.applied = Applied(Context(self.paths))
        self.log, self.roster = io.StringIO(), Roster(self.paths, self.applied)
        log = Log(as_json=False, file=self.log)
        self.ejector = Ejector(
            plane=self.kernel, paths=self.paths, latest=self.roster.latest, forget_unanswered=lambda _: None, log=log
        )
        self.judge = Judge(
            roster=self.roster, ejector=self.ejector, log=log, blind=str, forget=lambda _: None, pid_of=lambda _: None
        )
        self.roster.changed = self.judge.reloaded
        self.roster.reload()
        self.kernel.log.clear()

    def change(self, **changes: object) -> None:
        """Change the journal's record of echo, as a command does."""

        def changed(journal: Journal) -> Journal:
            return journal.with_service("echo", replace(journal.services["echo"], **changes))  # type: ignore[arg-type] # by name

        self.store.update(changed)

    def slots(self) -> dict[str, int]:
        owners = self.kernel.read_slots("echo")
        return {name: owners.count(name) for name in {*owners} if name}

    def moves(self) -> list[Transaction]:
        """Return the transactions since the begin that moved slots."""
        return [done for done in self.kernel.log if any(isinstance(change, Route) for change in done)]


def run(directory: Path, test: Callable[[Watched], Awaitable[None]], text: str = ECHO) -> None:
    """Run ``test`` on a fleet that serves, by the config ``text``."""

    async def main() -> None:
        await test(Watched(directory, text))

    asyncio.run(main())
