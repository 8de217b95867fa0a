"""Probes under way and what they wait for, by epoll(7): so that a look at all of them costs one system call."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass

from portfleet.daemons.exchange import Exchange
from portfleet.daemons.probe import Target
from portfleet.daemons.run import Run
from portfleet.daemons.talk import Talk


@dataclass
class UnderWay:
    """A probe under way: what is being asked, what comes after it, when it began and until when all of it may take.

    ``awaited``: the descriptor and events that epoll has for it.
    """

    target: Target
    deadline: float
    began: float
    steps: Iterator[Exchange]
    talk: Talk | Run
    awaited: tuple[int, int] = (-1, 0)


class Waits:
    """Descriptors that are waited for, and by whose probe."""

    def __init__(self) -> None:
        self._poll, self._names = select.epoll(), dict[int, str]()

    def watch(self, name: str, descriptor: int, events: int) -> None:
        """Wait for ``events`` alone of a descriptor, which may be waited for already."""
        if descriptor in self._names:
            self._poll.modify(descriptor, events)
        else:
            self._poll.register(descriptor, events)
            self._names[descriptor] = name

    def forget(self, descriptor: int) -> None:
        """Wait for a descriptor no longer, if it is waited for."""
        if self._names.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def ready(self) -> list[str]:
        """Return whose descriptors the kernel has something for; never wait."""
        return [self._names.get(descriptor, "") for descriptor, _ in self._poll.poll(0)]
