"""The header by which a proxy in front tells who the client is: PROXY protocol version 2.

Source: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt, section 2.2. All of a header comes before the
client's first byte; it is read to its last byte and no further, so that what follows is served as without one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from portfleet_daemon.loop import EPOLLIN, ServingSelector

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_START = Struct(">12sBBH")  # signature, version and command, family and protocol, length of the rest
_TCP4, _TCP6 = 0x11, 0x21
_LOCAL, _PROXY = 0x20, 0x21
LONGEST = 4096  # bytes behind the start: addresses take 36, the rest is for what a proxy adds (TLVs), which is skipped
WITHIN = 5.0  # seconds: a proxy sends its header at once
#: A client's address and port as they go along with its connection: family, 16 bytes of address, port.
PEER = Struct(">B16sH")


class HeaderError(Exception):
    """What came first is not a header."""


class Start(NamedTuple):
    """The fixed part of a header, and how many bytes follow it."""

    command: int
    kind: int
    length: int


def read_start(data: bytes) -> Start:
    """Return what the first 16 bytes say; raise HeaderError."""
    signature, command, kind, length = _START.unpack(data)
    if signature != _SIGNATURE or command not in (_LOCAL, _PROXY):
        raise HeaderError("no header of PROXY protocol version 2")
    if length > LONGEST:
        raise HeaderError(f"a header of {length} bytes")
    return Start(command, kind, length)


def read_peer(start: Start, rest: bytes) -> bytes:
    """Return the client's address as PEER packs it, b"" if the proxy speaks for itself or of another protocol.

    Raise HeaderError if the addresses are cut off.
    """
    if start.command == _LOCAL or start.kind not in (_TCP4, _TCP6):
        return b""
    size = 4 if start.kind == _TCP4 else 16
    if len(rest) < 2 * size + 4:
        raise HeaderError("a header without its addresses")
    port = int.from_bytes(rest[2 * size : 2 * size + 2], "big")
    return PEER.pack(4 if size == 4 else 6, rest[:size], port)


def unpack_peer(peer: bytes) -> tuple[str, int]:
    """Return the address and port that PEER has packed; raise ValueError if it is neither of IPv4 nor of IPv6."""
    family, address, port = PEER.unpack(peer)
    if family not in (4, 6):
        raise ValueError(f"address family {family}")
    return (socket.inet_ntop(socket.AF_INET, address[:4]) if family == 4 else _ntop6(address)), port


def _ntop6(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address).removeprefix("::ffff:")


class Greeting:
    """A connection whose header has not come whole; `greeted` takes its descriptor and its client then."""

    after_batch = False

    def __init__(
        self,
        fd: int,
        *,
        selector: ServingSelector,
        greeted: Callable[[int, bytes], None],
        refused: Callable[[int, str], None],
    ) -> None:
        self._fd, self._selector, self._greeted, self._refused = fd, selector, greeted, refused
        self._data = bytearray()
        self._start: Start | None = None
        selector.objects[fd] = self
        selector.watch(fd, EPOLLIN)
        self._late = asyncio.get_running_loop().call_later(WITHIN, self._refuse, f"no header within {WITHIN:g} s")

    def event(self, mask: int) -> None:  # noqa: ARG002  level-triggered: the read says more than the mask
        """Read as far as the header goes."""
        try:
            while (lacking := self._lacking()) > 0:
                data = os.read(self._fd, lacking)
                if not data:
                    self._refuse("")
                    return
                self._data += data
            peer = read_peer(self._start, bytes(self._data[_START.size :])) if self._start else b""
        except BlockingIOError:
            return
        except (OSError, HeaderError) as error:
            self._refuse(str(error))
            return
        self.stop()
        self._greeted(self._fd, peer)

    def _lacking(self) -> int:
        if self._start is None:
            if len(self._data) < _START.size:
                return _START.size - len(self._data)
            self._start = read_start(bytes(self._data))
        return _START.size + self._start.length - len(self._data)

    def stop(self) -> None:
        """Wait for the header no longer; the connection stays open."""
        self._late.cancel()
        self._selector.unwatch(self._fd)
        del self._selector.objects[self._fd]

    def _refuse(self, reason: str) -> None:
        self.stop()
        self._refused(self._fd, reason)
