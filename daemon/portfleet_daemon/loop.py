"""The event loop: a selector that answers requests itself, inside an ordinary asyncio loop.

Facts about epoll that this file is built on (Linux, epoll(7); timings on a 2-core VM, CPython 3.11):

* Level-triggered needs no read until EAGAIN: what is left is reported again by the next wait. The extra read that an
  edge-triggered loop needs costs 0.85 µs a request and gains nothing.
* One wait reports a descriptor at most once. So closing the descriptor of the event in hand is safe at once; closing
  *another* one in mid-batch leaves a stale event behind, and its number may be another connection's by then. Therefore:
  connections are accepted after the batch, never in it; handlers that close another connection do so by `call_soon`;
  and an event is served only if its descriptor is still marked in `plain` or present in `objects`.
* close() takes a file out of the set only when its last descriptor goes: after a fork or a hand-off another process
  holds it too, and events for a descriptor we no longer have would come for ever. Hence EPOLL_CTL_DEL before close.
* EPOLLHUP and EPOLLERR are reported whether asked for or not, also with a mask of 0, and EPOLLIN may come with them:
  read first, the end shows itself as b"" or as an error. A connection that waits for an awaited reply is therefore
  taken out of the set, not masked.

Why a selector: asyncio calls `select(timeout)` and expects descriptors that are ready. Ours serves client connections
as integers in there and stays until asyncio itself has work: one of its descriptors, a due timer, or a `call_soon`.
A request costs a read, a write and a function call, and no object outlives it. Everything else is plain asyncio.

Two tables: `plain[fd]` is 1 for a connection at a request boundary with nothing to send: one byte, no object.
`objects[fd]` is everything else: a stateful connection (partial request, unsent bytes, awaited reply), a listener, and
the keys of asyncio's own descriptors.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from portfleet_daemon.framing.base import Exchange
from portfleet_daemon.stats import Stats

Ready = tuple[selectors.SelectorKey, int]

EVENTS = 256  # per wait; 64 costs no less, 1 costs 1.2 µs a request more
READ_SIZE = 4096  # bounds one client's share of a turn; 256 KiB reads cost 20 µs more in page faults
SMALL = 479  # the first read: 512 bytes with the object's header, pymalloc's limit; malloc costs 150 ns more

EPOLLIN = select.EPOLLIN
EPOLLOUT = select.EPOLLOUT


class EventTarget(Protocol):
    """What `objects` holds besides asyncio's keys: told of its events in the batch, or after it if `after_batch`."""

    after_batch: bool

    def event(self, mask: int) -> None: ...


class Stateful(Protocol):
    """Takes over a plain connection that is not one whole request answered by one whole write."""

    def arrived(self, fd: int, data: bytes) -> None: ...
    def unsent(self, fd: int, data: bytes, rest: bytes) -> None: ...
    def answered(self, fd: int, data: bytes, answer: Any) -> None: ...
    def raised(self, fd: int, data: bytes, error: BaseException) -> None: ...
    def lost(self, fd: int) -> None: ...


