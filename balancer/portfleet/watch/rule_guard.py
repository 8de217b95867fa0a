"""Guards the rules: holds what keeps clients safe, hears of foreign changes, and has the healer look when it must.

A foreign change is looked at after a short rest, since changes come in bursts; lost rules at once. A poll finds what
no event told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from portfleet.core.errors import PortfleetError
from portfleet.dataplane.interface import Guardian
from portfleet.store.locks import Locked
from portfleet.store.log import Log
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
        try:
            self._guardian.hold(listen for want in desired.services.values() for listen in want.service.listen)
        except PortfleetError as error:
            self._log.once("no-guardian", reason=error.message.splitlines()[0])
        else:
            if self._log.over("no-guardian"):
                self._log("guardian", reason="clients are held again while rules are missing")

    def close(self) -> None:
        """Stop looking and let the guardian go."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
        if self._next is not None:
            self._next.cancel()
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

    def _heal(self) -> None:
        self._next = None
        self.look_in(self._guardian.every)
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
