"""Connections that a test holds itself: sockets opened in a box's network stay there, whatever thread uses them."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.netns import network_of
from support.sandbox import Box


@dataclass(frozen=True)
class Answers:
    """What came of one round: who answered each connection, what went wrong with others, and the longest wait."""

    who: list[str] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)
    longest: float = 0.0


def dial(box: Box, to: tuple[str, int], sources: Iterable[str] = ("",), *, seconds: float = 5) -> list[socket.socket]:
    """Connect to ``to`` from ``box``, once from each of ``sources`` ("" for the kernel's choice); raises OSError.

    A link-local address takes a scope: "fe80::1%to-host".
    """
    made: list[socket.socket] = []
    with network_of(box):
        try:
            for source in sources:
                family, _, _, _, address = socket.getaddrinfo(*to, type=socket.SOCK_STREAM)[0]
                connection = socket.socket(family, socket.SOCK_STREAM)
                made.append(connection)
                connection.settimeout(seconds)
                if source:
                    connection.bind((source, 0))
                connection.connect(address)
        except OSError:
            close(made)
            raise
    return made


@contextmanager
def dialled(box: Box, to: tuple[str, int], sources: Iterable[str] = ("",)) -> Iterator[list[socket.socket]]:
    """Hold connections as `dial` makes them while the block runs."""
    made = dial(box, to, sources)
    try:
        yield made
    finally:
        close(made)


def close(connections: Iterable[socket.socket]) -> None:
    """Close all of ``connections``."""
    for connection in connections:
        connection.close()


def talk(connections: Sequence[socket.socket], *, seconds: float = 5) -> Answers:
    """Send one line on every connection and read one, all at once; a server's answer begins with its name."""
    for connection in connections:
        connection.setblocking(False)
    wrong = {}
    began = time.monotonic()
    for number, connection in enumerate(connections):
        try:
            connection.send(b"x\n")
        except OSError as error:
            wrong[number] = repr(error)
    return hear(connections, seconds=seconds, began=began, wrong=wrong)


def hear(
    connections: Sequence[socket.socket],
    *,
    seconds: float = 5,
    began: float | None = None,
    wrong: dict[int, str] | None = None,
) -> Answers:
    """Read one line from every connection that is not in ``wrong`` already."""
    began = time.monotonic() if began is None else began
    found, longest = dict(wrong or {}), 0.0
    who: dict[int, str] = {}
    got = [b""] * len(connections)
    with selectors.DefaultSelector() as selector:
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            if number not in found:
                selector.register(connection, selectors.EVENT_READ, number)
        while selector.get_map() and time.monotonic() < began + seconds:
            for key, _ in selector.select(0.1):
                number = key.data
                try:
                    part = connections[number].recv(4096)
                except OSError as error:
                    found[number] = repr(error)
                    longest = max(longest, time.monotonic() - began)
                    selector.unregister(connections[number])
                    continue
                got[number] += part
                if not part:
                    found[number] = "closed"
                if not part or got[number].endswith(b"\n"):
                    who.setdefault(number, got[number].split(b" ")[0].decode())
                    longest = max(longest, time.monotonic() - began)
                    selector.unregister(connections[number])
        for key in list(selector.get_map().values()):
            found[key.data] = f"silent for {seconds} s"
    return Answers([who[number] for number in sorted(who) if number not in found], found, longest)
