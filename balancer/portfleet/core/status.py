"""What a daemon says of itself on its control socket (docs/control.md), as a value that was checked."""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from portfleet.core.value import value

if TYPE_CHECKING:
    from portfleet.core.counters import Counters


class DaemonState(StrEnum):
    """The states a daemon can say it is in."""

    STARTING = "starting"  #: not listening yet
    READY = "ready"  #: takes and serves connections
    DRAINING = "draining"  #: wants no new connections
    STOPPED = "stopped"  #: no connections, about to exit


@value
class Status:
    """A daemon's answer to ``status``: a claim, but each number is within 0 … 2^53.

    ``max_connections`` is 0 for a daemon that does not say; ``handoff`` holds the versions of the hand-off protocol it
    speaks, none if it cannot hand off; ``accepted``, ``requests``, ``errors`` and the bytes are None for a daemon that
    does not count them; ``keepalive`` is how many seconds a connection can be silent until its peer was asked for the
    last time, None if it does not say. The latency histogram has ascending upper ``bounds`` in µs, and ``counts`` for
    each of them and for what is above.
    """

    state: DaemonState
    connections: int
    max_connections: int = 0
    handoff: frozenset[int] = frozenset()
    accepted: int | None = None
    requests: int | None = None
    errors: int | None = None
    keepalive: int | None = None
    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    bytes_in: int | None = None
    bytes_out: int | None = None

    @property
    def counters(self) -> Counters | None:
        """Return what it counts of requests, if it does."""
        if self.requests is None or self.errors is None:
            return None
        from portfleet.core.counters import Counters  # most of those who ask for a status do not count

        latency = tuple(zip((*map(float, self.bounds), inf), self.counts, strict=True)) if self.counts else ()
        return Counters(self.requests, self.errors, latency)

    def hands_off_to(self, other: Status) -> bool:
        """Return whether both speak a common version of the hand-off protocol."""
        return bool(self.handoff & other.handoff)

    def keeps_to(self, limit: int) -> bool:
        """Return whether the daemon itself takes no more than ``limit`` connections."""
        return 0 < self.max_connections <= limit

    @property
    def full(self) -> bool:
        """Return whether it has as many connections as it takes; further ones wait in its backlog."""
        return 0 < self.max_connections <= self.connections
