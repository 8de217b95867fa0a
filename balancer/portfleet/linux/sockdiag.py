"""TCP sockets of this network namespace by sock_diag(7): who listens where, and how many are established by port.

Layouts: struct inet_diag_req and inet_diag_msg of linux/inet_diag.h. Written here because `status` must be quick:
importing a netlink library costs more (0.13 s) than all of `status` may (0.15 s).

Sockets are asked for by the older of the two requests, TCPDIAG_GETSOCK, which tells those of both address families. For
SOCK_DIAG_BY_FAMILY the kernel goes through all sockets once for each family: to be told of 150,000 takes 0.16 s of CPU
by the one and 0.21 s by the other (Linux 6.18).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DESTROY = 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
#: How the message begins that ends a dump without an error: 20 bytes, NLM_F_MULTI, our only request's number.
_DONE = struct.pack("=LHHL", 20, _NLMSG_DONE, 0x2, 1)
_SKV6ONLY = 11
#: The attribute with a connection's struct tcp_info (linux/tcp.h), how it is asked for, and where that has the bytes
#: that its peer has acknowledged and sent (Linux 4.1).
_INFO, _WITH_INFO, _BYTES = 2, 1 << 1, struct.Struct("=120xQQ")
_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT, _LISTEN = 1 << 1, 1 << 3, 1 << 8, 1 << 10
#: FIN_WAIT1, FIN_WAIT2, LAST_ACK and CLOSING: packets are yet to come.
_ENDING = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11
#: What an IPv4 address is preceded by in an IPv6 socket (RFC 4291, 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"
_PORTS = struct.Struct("!HH")
_PORT_AND_INODE = struct.Struct("=4xH62xI")
_HEADER = struct.Struct("=LHHLL")
_MESSAGE = struct.Struct("=BBBB HH16s16sI8s IIIII".replace(" ", ""))

#: One socket as the kernel describes it (struct inet_diag_msg), by which it is found again even if its port is re-used.
Socket = bytes


class Ends(NamedTuple):
    """The two ends of a connection, addresses as 4 or 16 bytes; as 4 even if an IPv6 socket has IPv4."""

    local: bytes
    port: int
    peer: bytes
    peer_port: int


class Listener(NamedTuple):
    """A LISTEN socket: where, who made it (inode), how many wait in its accept queue and how many may."""

    family: Literal[4, 6]
    address: str
    port: int
    inode: int
    v6only: bool
    queued: int
    backlog: int

    @property
    def wildcard(self) -> bool:
        return self.address in ("0.0.0.0", "::")

    @property
    def families(self) -> frozenset[int]:
        """The address families whose clients reach it."""
        return frozenset({4, 6} if self.family == 6 and self.wildcard and not self.v6only else {self.family})

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.family == 6 else f"{self.address}:{self.port}"


def listeners() -> list[Listener]:
    """Return every LISTEN socket. Raises OSError if the kernel refuses."""
    found, known = [], dict[bytes, bool]()  # the attributes of most listeners are alike
    for family, message in _dump(_LISTEN):
        fields = _MESSAGE.unpack_from(message)
        if family == 4:
            address, v6only = socket.inet_ntop(socket.AF_INET, fields[6][:4]), False
        else:
            address, attributes = socket.inet_ntop(socket.AF_INET6, fields[6]), message[_MESSAGE.size :]
            if attributes not in known:
                known[attributes] = any(kind == _SKV6ONLY and value[0] for kind, value in _attributes(attributes))
            v6only = known[attributes]
        port = socket.ntohs(fields[4])
        found.append(Listener(family, address, port, fields[14], v6only, fields[11], fields[12]))
    return found


class ListenDump:
    """Dumps all LISTEN sockets again and again, over one socket: as long as nothing changes, the bytes are the same."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None

    def read(self) -> bytes:
        """Return what the kernel says of all of them, for `by_port`. Raises OSError."""
        netlink, self._netlink = self._netlink or _open(), None
        parts = [*_received(netlink, _LISTEN)]
        self._netlink = netlink  # not after an error: the rest of that answer may be yet to come
        return b"".join(parts)


