"""Passive health: clients that found no listener on an instance's port.

The dead are out before this is read. What is left is a process that lives without its listener: its clients wait, and
the next probe may be far away. Connections that did not come through the balancer, probes among them, are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from portfleet.core.errors import PortfleetError
from portfleet.dataplane.interface import Connections
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector
from portfleet.watch.roster import Roster

#: Seconds between two looks: the counts of 1,024 instances take a millisecond or two.
_EVERY = 1.0


class GuardDrops:
    """Compares the counts of ``connections`` with those before; ``probe`` has a member probed now."""

    def __init__(
        self, connections: Connections, roster: Roster, ejector: Ejector, probe: Callable[[str], None], log: Log
    ) -> None:
        self._connections, self._roster, self._ejector = connections, roster, ejector
        self._probe, self._log = probe, log
        self._due = self._known_at = 0.0
        self._known: Mapping[str, int] | None = None
        self._told: set[str] = set()

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many connection attempts found no listener, by instance, since the rules were loaded."""
        return self._known or {}

    def look(self) -> None:
        """Once a second, have those that serve probed whose clients were dropped meanwhile; said when that begins."""
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + _EVERY
        members = self._roster.members
        try:
            counts = self._connections.turned_away(member.want.rule for member in members.values())
        except PortfleetError:
            return  # the healer, which reads more, says why
        known, since, self._known, self._known_at = self._known, self._known_at, counts, now
        if known is None or (known == counts and not self._told):
            return
        for name, member in members.items():
            port, serves = member.want.rule.port, member.want.takes and self._ejector.serves(name)
            new = counts.get(name, 0) - known.get(name, counts.get(name, 0))
            # Of one that was out meanwhile, what was dropped before is told already.
            if member.local and serves and new > 0 and (member.served_at or 0.0) < since:
                reason = f"no process listens on port {port}: clients send their next SYN a second later"
                self._log.once("dropped", about=name, instance=name, reason=reason)
                self._told.add(name)
                self._probe(name)
            elif name in self._told:  # or fewer: the rules were flushed and put back
                self._told.discard(name)
                self._log.over("dropped", about=name)
        for name in self._told - members.keys():
            self._told.discard(name)
            self._log.over("dropped", about=name)
