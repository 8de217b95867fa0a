"""Guards the rules: holds what keeps clients safe, hears of foreign changes, and has the healer look when it must.

A foreign change is looked at after a short rest, since changes come in bursts; lost rules at once. A poll finds what
no event told of. Connections that the data plane lost track of are seen to in another thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError
from portfleet.dataplane.interface import Done, Door, Guardian, Hazard
from portfleet.store.locks import Locked
from portfleet.store.log import Log
from portfleet.watch.ejector import DEALT
from portfleet.watch.healer import Healer
from portfleet.watch.roster import Roster

#: Seconds to wait for the rest of a burst of changes.
_REST = 0.05
#: Seconds until the next try after a repair that was refused; and while another process holds the table lock.
_REFUSED, _LOCKED = 1.0, 0.05


class RuleGuard:
    """Keeps the rules as they shall be; ``busy`` is called before a look, which may take long."""

    def __init__(
        self, *, roster: Roster, healer: Healer, guardian: Guardian, log: Log, busy: Callable[[], None]
    ) -> None:
        self._busy, self._roster, self._healer, self._guardian, self._log = busy, roster, healer, guardian, log
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._working: asyncio.Task[None] | None = None
        #: The services as their clients meet them, as of the desired state beside it.
        self._doors: tuple[Desired | None, tuple[Door, ...]] = (None, ())
        self._descriptor = guardian.fileno()
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._told)

    def reloaded(self) -> None:
        """Config or journal have changed: the guardian must know every listen address."""
        self.hold()
        self.look_in(0)

    def hold(self) -> None:
        """Have the guardian hold what clients dial; if that is refused, say so once and try again at the next look."""
        desired = self._roster.desired
        if desired is None:
            return
        if self._doors[0] is not desired:
            services = (want.service for want in desired.services.values())
            self._doors = desired, tuple(Door(service.listen, service.ports) for service in services)
        try:
            self._guardian.hold(self._doors[1])
        except PortfleetError as error:
            self._log.once("no-guardian", reason=error.message.splitlines()[0])
        else:
            if self._log.over("no-guardian"):
                self._log("guardian", reason="clients are held again while rules are missing")
        self._plan_work()

    def hazards(self) -> list[Hazard]:
        """Return what the guardian knows of that costs clients. It may take a second."""
        return self._guardian.hazards()

    def close(self) -> None:
        """Stop looking and let the guardian go."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
        if self._next is not None:
            self._next.cancel()
        if self._working is not None:
            self._working.cancel()
        try:
            self._guardian.close()
        except PortfleetError as error:
            self._log("guardian-left", reason=error.message.splitlines()[0])

    def look_in(self, seconds: float) -> None:
        """Have the healer look in ``seconds``, or earlier where it is to look earlier already."""
        due = self._loop.time() + seconds
        if self._next is not None:
            if self._due <= due:
                return
            self._next.cancel()
        self._due = due
        self._next = self._loop.call_at(due, self._heal)

    def _told(self) -> None:
        with self._log.costs("changes of the rules"):
            for change in self._guardian.read():
                if change.lost:
                    self._log("table-deleted", by=change.process or "?", pid=change.pid)
                self.look_in(0 if change.lost else _REST)
        self._plan_work()

    def _plan_work(self) -> None:
        """Have the guardian work as soon as there is something to do; not twice at a time."""
        if self._working is None and (due := self._guardian.due) is not None:
            self._working = self._loop.create_task(self._work(due))

    async def _work(self, due: float) -> None:
        done: list[Done] = []
        try:
            await asyncio.sleep(due)
            done = await asyncio.to_thread(self._guardian.work)
            self._log.over("cannot-restore")
        except PortfleetError as error:
            self._log.once("cannot-restore", reason=error.message.splitlines()[0])
        except Exception as error:  # noqa: BLE001 (the connections that are left are seen to at the next look)
            self._log.unexpected("connections", error)
        finally:
            self._working = None
        for one in done:
            self._log(one.event, **one.fields)
        self._plan_work()

    def _heal(self) -> None:
        self._next = None
        self.look_in(DEALT if self._healer.waits else self._guardian.every)
        self._busy()
        try:
            self._healer.heal()
        except PortfleetError as error:
            self._log.once("cannot-heal", reason=error.message.splitlines()[0])
            self.look_in(_LOCKED if isinstance(error, Locked) else _REFUSED)
        except Exception as error:  # noqa: BLE001 (the next look tries again)
            self._log.unexpected("rules", error)
            self.look_in(_REFUSED)
        else:
            self._log.over("cannot-heal")
