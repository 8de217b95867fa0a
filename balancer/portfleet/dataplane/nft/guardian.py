"""The watcher's hold on nftables: the keeper, the notifications of foreign changes, and the generation id."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.model import Listen
from portfleet.dataplane.interface import Foreign, Hazard
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.claims import Reservations, Translations
from portfleet.dataplane.nft.doctor.ruleset import OURS
from portfleet.dataplane.nft.events import Generation, RulesWatch
from portfleet.dataplane.nft.keeper import Keeper
from portfleet.dataplane.nft.saved import SavedRules

_TABLE = "portfleet"


class NftGuardian:
    """See `Guardian`. ``cache`` tells which transactions were our own."""

    every = 15.0

    def __init__(self) -> None:
        self.cache = SlotCache(Generation())
        self._events = RulesWatch()
        self.shortage = self._events.shortage
        self._keeper = Keeper()
        self._reserved, self._translations, self._saved = Reservations(), Translations(), SavedRules()
        self._listens: frozenset[Listen] = frozenset()

    def fileno(self) -> int:
        return self._events.fileno()

    def read(self) -> list[Foreign]:
        found = []
        for change in self._events.read():
            self._translations.stale |= change.lost or bool(change.tables - OURS)
            if change.lost:
                found.append(Foreign())
            elif _TABLE in change.tables and not self.cache.is_own(change.generation):
                found.append(Foreign(change.process, change.pid, lost=_TABLE in change.deleted))
        return found

    def hold(self, listens: Iterable[Listen]) -> None:
        self._listens = frozenset(listens)
        self._reserved.hold(self._listens)
        self._keeper.ensure(self._listens)

    def hazards(self) -> list[Hazard]:
        found = self._translations.hazards(self._listens)
        return [*self._saved.hazards(), *self._reserved.hazards(), *found]

    def close(self) -> None:
        self._reserved.close()
        self._events.close()
        self._keeper.close()
