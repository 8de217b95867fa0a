"""Who listens on this machine: all listeners looked at together, once a second, instead of each instance's by itself.

As long as the kernel says the same of them all, so many bytes are compared. Of a port of which it says something else,
the instance is told: another process may listen there, none any more, or connections wait in its queue. So is one that
has got a control socket since: the directories of those are looked at, and what is in them only when it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.linux import sockdiag
from portfleet.linux.listening import LOOPBACK, Listening
from portfleet.linux.unix_socket import is_absent

#: Seconds between two looks at all.
EVERY = 1.0


class Listeners:
    """The listeners of this network namespace, and the instances that rest as long as theirs do not change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._one, self._all = Listening(), sockdiag.ListenDump()
        self._due, self._fresh, self._dumped = 0.0, False, b""
        #: What the kernel says of each socket, with its port; and all ports.
        self._told, self._there = dict[bytes, int](), frozenset[int]()
        self._pairs = frozenset[tuple[int, int]]()
        #: Who rests, by name and by port; of which ports something else was said than before.
        self._resting: dict[str, Target] = {}
        self._names: dict[int, str] = {}
        self._changed = set[int]()
        #: When the directories of their control sockets were changed, as far as that is known.
        self._directories: dict[Path, int] = {}

    def takes(self, place: Port) -> bool:
        """Return whether a process listens there, on this machine, and no connection waits for it."""
        return self._one.takes(place.host, place.port)

    def pairs(self) -> frozenset[tuple[int, int]]:
        """Return (port, inode) of all listeners, at most a second old; the same object if they are the same as before.

        Raises OSError.
        """
        self._look()
        return self._pairs

    def rest(self, target: Target) -> bool:
        """Have `changed` tell of an instance that listens; False if that cannot be, or it is probed more often."""
        name, place = target.name, target.place
        if target.probe.interval < EVERY or place.host not in LOOPBACK:
            return False
        try:
            self._look()
        except OSError:
            return False
        if place.port not in self._there or place.port in self._changed:
            return False
        if target.control is not None:
            self._directories.setdefault(Path(target.control).parent, -1)
            if not is_absent(target.control):
                return False
        if self._names.setdefault(place.port, name) != name:
            return False
        self._resting[name] = target
        return True

    def rests(self, name: str) -> bool:
        """Return whether `changed` tells of an instance."""
        return name in self._resting

    def wake(self, name: str) -> bool:
        """End an instance's rest; False if it had none."""
        target = self._resting.pop(name, None)
        if target is None:
            return False
        del self._names[target.place.port]
        return True

    def changed(self) -> list[str]:
        """Return who rests and has another listener than before, or a control socket; all if nothing is told."""
        try:
            if self._resting:
                self._look()
            if self._fresh:
                changed, self._changed, self._fresh = self._changed, set(), False
                return [*self._with_control_socket(), *(self._names[port] for port in changed & self._names.keys())]
        except OSError:
            return list(self._resting)
        return []

    def left(self, now: float) -> float:
        """Return the seconds until the listeners of those that rest are to be looked at; inf if none rests."""
        return self._due - now if self._resting else inf

    def _look(self) -> None:
        """Look at all listeners if that is due."""
        now = self._clock()
        if now < self._due:
            return
        dumped = self._all.read()
        if dumped != self._dumped:
            sockets = [*sockdiag.by_port(dumped)]
            told = {message: port for port, _, message in sockets}
            self._changed |= {port for _, port in told.items() ^ self._told.items()}
            pairs = frozenset((port, inode) for port, inode, _ in sockets)
            self._dumped, self._told, self._there = dumped, told, frozenset(told.values())
            self._pairs = self._pairs if pairs == self._pairs else pairs
        self._due, self._fresh = now + EVERY, True

    def _with_control_socket(self) -> Iterator[str]:
        """Yield who rests and has a control socket by now; raises OSError."""
        for directory, known in self._directories.items():
            try:
                changed = directory.stat().st_mtime_ns
            except FileNotFoundError:
                changed = -1
            if changed == known:
                continue
            self._directories[directory] = changed
            for name, target in self._resting.items():
                control = target.control
                if control is not None and Path(control).parent == directory and not is_absent(control):
                    yield name
