"""Passive health: clients that found no listener on an instance's port.

The dead are out before this is read. What is left is a process that lives without its listener: its clients wait, and
the next probe may be far away. Connections that did not come through the balancer, probes among them, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from portfleet.core.errors import PortfleetError
from portfleet.dataplane.interface import Connections
from portfleet.store.log import Log
from portfleet.watch.roster import Member


class GuardDrops:
    """Compares the counts of ``connections`` with those before; ``look`` has a member probed now."""

    def __init__(self, connections: Connections, look: Callable[[str], None], log: Log) -> None:
        self._connections, self._look, self._log = connections, look, log
        self._known: Mapping[str, int] | None = None
        self._told: set[str] = set()

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many connection attempts found no listener, by serving instance, since the rules were loaded."""
        return self._known or {}

    def look(self, serving: Iterable[Member]) -> None:
        """Have those of ``serving`` probed whose clients were dropped since the last look; said when that begins."""
        try:
            members = list(serving)
            counts = self._connections.turned_away(member.want.rule for member in members)
        except PortfleetError:
            return  # the healer, which reads more, says why
        known, self._known = self._known, counts
        if known is None or (known == counts and not self._told):
            return
        for member in members:
            port = member.want.rule.port
            new = counts.get(member.name, 0) - known.get(member.name, counts.get(member.name, 0))
            if member.local and new > 0:
                reason = f"no process listens on port {port}: clients send their next SYN a second later"
                self._log.once("dropped", about=member.name, instance=member.name, reason=reason)
                self._told.add(member.name)
                self._look(member.name)
            elif member.name in self._told:  # or fewer: the rules were flushed and put back
                self._told.discard(member.name)
                self._log.over("dropped", about=member.name)
