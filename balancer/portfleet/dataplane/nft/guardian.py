"""The watcher's hold on nftables: the keeper, the notifications of foreign changes, and the generation id."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.model import Listen
from portfleet.dataplane.interface import Foreign, Shortage
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.events import Generation, RulesWatch
from portfleet.dataplane.nft.keeper import Keeper

_TABLE = "portfleet"


class NftGuardian:
    """See `Guardian`. ``cache`` tells which transactions were our own."""

    every = 15.0

    def __init__(self) -> None:
        self.cache = SlotCache(Generation())
        self._events = RulesWatch()
        costs = self._events.shortage
        self.shortage = Shortage("SO_RCVBUFFORCE", costs) if costs else None
        self._keeper = Keeper()

    def fileno(self) -> int:
        return self._events.fileno()

    def read(self) -> list[Foreign]:
        found = []
        for change in self._events.read():
            if change.lost:
                found.append(Foreign())
            elif _TABLE in change.tables and not self.cache.is_own(change.generation):
                found.append(Foreign(change.process, change.pid, lost=_TABLE in change.deleted))
        return found

    def hold(self, listens: Iterable[Listen]) -> None:
        self._keeper.ensure(listens)

    def close(self) -> None:
        self._events.close()
        self._keeper.close()
