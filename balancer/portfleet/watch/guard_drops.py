"""Passive health: clients whose SYN the guard dropped because nobody listens on an instance's port.

The dead are out before this is read. What is left is a process that lives without its listener: its clients wait, and
the next probe may be far away. Connections that did not come through the balancer, probes among them, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from portfleet.core.errors import PortfleetError
from portfleet.store.log import Log
from portfleet.watch.roster import Member


class GuardDrops:
    """Compares the guard's counts with those before; ``read`` gives them by port, ``look`` has a member probed now."""

    def __init__(self, read: Callable[[], Mapping[int, int]], look: Callable[[str], None], log: Log) -> None:
        self._read, self._look, self._log = read, look, log
        self._known: Mapping[int, int] | None = None

    def look(self, serving: Iterable[Member]) -> None:
        """Have those of ``serving`` probed whose clients were dropped since the last look; said when that begins."""
        try:
            counts = self._read()
        except PortfleetError:
            return  # the healer, which reads more, says why
        known, self._known = self._known, counts
        if known is None:
            return
        for member in serving:
            port = member.want.rule.port
            new = counts.get(port, 0) - known.get(port, 0)
            if member.local and new > 0:
                reason = f"nobody listens on port {port}: their next SYN comes a second later"
                self._log.once("dropped", about=member.name, instance=member.name, reason=reason)
                self._look(member.name)
            else:  # fewer: the rules were flushed and put back
                self._log.over("dropped", about=member.name)
