"""The steps of a plan: each says itself in words; ``execute`` carries them out. Pure values."""

from __future__ import annotations

import math

from portfleet.core.changes import Transaction
from portfleet.core.printable import names, quantity
from portfleet.core.value import value


@value
class LoadRules:
    """Set rules that are missing or not what they must be; slots and connections stay."""

    what: str
    changes: Transaction

    def describe(self) -> str:
        return f"load the rules of {self.what}"


@value
class StartWatcher:
    """Have supervisord run the watcher."""

    def describe(self) -> str:
        return "start the watcher"


@value
class StartInstances:
    """Have supervisord start instances."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"start {names(self.names)}"


@value
class StartDataPlane:
    """Have supervisord start the data plane's own programs and wait until they take orders."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"start {names(self.names)}"


@value
class StartMetrics:
    """Have supervisord run the metrics' process, anew if it runs otherwise than is desired."""

    def describe(self) -> str:
        return "start the metrics"


@value
class StopMetrics:
    """Have supervisord stop the metrics' process and forget it."""

    def describe(self) -> str:
        return "stop the metrics"


@value
class RestartInstance:
    """Stop an instance and start it as it is wanted now; between the two its rules become what they must be.

    Its connections are ``handed`` to its siblings. Otherwise a daemon of docs/control.md has ``grace`` seconds for them
    once it is told to stop; those of others are closed at ``rate`` a second before, or all by the stop.
    """

    name: str
    connections: int
    changes: Transaction = ()
    handed: bool = False
    rate: int | None = None
    grace: float | None = None
    port: int | None = None

    def describe(self) -> str:
        end = (
            f"; {quantity(self.connections, 'connection')} {self.becomes(self.connections)}" if self.connections else ""
        )
        why = f"its port becomes {self.port}" if self.port else "its command, user or environment changed"
        return f"restart {self.name} ({why}{end})"

    def becomes(self, count: int) -> str:
        """Return what becomes of ``count`` connections, and in what time."""
        if self.handed:
            return "go to its siblings"
        if self.grace is not None:
            return f"may finish for {self.grace:g} s, then are closed"
        if self.rate:
            return f"are closed, {self.rate:,} a second, which takes {math.ceil(count / self.rate):,} s"
        return "are closed at once"


@value
class WaitReady:
    """Wait until instances take connections."""

    names: tuple[str, ...]
    seconds: float

    def describe(self) -> str:
        return f"wait until {names(self.names)} {'is' if len(self.names) == 1 else 'are'} ready"


@value
class LiveOn:
    """See that instances that are ready live on for ``seconds``: one good connect is not health."""

    names: tuple[str, ...]
    seconds: float

    def describe(self) -> str:
        return (
            f"wait {self.seconds:g} s to see that {names(self.names)} {'lives' if len(self.names) == 1 else 'live'} on"
        )


@value
class PointSlots:
    """Point a service's slots at the instances that serve, ``out`` left out; ``moved`` of ``total`` slots move."""

    service: str
    out: frozenset[str]
    moved: int
    total: int

    def describe(self) -> str:
        if not self.moved:
            return f"tell {self.service} who takes sticky, pinned, overflowing and local clients"
        without = f" away from {names(sorted(self.out))}" if self.out else ""
        share = f"{100 * self.moved / self.total:.1f} %"
        return f"point {self.moved:,} of {self.total:,} slots of {self.service}{without} ({share} of its clients)"


@value
class OpenListens:
    """Let clients in by the configured addresses, and no longer by others."""

    changes: Transaction
    words: str

    def describe(self) -> str:
        return self.words


@value
class StopInstances:
    """Have supervisord stop and forget instances without connections."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"stop {names(self.names)}"


@value
class DropRules:
    """Remove rules to which nothing points any more."""

    what: str
    changes: Transaction

    def describe(self) -> str:
        return f"remove the rules of {self.what}"


@value
class WriteJournal:
    """Keep the new state, without the services ``forget``."""

    what: str
    forget: tuple[str, ...]

    def describe(self) -> str:
        return f"write the journal ({self.what})"


Step = (
    LoadRules
    | StartWatcher
    | StartInstances
    | StartDataPlane
    | StartMetrics
    | StopMetrics
    | RestartInstance
    | WaitReady
    | LiveOn
    | PointSlots
    | OpenListens
    | StopInstances
    | DropRules
    | WriteJournal
)