def by_port(dumped: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (local port, inode, all that is told of it) for each socket of a dump; raises OSError, its error."""
    for message in _messages(dumped):
        port, inode = _PORT_AND_INODE.unpack_from(message)
        yield socket.ntohs(port), inode, message


def established() -> Counter[int]:
    """Return how many connections are established by local port."""
    found = Counter[int]()
    for data in _parts(_ESTABLISHED | _CLOSE_WAIT):
        if stride := _stride(data):  # the two bytes of every port, behind the header and family, state and timer
            ports = bytearray(2 * (len(data) // stride))
            ports[0::2], ports[1::2] = data[20::stride], data[21::stride]
            found.update(memoryview(ports).cast("H"))
        else:
            found.update(_MESSAGE.unpack_from(message)[4] for message in _messages(data))
    return Counter({socket.ntohs(port): number for port, number in found.items()})


def established_inodes() -> dict[int, int]:
    """Return {inode: local port} of every established connection."""
    found: dict[int, int] = {}
    for data in _parts(_ESTABLISHED | _CLOSE_WAIT):
        if stride := _stride(data):  # the inode is at byte 68
            pairs: Iterable[tuple[int, int]] = struct.iter_unpack(f"=20xH62xL{stride - 88}x", data)
        else:
            pairs = ((fields[4], fields[14]) for fields in map(_MESSAGE.unpack_from, _messages(data)))
        found.update((inode, socket.ntohs(port)) for port, inode in pairs)
    return found


def connections() -> Iterator[Ends]:
    """Return every connection of which packets are yet to come, from its answered SYN to its last ACK."""
    for family, message in _dump(_ESTABLISHED | _SYN_RECV | _CLOSE_WAIT | _ENDING):
        port, peer_port = _PORTS.unpack_from(message, 4)
        if family == 4:
            yield Ends(message[8:12], port, message[24:28], peer_port)
        elif message[8:20] == _MAPPED:
            yield Ends(message[20:24], port, message[36:40], peer_port)
        else:
            yield Ends(message[8:24], port, message[24:40], peer_port)


def of_peer(address: bytes) -> Iterator[tuple[Ends, int]]:
    """Return each established connection to ``address`` (4 or 16 bytes), with its inode."""
    wanted = address if len(address) == 16 else address + bytes(12)
    for _, message in _dump(_ESTABLISHED | _CLOSE_WAIT):
        if message[24:40] in (wanted, _MAPPED + address):
            port, peer_port = _PORTS.unpack_from(message, 4)
            yield Ends(b"", port, address, peer_port), _MESSAGE.unpack_from(message)[14]


def waiting() -> Counter[int]:
    """Return how many connections no process has accepted yet, by local port: in accept queues and in SYN_RECV.

    For those in SYN_RECV the kernel goes through all sockets of the machine: 60 ms with 150,000 connections between two
    boxes of it.
    """
    found = Counter(int.from_bytes(message[4:6], "big") for _, message in _dump(_SYN_RECV))
    for listener in listeners():
        found[listener.port] += listener.queued
    return found


def of_port(port: int) -> list[Socket]:
    """Return the established connections of local port ``port``."""
    wanted = port.to_bytes(2, "big")
    established = _dump(_ESTABLISHED | _CLOSE_WAIT, port=port)
    return [message for _, message in established if message[4:6] == wanted]


def traffic(port: int) -> Iterator[tuple[bytes, int, int]]:
    """Return (the kernel's name of it, bytes in, bytes out) of each established connection of local port ``port``."""
    wanted = port.to_bytes(2, "big")
    for _, message in _dump(_ESTABLISHED | _CLOSE_WAIT, port=port, also=_WITH_INFO):
        if message[4:6] == wanted:
            for kind, value in _attributes(message[_MESSAGE.size :]):
                if kind == _INFO and len(value) >= _BYTES.size:
                    sent, received = _BYTES.unpack_from(value)
                    yield message[44:52], received, sent


def destroy(sockets: Iterable[Socket]) -> int:
    """Reset connections (SOCK_DESTROY, Linux 4.9), whose clients see that; gives how many were still there.

    Raises OSError (EPERM without CAP_NET_ADMIN, EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY).
    """
    done = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.bind((0, 0))
        for message in sockets:
            body = struct.pack("=BBBBI", message[0], socket.IPPROTO_TCP, 0, 0, 1 << message[1]) + message[4:52]
            head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
            netlink.send(head + body)
            code = -struct.unpack_from("=i", netlink.recv(4096), _HEADER.size)[0]
            if code == 0:
                done += 1
            elif code != errno.ENOENT:  # it ended by itself meanwhile
                raise OSError(code, os.strerror(code))
    return done


def _dump(states: int, *, port: int = 0, also: int = 0) -> Iterator[tuple[Literal[4, 6], bytes]]:
    """Dump the sockets in ``states``; with ``port`` the kernel itself picks those of that local port.

    ``also``: bits of the attributes that are wanted too.
    """
    for data in _parts(states, port=port, also=also):
        yield from ((6 if message[0] == socket.AF_INET6 else 4, message) for message in _messages(data))


def _parts(states: int, *, port: int = 0, also: int = 0) -> Iterator[bytes]:
    """Dump as `_dump` does, and return what comes in one part at a time, not taken apart."""
    with _open() as netlink:
        yield from _received(netlink, states, port=port, also=also)


def _open() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    netlink.bind((0, 0))
    return netlink


def _received(netlink: socket.socket, states: int, *, port: int = 0, also: int = 0) -> Iterator[bytes]:
    body = struct.pack("=3xB2s46xI4x", also, port.to_bytes(2, "big"), states)
    head = _HEADER.pack(_HEADER.size + len(body), _TCPDIAG_GETSOCK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    netlink.send(head + body)
    ended = False
    while not ended:
        data = netlink.recv(1 << 18)
        ended = _ends(data)
        yield data


def _ends(data: bytes) -> bool:
    """Return whether a part is the last one."""
    if data[-20:-8] == _DONE:
        return True
    return not _stride(data) and (_NLMSG_DONE in (kinds := _kinds(data)) or _NLMSG_ERROR in kinds)


def _kinds(data: bytes) -> set[int]:
    found, offset = set[int](), 0
    while offset < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        found.add(kind)
        offset += (length + 3) & ~3
    return found


def _stride(data: bytes) -> int:
    """Return the length of the sockets' messages in a part, if it holds nothing else and all are as long; else 0.

    A machine may have 150,000 sockets: one by one their messages take longer than the kernel does.
    """
    length, kind, *_ = _HEADER.unpack_from(data)
    stride = (length + 3) & ~3
    if kind != _TCPDIAG_GETSOCK or len(data) % stride:
        return 0
    number = len(data) // stride
    alike = (data[at::stride] == data[at : at + 1] * number for at in range(6))  # length and kind, byte by byte
    return stride if all(alike) else 0


def _messages(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        body = data[offset + _HEADER.size : offset + length]
        if kind == _NLMSG_DONE:
            return
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", body)[0]
            raise OSError(code, os.strerror(code))
        yield body
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[(length + 3) & ~3 :]
