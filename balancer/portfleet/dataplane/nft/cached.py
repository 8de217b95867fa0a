"""The slots of services as they were read last, which need not be read again while only this process changes them.

Every transaction on the rules of a network namespace raises its generation id by one. If the id rose by as many
transactions as we carried out, all of them are ours; while the id stays, so does what was read at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from portfleet.core.slots import Table


class SlotCache:
    """Slots by service; ``generation`` returns the present generation id."""

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._known = -1
        self._slots: dict[str, Table] = {}
        self._own: deque[int] = deque(maxlen=1024)

    def is_own(self, generation: int) -> bool:
        """Return whether that transaction was one of ours."""
        return generation in self._own

    def read(self, service: str, read: Callable[[str], Table]) -> Table:
        """Return a service's slots, by ``read`` if another process may have changed them."""
        now = self._generation()
        if now != self._known:
            self._known, self._slots = now, {}
        if service not in self._slots:
            self._slots[service] = read(service)
        return self._slots[service]

    @contextmanager
    def reading(self) -> Iterator[Callable[[Mapping[str, Table]], None]]:
        """Keep the slots that are noted in this context, if nothing changed while they were read."""
        found: dict[str, Table] = {}
        before = self._generation()
        yield found.update
        if before == self._generation():
            self._known, self._slots = before, found

    @contextmanager
    def changing(self, done: Callable[[], int]) -> Iterator[Callable[[Mapping[str, Table]], None]]:
        """Follow the transactions that are carried out in this context; what they set slots to is noted.

        ``done`` returns how many transactions this process has carried out so far.
        """
        found: dict[str, Table] = {}
        before, count = self._generation(), done()
        yield found.update
        after = self._generation()
        if after - before != done() - count:
            return  # another process changed something in between: the next read reads anew
        self._own.extend(range(before + 1, after + 1))
        if before == self._known:
            self._known = after
            self._slots |= found
