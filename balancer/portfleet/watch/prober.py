"""Active probes of many instances at little cost: no probe ever blocks, none is a task of its own.

A tick every few milliseconds begins the probes that are due and looks at those under way; sockets are non-blocking and
polled by their own system calls (recv, SO_ERROR through connect), so that a probe costs no registration anywhere. Our
daemon is asked by its control socket, over a connection that is kept, *and* through its port: a hung loop still
completes connects in the kernel's backlog, and only the answer of the loop itself tells the two apart.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from portfleet.model import Probe

_STATUS = b'{"command": "status"}\n'
_CONNECTED = (0, errno.EISCONN)
_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)


@dataclass(frozen=True)
class Target:
    """What to probe: the instance's address, its control socket (None: it has none) and how."""

    name: str
    host: str
    port: int
    control: str | None
    probe: Probe


@dataclass
class Asking:
    """A probe under way: the parts still to be answered, as iterators that yield until they are."""

    target: Target
    deadline: float
    parts: list[Iterator[None]] = field(default_factory=list)


class _Failed(Exception):
    """A part of a probe failed; the text says how."""


class Prober:
    """Probes ``targets`` in turn and calls ``result(name, trouble)`` for each probe ("" is a success)."""

    def __init__(self, result: Callable[[str, str], None], clock: Callable[[], float]) -> None:
        self._result, self._clock = result, clock
        self._targets: dict[str, Target] = {}
        self._due: dict[str, float] = {}
        self._asking: dict[str, Asking] = {}
        self._control: dict[str, socket.socket] = {}
        self.last_status: dict[str, bytes] = {}

    def aim(self, targets: Iterable[Target]) -> None:
        """Probe exactly ``targets`` from now on; new ones are spread over their interval."""
        wanted = {target.name: target for target in targets}
        for name in self._targets.keys() - wanted.keys():
            self._due.pop(name)
            self._asking.pop(name, None)
            self._hang_up(name)
        now, fresh = self._clock(), [name for name in wanted if name not in self._due]
        for number, name in enumerate(fresh):
            self._due[name] = now + wanted[name].probe.interval * number / len(fresh)
        self._targets = wanted

    def tick(self) -> None:
        """Begin what is due and look at what is under way."""
        now = self._clock()
        for name, due in self._due.items():
            if due <= now and name not in self._asking:
                target = self._targets[name]
                # Late ticks are not made up for: probing is per interval, not per catch-up.
                self._due[name] = max(due + target.probe.interval, now)
                self._asking[name] = self._begin(target, now)
        for name, asking in list(self._asking.items()):
            self._advance(name, asking, now)

    def _begin(self, target: Target, now: float) -> Asking:
        asking = Asking(target, now + target.probe.timeout)
        if target.control is not None:
            asking.parts.append(self._ask_control(target))
        asking.parts.append(_ask_port(target))
        return asking

    def _advance(self, name: str, asking: Asking, now: float) -> None:
        try:
            asking.parts = [part for part in asking.parts if next(part, self) is None]
        except (_Failed, OSError) as error:
            self._end(name, asking, str(error))
            return
        if not asking.parts:
            self._end(name, asking, "")
        elif now >= asking.deadline:
            self._end(name, asking, f"no answer within {asking.target.probe.timeout * 1000:.0f} ms")

    def _end(self, name: str, asking: Asking, trouble: str) -> None:
        for part in asking.parts:
            part.close()  # type: ignore[attr-defined] # they are generators; closing closes their sockets
        del self._asking[name]
        if trouble:
            self._hang_up(name)
        self._result(name, trouble)

    def _hang_up(self, name: str) -> None:
        connection = self._control.pop(name, None)
        if connection is not None:
            connection.close()

    def _ask_control(self, target: Target) -> Iterator[None]:
        connection = self._control.get(target.name)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._control[target.name] = connection
            if code := connection.connect_ex(str(target.control)):
                raise _Failed(f"control socket: {errno.errorcode.get(code, code)}")
        connection.send(_STATUS)
        got = b""
        while not got.endswith(b"\n"):
            try:
                part = connection.recv(65536)
            except BlockingIOError:
                yield None
                continue
            if not part:
                raise _Failed("control socket: closed")
            got += part
        self.last_status[target.name] = got
        if b'"state": "ready"' not in got and b'"state":"ready"' not in got:
            raise _Failed(f"it says {got[:200].decode(errors='replace').strip()}")


def _ask_port(target: Target) -> Iterator[None]:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        address = (target.host, target.port)
        while (code := connection.connect_ex(address)) not in _CONNECTED:
            if code not in _UNDER_WAY:
                raise _Failed(f"connect to port {target.port}: {errno.errorcode.get(code, code)}")
            yield None
        if target.probe.send is None:
            return
        connection.send(target.probe.send.encode())
        if target.probe.expect is None:
            return
        got, expected = b"", target.probe.expect.encode()
        while expected not in got:
            try:
                part = connection.recv(4096)
            except BlockingIOError:
                yield None
                continue
            got += part
            if not part or len(got) > 65536:
                raise _Failed(f"answered {got[:80]!r}, expected {expected!r}")
