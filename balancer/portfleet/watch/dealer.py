"""Deals the slots of services that lost an instance, a moment after their clients were diverted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from portfleet.core.desired import DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.store.locks import Locked
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector
from portfleet.watch.roster import Roster

#: Seconds from a detour to the deal of the slots, which keeps the loop busy for 10–50 ms: other deaths get their
#: detours first, and supervisord its pokes, so that restarts begin meanwhile.
_AFTER = 0.02
#: Seconds until slots are dealt again if the kernel refused; and if another process has the table lock, which is held
#: for a moment only.
_REFUSED, _LOCKED = 1.0, 0.02


def again(error: PortfleetError) -> float:
    """Return the seconds until what ``error`` refused is tried again."""
    return _LOCKED if isinstance(error, Locked) else _REFUSED


class Dealer:
    """Deals slots as the ejector has them; ``dealt`` is called after each time."""

    def __init__(self, *, roster: Roster, ejector: Ejector, log: Log, dealt: Callable[[], None]) -> None:
        self._roster, self._ejector, self._log, self._dealt = roster, ejector, log, dealt
        self._loop = asyncio.get_running_loop()
        self._due: set[str] = set()

    def soon(self, service: str, *, diverted: bool = True) -> None:
        """Deal a service's slots soon, at once unless clients are ``diverted``; many services' all together."""
        if not self._due:
            self._loop.call_later(_AFTER if diverted else 0, self._deal)
        self._due.add(service)

    def _deal(self) -> None:
        services = self._roster.desired.services if self._roster.desired else {}
        while self._due:
            want = services.get(self._due.pop())
            if want is not None:
                self._deal_one(want)
        self._dealt()

    def _deal_one(self, want: DesiredService) -> None:
        """Deal a service's slots, now or as soon as it can be done."""
        name = want.name
        try:
            self._ejector.point(want)
        except PortfleetError as error:
            self._log.once("cannot-point", about=name, service=name, reason=error.message.splitlines()[0])
            self._loop.call_later(again(error), self._deal_again, name)
        except Exception as error:  # noqa: BLE001 (a defect met for one service must not keep the slots of others)
            self._log.unexpected(name, error)
            self._loop.call_later(_REFUSED, self._deal_again, name)
        else:
            self._log.over("cannot-point", about=name)

    def _deal_again(self, service: str) -> None:
        self._due.add(service)
        self._deal()