class ServingSelector(selectors.BaseSelector):
    """One epoll set for asyncio's descriptors and for client connections.

    `descriptors` is the number this process may have; `clock` gives seconds. `serve` comes before the first connection.
    """

    def __init__(self, *, stats: Stats, descriptors: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.plain = bytearray(descriptors)
        self.objects: dict[int, EventTarget | selectors.SelectorKey] = {}
        self.age: bytearray | None = None  # idle time-outs on: 1 for a connection seen since the last sweep
        self.now = clock()  # start of the current turn, for all who need no finer time
        self.interrupted = False
        self._clock = clock
        self._stats = stats
        self._epoll = select.epoll()
        self.watch = self._epoll.register  # (descriptor, mask): put a connection or listener into the set
        self.rewatch = self._epoll.modify  # (descriptor, mask): watch it for something else
        self.unwatch = self._epoll.unregister  # (descriptor): take it out
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._exchange: Exchange = lambda _: None
        self._stateful: Stateful
        self._read_size = READ_SIZE
        self._after: list[EventTarget] = []
        self._left = self.now

    def serve(self, exchange: Exchange, stateful: Stateful, *, read_size: int = READ_SIZE) -> None:
        """Answer plain connections by `exchange`, reading `read_size` bytes at most; the rest is for `stateful`."""
        self._exchange, self._stateful, self._read_size = exchange, stateful, read_size

    def begin(self) -> None:
        """Count how long clients wait from now on; before, there were none."""
        self._left, self._stats.max_lag = self._clock(), 0.0

    def watch_plain(self, descriptors: Iterable[int]) -> None:
        """Put connections at a request boundary into the set."""
        watch, plain, age = self.watch, self.plain, self.age
        for fd in descriptors:
            watch(fd, EPOLLIN)
            plain[fd] = 1
            if age is not None:
                age[fd] = 1

    def plain_after(self, fd: int) -> int:
        """Return the first plain descriptor behind `fd`, -1 if there is none."""
        return self.plain.find(1, fd + 1)

    def first_plain(self, most: int) -> list[int]:
        """Return up to `most` plain descriptors, ascending."""
        table, found, end = self.plain, list[int](), 0
        while len(found) < most and (first := table.find(1, end)) >= 0:
            end = table.find(0, first)
            end = len(table) if end < 0 else end
            found += range(first, min(end, first + most - len(found)))
        return found

    def unwatch_plain(self, descriptors: Iterable[int]) -> None:
        """Take connections at a request boundary out."""
        unwatch, plain, age = self.unwatch, self.plain, self.age
        for fd in descriptors:
            unwatch(fd)
            plain[fd] = 0
            if age is not None:
                age[fd] = 0

    # One long function, as each call saved is 40 ns of the 900 ns that Python adds to a request.
    def select(self, timeout: float | None = None) -> list[Ready]:  # noqa: PLR0915  see above
        """Serve clients until asyncio has work or `timeout` seconds have gone; return asyncio's ready keys."""
        self.interrupted = False
        read, write, poll, clock = os.read, os.write, self._epoll.poll, self._clock
        plain, stats, size = self.plain, self._stats, self._read_size
        small = first = min(SMALL, size)
        exchange, stateful = self._exchange, self._stateful
        ready: list[Ready] = []
        end = clock()
        stats.lag(end - self._left)
        deadline = None if timeout is None else end + timeout
        wait = timeout
        while True:
            events = poll(wait, EVENTS)
            self.now = start = clock()
            served = received = sent = 0
            for fd, mask in events:
                if not plain[fd]:
                    self._event(fd, mask, ready)
                    continue
                try:
                    data = read(fd, first)
                    if len(data) == first != size:
                        data += _rest(fd, size - first)
                except BlockingIOError:
                    continue
                except OSError:
                    stateful.lost(fd)
                    continue
                try:
                    reply = exchange(data)
                except BaseException as error:  # noqa: BLE001  whatever a handler raises must hurt only its connection
                    stateful.raised(fd, data, error)
                    continue
                if type(reply) is bytes:
                    try:
                        done = write(fd, reply)
                    except BlockingIOError:
                        done = 0
                    except OSError:
                        stateful.lost(fd)
                        continue
                    if done == len(reply):
                        served += 1
                        received += len(data)
                        sent += done
                    else:
                        stateful.unsent(fd, data, reply[done:])
                        sent += done
                elif reply is None:
                    stateful.arrived(fd, data)
                else:
                    stateful.answered(fd, data, reply)
            end = clock()
            if events:
                stats.turn(end - start, served, received, sent)
                first = size if received > small * served else small  # most would need a second read
                if self.age is not None:
                    for fd, _ in events:
                        self.age[fd] = self.age[fd] and 1
                while self._after:
                    self._after.pop().event(EPOLLIN)
            if ready or self.interrupted:
                break
            if deadline is not None:
                wait = deadline - end
                if wait <= 0:
                    break
        self._left = end
        return ready

    def _event(self, fd: int, mask: int, ready: list[Ready]) -> None:
        target = self.objects.get(fd)
        if target is None:
            return  # stale: closed by an earlier event of this batch
        if isinstance(target, selectors.SelectorKey):
            seen = (selectors.EVENT_READ if mask & ~EPOLLOUT else 0) | (selectors.EVENT_WRITE if mask & ~EPOLLIN else 0)
            ready.append((target, seen & target.events))
        elif target.after_batch:
            self._after.append(target)
        else:
            target.event(mask)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (descriptor {fd}) is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._epoll.register(fd, _mask(events))
        self.objects[fd] = self._keys[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        del self._keys[key.fd], self.objects[key.fd]
        with contextlib.suppress(OSError):  # closed already, and so out of the set
            self._epoll.unregister(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self.get_key(fileobj)._replace(events=events, data=data)
        self._epoll.modify(key.fd, _mask(events))
        self.objects[key.fd] = self._keys[key.fd] = key
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        for key in [self._keys[fd]] if fd in self._keys else self._keys.values():
            if key.fd == fd or key.fileobj is fileobj:  # the latter as a closed socket's fileno() is -1
                return key
        raise KeyError(f"{fileobj!r} is not registered")

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        # From Python 3.12 on asyncio looks up file objects here, before that descriptors.
        return {name: key for key in self._keys.values() for name in (key.fd, key.fileobj)}

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()


def _rest(fd: int, size: int) -> bytes:
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return b""  # it was all


def _mask(events: int) -> int:
    return (EPOLLIN if events & selectors.EVENT_READ else 0) | (EPOLLOUT if events & selectors.EVENT_WRITE else 0)
