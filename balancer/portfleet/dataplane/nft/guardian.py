"""The watcher's hold on nftables: the keeper, notifications of what others and packets do, and lost connections."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import cached_property

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen
from portfleet.dataplane.interface import Done, Door, Foreign, Hazard, Shortage
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.caps import Caps
from portfleet.dataplane.nft.claims import Reservations, Translations
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.doctor.ruleset import OURS
from portfleet.dataplane.nft.events import Generation, RulesWatch
from portfleet.dataplane.nft.keeper import Keeper
from portfleet.dataplane.nft.lookup import Lookup
from portfleet.dataplane.nft.restorer import NAME, Restorer, spent
from portfleet.dataplane.nft.saved import SavedRules
from portfleet.linux.netlink import Netfilter

#: Seconds between two looks at all sockets, at least, and in times of what the last one took: a flood of stray
#: packets, or of SYNs, must not keep the watcher from anything else.
_REST, _TIMES = 0.05, 3
#: Seconds until a pass that was refused is tried again.
_AGAIN = 1.0


class NftGuardian:
    """See `Guardian`. ``cache`` tells which transactions were our own."""

    every = 15.0

    def __init__(self, lookup: Lookup) -> None:
        self.cache = SlotCache(Generation())
        self._events = RulesWatch()
        costs = self._events.shortage
        self.shortage = Shortage("SO_RCVBUFFORCE", costs) if costs else None
        self._keeper = Keeper()
        self._reserved, self._translations, self._saved = Reservations(), Translations(), SavedRules()
        self._restorer = Restorer(self._run)
        self._caps = Caps(lookup, self._run)
        self._doors: tuple[Door, ...] | None = None
        self._listens: frozenset[Listen] = frozenset()
        # Connections may have been lost while no watcher was there to be told.
        self._lost, self._full, self._not_before = True, True, 0.0

    def fileno(self) -> int:
        return self._events.fileno()

    def read(self) -> list[Foreign]:
        found = []
        for change in self._events.read():
            self._translations.stale |= change.lost or bool(change.tables - OURS)
            if change.spent is not None:
                self._lost |= change.spent == (NAME, "lost")
                self._full |= change.spent == (NAME, "full")
            elif change.lost:
                self._lost = self._full = True
                found.append(Foreign())
            elif NAME in change.tables and not self.cache.is_own(change.generation):
                found.append(Foreign(change.process, change.pid, lost=NAME in change.deleted))
        return found

    def hold(self, doors: Iterable[Door]) -> None:
        held = tuple(doors)
        if held != self._doors:
            self._doors, self._listens = held, frozenset(listen for door in held for listen in door.listens)
        self._reserved.hold(self._listens)
        self._keeper.ensure(held)
        self._ask()

    def _ask(self) -> None:
        """Ask for what the kernel may not have told: Linux 6.1 tells it with the next transaction (nft_obj_notify)."""
        try:
            self._lost |= spent(self._netfilter, "lost")
            self._full |= spent(self._netfilter, "full")
        except OSError as error:
            raise PortfleetError(
                f"cannot ask nftables whether connections were lost: {os.strerror(error.errno or 0)}", code=Exit.KERNEL
            ) from None

    @property
    def due(self) -> float | None:
        if not (self._lost or self._full) or self._doors is None:
            return None
        return max(0.0, self._not_before - time.monotonic())

    def work(self) -> list[Done]:
        began = time.monotonic()
        self._not_before = began + _AGAIN
        done: list[Done | None] = []
        lost, full = self._lost, self._full
        try:
            if lost and self._doors is not None:
                self._lost = False
                done.append(self._restorer.restore(self._doors))
                lost = False
            if full:
                self._full = False
                done.append(self._caps.ease())
                full = False
        finally:
            self._lost, self._full = self._lost or lost, self._full or full
        ended = time.monotonic()
        self._not_before = ended + max(_REST, _TIMES * (ended - began))
        return [one for one in done if one]

    def hazards(self) -> list[Hazard]:
        found = self._translations.hazards(self._listens)
        return [*self._saved.hazards(), *self._reserved.hazards(), *found]

    def close(self) -> None:
        self._reserved.close()
        self._netfilter.close()
        self._events.close()
        self._keeper.close()

    @cached_property
    def _netfilter(self) -> Netfilter:
        return Netfilter()

    @cached_property
    def _nft(self) -> NftContext:
        return NftContext()

    def _run(self, script: str) -> None:
        with self.cache.changing(lambda: self._nft.done):
            self._nft.do(script)
