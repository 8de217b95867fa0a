"""Guards the rules: holds the keeper, listens to nftables' notifications, and has the healer look when it must.

A foreign change of our table is looked at after a short rest, since changes come in bursts; a lost table at once. A
slow poll finds what no notification told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from portfleet.core.errors import PortfleetError
from portfleet.core.model import Listen
from portfleet.dataplane.nft.events import RulesChanged
from portfleet.store.log import Log
from portfleet.watch.healer import Healer
from portfleet.watch.roster import Roster

_TABLE = "portfleet"
#: Seconds to wait for the rest of a burst of changes; and between two looks that nothing asked for.
_REST, _POLL = 0.05, 15.0
#: Seconds until the next try after a repair that was refused.
_RETRY = 1.0


class KeeperTable(Protocol):
    """What holds established connections alive while others flush the rules (``kernel.keeper.Keeper``)."""

    def ensure(self, listens: tuple[Listen, ...]) -> None:
        """Make the keeper or bring it up to date; raises PortfleetError."""

    def close(self) -> None:
        """Remove it."""


class Events(Protocol):
    """Tells of changes of the rules (``kernel.nft_events.RulesWatch``)."""

    def fileno(self) -> int:
        """Return what is readable when there is something to read."""

    def read(self) -> list[RulesChanged]:
        """Return the transactions since the last call."""


class RuleGuard:
    """Keeps the rules as they shall be."""

    def __init__(
        self, *, roster: Roster, healer: Healer, keeper: KeeperTable, events: Events, is_own: Callable[[int], bool],
        log: Log,
    ) -> None:  # fmt: skip
        self._roster, self._healer, self._keeper, self._events = roster, healer, keeper, events
        self._is_own, self._log = is_own, log
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._loop.add_reader(events.fileno(), self._told)

    def reloaded(self) -> None:
        """Config or journal have changed: the keeper must know every listen address."""
        self.hold()
        self.look_in(0)

    def hold(self) -> None:
        """Have the keeper hold what clients dial; said once where that is refused, tried again at the next look."""
        desired = self._roster.desired
        if desired is None:
            return
        try:
            self._keeper.ensure(tuple(listen for want in desired.services.values() for listen in want.service.listen))
        except PortfleetError as error:
            self._log.once("no-keeper", reason=error.message.splitlines()[0])
        else:
            if self._log.over("no-keeper"):
                self._log("keeper", reason="it is held again")

    def close(self) -> None:
        """Stop looking and let the keeper go."""
        self._loop.remove_reader(self._events.fileno())
        if self._next is not None:
            self._next.cancel()
        try:
            self._keeper.close()
        except PortfleetError as error:
            self._log("keeper-left", reason=error.message.splitlines()[0])

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
        for change in self._events.read():
            if not change.lost and (_TABLE not in change.tables or self._is_own(change.generation)):
                continue
            gone = _TABLE in change.deleted
            if gone:
                self._log("table-deleted", by=change.process or "?", pid=change.pid)
            self.look_in(0 if gone else _REST)

    def _heal(self) -> None:
        self._next = None
        self.look_in(_POLL)
        try:
            self._healer.heal()
        except PortfleetError as error:
            self._log.once("cannot-heal", reason=error.message.splitlines()[0])
            self.look_in(_RETRY)
        else:
            self._log.over("cannot-heal")
