"""What is said to an instance and what its answers mean, without any I/O: bytes in, verdict out.

An `Exchange` is one conversation over one connection. Whoever has the connection (`talk`: blocking for commands, by
ticks for the watcher) tells it what happened and obeys its verdict. So each kind of probe is one class, in one place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from portfleet.core.value import value

#: By which a proxy says that it speaks for itself (PROXY protocol version 2, command LOCAL, no addresses).
PROXY_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
#: How an exchange stands: None to go on, "" when it has ended well, otherwise what is wrong, in words that print.
Verdict = str | None


@value
class Control:
    """A control socket on this box, and the process in whose tree its listener must be (None: not an instance's).

    An instance may run as a user who owns the directory of its socket, so that the path alone proves nothing.
    """

    path: str
    pid: int | None

    def __str__(self) -> str:
        return "control socket"


@value
class Port:
    """A TCP port at an address of either family; ``opening`` is what every connection to it begins with."""

    host: str
    port: int
    opening: bytes = b""

    def __str__(self) -> str:
        return f"port {self.port}"


@value
class Command:
    """A command on this box, run as ``user`` (None: this one) in ``directory``.

    ``files``: the first of them that is there tells the secrets of the environment that the instance was started with.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    user: str | None
    directory: str | None
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"probe {self.words[0]}"


class Exchange:
    """One conversation: connect, send ``request``, then end our side if it ``ends``, then read what comes."""

    request = b""
    ends = False

    def __init__(self, place: Control | Port | Command) -> None:
        self.place = place

    def unreachable(self, code: int) -> Verdict:
        """Take in that connecting, sending or receiving failed with an errno."""
        return f"{self.place}: {os.strerror(code)} ({errno.errorcode.get(code, code)})"

    def connected(self) -> Verdict:
        """Take in that there is a connection."""
        return None

    def sent(self) -> Verdict:
        """Take in that all of the request is on its way."""
        return None

    def received(self, data: bytes) -> Verdict:
        """Take in what came next; b"" is the end of the other side."""
        raise NotImplementedError

    def ended(self, status: int, output: bytes) -> Verdict:
        """Take in that the command has ended: its exit status (a signal's negative), and the begin of its output."""
        raise NotImplementedError

    def late(self, seconds: float) -> Verdict:
        """Take in that it has not ended ``seconds`` after it began."""
        return f"{self.place}: no answer within {seconds * 1000:.0f} ms"
