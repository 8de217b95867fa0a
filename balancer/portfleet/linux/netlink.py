"""A little nfnetlink(7): requests, dumps and attributes for what has no library here.

Layouts: struct nlmsghdr (linux/netlink.h), struct nfgenmsg (linux/netfilter/nfnetlink.h), attributes of length, type
and value padded to four bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from types import TracebackType
from typing import Self

NETLINK_NETFILTER = 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_BEGIN, _END = 0x10, 0x11  # of a transaction
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what is dumped changed meanwhile
_HEADER = struct.Struct("=LHHLL")
_NFGEN = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket
#: Acknowledgements that fit into a default receive buffer (212,992 bytes) with room to spare.
_BATCH = 128


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(members))


def members(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return (kind, value) of each attribute."""
    offset, size = 0, len(data)
    while offset + 4 <= size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Read attributes as {kind: value}; the last of a kind counts."""
    found, offset, size = dict[int, bytes](), 0, len(data)
    while offset + 4 <= size:  # as in `members`, whose generator takes half as long again
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return (type, flags, body) of each message in what one recv gave; nfgenmsg is still in the body."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def widen(receiver: socket.socket, *, received: int) -> int:
    """Have the kernel keep up to ``received`` bytes for ``receiver``; gives how many it will keep.

    More than net.core.rmem_max takes CAP_NET_ADMIN of the first user namespace (socket(7), SO_RCVBUFFORCE).
    """
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, received)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    return receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own use


class Netfilter(threading.local):
    """A request socket of nfnetlink, one for each thread. Every method raises OSError with the kernel's errno.

    Over one for all, a thread would take the answer that another one waits for, which then waits for ever.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def dump(
        self, kind: int, family: int, *members: bytes, first: bool = False
    ) -> Iterator[tuple[int, dict[int, bytes]]]:
        """Ask for everything of a kind; gives (address family, attributes) of each answer.

        ``first``: all is received before any of it is taken apart, so that less can change meanwhile. Raises
        InterruptedError at the end where what was dumped changed meanwhile.
        """
        for family_found, body in self.bodies(kind, family, *members, first=first):
            yield family_found, attributes(body)

    def bodies(self, kind: int, family: int, *members: bytes, first: bool = False) -> Iterator[tuple[int, bytes]]:
        """Ask as `dump` does; gives (address family, attributes not taken apart)."""
        self._socket.send(self._message(kind, REQUEST | DUMP, family, members))
        parts = list(self._parts()) if first else self._parts()
        interrupted = False
        for answer, flags, body in chain.from_iterable(map(messages, parts)):
            interrupted |= bool(flags & _INTERRUPTED)
            if answer == _ERROR:
                _raise(body)
            elif answer != _DONE:
                yield body[0], body[_NFGEN.size :]
        if interrupted:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    def _parts(self) -> Iterator[bytes]:
        """Receive the parts of a dump."""
        kind = 0
        while kind not in (_DONE, _ERROR):
            data = self._socket.recv(1 << 18)
            kind = _last(data)
            yield data

    def get(self, kind: int, family: int, *members: bytes) -> dict[int, bytes]:
        """Ask for one thing and give its attributes."""
        self._socket.send(self._message(kind, REQUEST, family, members))
        for answer, _, body in messages(self._socket.recv(1 << 16)):
            if answer == _ERROR:
                _raise(body)
            return attributes(body[_NFGEN.size :])
        raise OSError(0, "an empty answer from nfnetlink")

    def change(self, kind: int, wanted: Iterable[tuple[int, bytes]], *, flags: int = 0) -> list[int]:
        """Send one request per (family, attributes); gives each one's errno, 0 for done."""
        results: list[int] = []
        batch: list[bytes] = []
        for family, members in wanted:
            batch.append(self._message(kind, REQUEST | ACK | flags, family, (members,)))
            if len(batch) == _BATCH:
                results += self._flush(batch)
                batch = []
        return results + self._flush(batch)

    def insert(self, wanted: Iterable[bytes]) -> Counter[int]:
        """Send whole requests (see `message`) without having each acknowledged; return how many failed, by errno.

        The kernel has dealt with all of a send when it returns, so what failed can be read at once.
        """
        failed: Counter[int] = Counter()
        requests = iter(wanted)
        while some := list(islice(requests, _BATCH)):
            self._socket.send(b"".join(some))
            with suppress(BlockingIOError):
                while True:
                    found = messages(self._socket.recv(1 << 18, socket.MSG_DONTWAIT))
                    failed.update(-struct.unpack_from("=i", body)[0] for kind, _, body in found if kind == _ERROR)
        return failed

    def transact(self, subsystem: int, requests: Iterable[tuple[int, int, int, bytes]]) -> None:
        """Have the kernel carry out requests (family, kind, flags, attributes) as one transaction, all or none."""
        ends = [
            _HEADER.pack(_HEADER.size + _NFGEN.size, kind, REQUEST, 0, 0) + _NFGEN.pack(0, 0, socket.htons(subsystem))
            for kind in (_BEGIN, _END)
        ]
        asked = [self._message(kind, REQUEST | ACK | flags, family, (body,)) for family, kind, flags, body in requests]
        self._socket.send(b"".join([ends[0], *asked, ends[1]]))
        codes: list[int] = []
        with suppress(BlockingIOError):  # all of them are there: the kernel answers within send(2)
            while True:
                found = messages(self._socket.recv(1 << 18, socket.MSG_DONTWAIT))
                codes += [-struct.unpack_from("=i", body)[0] for kind, _, body in found if kind == _ERROR]
        code = next(filter(None, codes), 0 if len(codes) == len(asked) else errno.EIO)
        if code:
            raise OSError(code, os.strerror(code))

    def _flush(self, batch: list[bytes]) -> list[int]:
        results: list[int] = []
        if batch:
            self._socket.send(b"".join(batch))
        while len(results) < len(batch):
            results += [
                -struct.unpack_from("=i", body)[0]
                for answer, _, body in messages(self._socket.recv(1 << 18))
                if answer == _ERROR
            ]
        return results

    def _message(self, kind: int, flags: int, family: int, members: Iterable[bytes]) -> bytes:
        self._sequence += 1
        return message(kind, flags, family, members, sequence=self._sequence)


def message(kind: int, flags: int, family: int, members: Iterable[bytes], *, sequence: int = 0) -> bytes:
    """Return one whole request of nfnetlink; ``members`` are its attributes."""
    body = _NFGEN.pack(family, 0, 0) + b"".join(members)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _last(data: bytes) -> int:
    """Return the type of the last message of a part; that of an empty one is an error's."""
    kind, offset = _ERROR, 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        offset += max(length + 3 & ~3, _HEADER.size)
    return kind


def _raise(body: bytes) -> None:
    code = -struct.unpack_from("=i", body)[0]
    raise OSError(code, os.strerror(code))
