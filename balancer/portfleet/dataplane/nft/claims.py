"""Who else claims the ports that clients dial: reserved by the watcher, and looked for in others' translations."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable, Iterator

from portfleet.core.model import Listen
from portfleet.dataplane.interface import Hazard
from portfleet.dataplane.nft.doctor import ruleset
from portfleet.dataplane.nft.doctor.walk import Walk
from portfleet.dataplane.nft.doctor.ways import Way
from portfleet.linux import processes
from portfleet.linux.reserve import listener_at, reserve

#: Seconds for which a port must be another's before that is told: an earlier watcher lets go within moments.
_PATIENCE = 5.0
#: Seconds between two looks at others' translations, however often they change their rules.
_EVERY = 5.0


class Reservations:
    """Holds what clients dial; a port that a process has already stays that process's."""

    def __init__(self) -> None:
        self._wanted: frozenset[Listen] = frozenset()
        self._held: dict[Listen, list[socket.socket]] = {}
        self._refused: dict[Listen, float] = {}

    def hold(self, listens: Iterable[Listen]) -> None:
        """Reserve exactly ``listens``; what is another's is tried again with the next call."""
        wanted = frozenset(listens)
        if wanted is self._wanted and len(self._held) == len(wanted):
            return
        self._wanted = wanted
        for listen in self._held.keys() - wanted:
            self._release(listen)
        self._refused = {listen: since for listen, since in self._refused.items() if listen in wanted}
        for listen in wanted - self._held.keys():
            try:
                self._held[listen] = reserve(listen)
                self._refused.pop(listen, None)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    self._refused.setdefault(listen, time.monotonic())

    def close(self) -> None:
        """Let everything go."""
        self.hold(())

    def _release(self, listen: Listen) -> None:
        for one in self._held.pop(listen):
            one.close()

    def hazards(self) -> Iterator[Hazard]:
        """Return who has a port that clients dial."""
        now = time.monotonic()
        for listen in [listen for listen, since in tuple(self._refused.items()) if now - since > _PATIENCE]:
            listener = listener_at(listen)
            who = f"{processes.owner_of(listener.inode)} listens on {listener}" if listener else "a process is bound"
            yield Hazard(
                f"port:{listen}",
                f"{who}, where clients dial {listen}: its connections from before stay, new ones go to the fleet",
                "end that process, or move it to another port; see: portfleet doctor",
            )


class Translations:
    """Others' rules that lead away what clients dial; `stale` when they may have changed."""

    def __init__(self) -> None:
        self.stale = True
        self._looked = -_EVERY
        self._listens: frozenset[Listen] = frozenset()
        self._found: tuple[Hazard, ...] = ()

    def hazards(self, listens: frozenset[Listen]) -> Iterable[Hazard]:
        """Return the rules that translate ``listens``; looks at them when they may have changed, and not too often."""
        now = time.monotonic()
        if (self.stale or listens != self._listens) and now - self._looked >= _EVERY:
            self.stale, self._looked, self._listens = False, now, listens
            self._found = tuple({hazard.about: hazard for hazard in _translated(listens)}.values())
        return self._found


def _translated(listens: Iterable[Listen]) -> Iterator[Hazard]:
    rules = ruleset.read_translations()
    for way in _ways(listens):
        for at in way.passes(rules):
            for hit in Walk(rules, at.packet, at.chain, at.dialled).run():
                if hit.what == "dnat" and hit.rule is not None:
                    yield _hazard(way.listen, hit.rule, rules.text(hit.rule))


def _ways(listens: Iterable[Listen]) -> Iterator[Way]:
    for listen in sorted(listens, key=str):
        for family in listen.families:
            yield from (Way(listen, family, listen.port, name) for name in ("lo", *ruleset.interfaces()))


def _hazard(listen: Listen, rule: ruleset.Rule, text: str) -> Hazard:
    return Hazard(
        f"translation:{rule.table} {rule.chain} {rule.handle}",
        f"`{text}` in {rule.table} {rule.chain} leads clients of {listen} elsewhere, or not: by who loaded last",
        f"nft delete rule {rule.table} {rule.chain} handle {rule.handle}; see: portfleet doctor",
    )
