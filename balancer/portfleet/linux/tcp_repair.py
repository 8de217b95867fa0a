"""Taking established TCP connections out of the kernel and putting them into another one (TCP_REPAIR, Linux 3.5).

Facts, by Linux 6.18 and net/ipv4/tcp.c:

- A socket in repair mode says nothing: closed there it sends neither FIN nor RST. The mode must be left before anything
  can go wrong (`dump` does): a process that ends meanwhile would leave a connection that is deaf for good.
- Leaving it sends a window probe (0) or not (-1, Linux 4.19), and sets SO_REUSEADDR to 0. With that a later listener of
  the port is refused (EADDRINUSE), so it is set again each time.
- Bytes written to the send queue in repair mode count as sent. What never was goes to the daemon, to be sent first.
- A restored connection has an MSS of 536 until options of IP are set, even to none, which reckons it anew.
- The lowest bit of TCP_TIMESTAMP tells kernels from 6.7 on that the clock is one of microseconds.
- The timestamp must not go backwards, and what was sent between the dump and the freeze may be ahead of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import termios

from portfleet.core.frozen import Flow, Frozen

_TCP = socket.IPPROTO_TCP
_REPAIR, _QUEUE, _SEQUENCE, _OPTIONS, _TIMESTAMP, _WINDOW, _INFO, _ULP = 19, 20, 21, 22, 24, 29, 11, 31
_ON, _OFF, _OFF_SILENT = 1, 0, -1
_RECEIVE, _SEND = 1, 2
_OPT_MSS, _OPT_SCALE, _OPT_SACK, _OPT_TIMESTAMP = 2, 3, 4, 8
_HAS_TIMESTAMPS, _HAS_SACK, _HAS_SCALE, _HAS_MICROSECONDS = 1, 2, 4, 64  # tcpi_options
_ESTABLISHED = 1
_SIOCOUTQNSD = 0x894B
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _IPV6_RTHDR = 32, 33, 57
#: Milliseconds by which the timestamp is put ahead.
_AHEAD = 100
#: Bytes written into a queue at a time: more than the kernel's largest segment is refused.
_PIECE = 32768
_WINDOW_FIELDS = struct.Struct("=5I")
_NONE, _INT = bytes(4), (1 << 31) - 1
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: What an IPv4 address is preceded by in an IPv6 socket (RFC 4291, 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"
#: Of the queue for receiving the next number and the bytes not read, of the one for sending those not acknowledged.
Position = tuple[int, int, int, int]


class NotMovable(Exception):
    """A connection cannot be taken out of this kernel; the text says why."""


def ends(sock: socket.socket) -> tuple[bytes, int, bytes, int]:
    """Return address and port here and of the peer; an IPv4 address in an IPv6 socket as IPv4. Raises OSError."""
    (local, port), (peer, peer_port) = sock.getsockname()[:2], sock.getpeername()[:2]
    return _plain(local), port, _plain(peer), peer_port


def upper_protocol(sock: socket.socket) -> str:
    """Return the upper protocol of a connection (kernel TLS: "tls"), which keeps it from being moved; "" if none."""
    try:
        return sock.getsockopt(_TCP, _ULP, 16).rstrip(b"\0").decode()
    except OSError:
        return ""


def is_silent(sock: socket.socket) -> bool:
    """Return whether a connection is in repair mode."""
    return bool(sock.getsockopt(_TCP, _REPAIR))


def silence(sock: socket.socket) -> None:
    """Enter repair mode. Raises OSError: ENOPROTOOPT for MPTCP, EPERM without CAP_NET_ADMIN."""
    sock.setsockopt(_TCP, _REPAIR, _ON)


def speak(sock: socket.socket) -> None:
    """Leave repair mode without a word."""
    sock.setsockopt(_TCP, _REPAIR, _OFF_SILENT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def vanish(sock: socket.socket) -> None:
    """End a connection without a word to its client, also in other processes that have it. Raises OSError."""
    silence(sock)
    unspecified = bytes(16)  # of AF_UNSPEC, which Python's connect has no words for: it disconnects (connect(2))
    if ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), unspecified, len(unspecified)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def hide_unread(sock: socket.socket, *, hidden: bool) -> None:
    """Have epoll say nothing of what waits to be read (SO_RCVLOWAT), up to half of the receive buffer; or say it again.

    A process that reads from a silenced connection would take the error (EPERM) for its end.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _INT if hidden else 1)


def position(sock: socket.socket) -> Position:
    """Return where a silenced connection is."""
    unread = _bytes(sock, termios.FIONREAD)
    return _next(sock, _RECEIVE), unread, _next(sock, _SEND), _bytes(sock, termios.TIOCOUTQ)


def to_ask(frozen: Frozen) -> bool:
    """Return whether a client should be asked how far it has got: it has not acknowledged all, or takes nothing."""
    return bool(frozen.sent) or not frozen.window[1]


def dump(sock: socket.socket, flow: Flow) -> tuple[Frozen, Position]:
    """Return a connection whose packets are held, and its `position`. Raises NotMovable.

    It goes on as before unless it is silenced again and closed.
    """
    try:
        silence(sock)
    except OSError as error:
        raise NotMovable(f"TCP_REPAIR: {error.strerror}") from None
    try:
        return _dump(sock, flow)
    except OSError as error:
        raise NotMovable(f"it cannot be read: {error.strerror}") from None
    finally:
        speak(sock)


def _dump(sock: socket.socket, flow: Flow) -> tuple[Frozen, Position]:
    info = sock.getsockopt(_TCP, _INFO, 8)
    state, options, scales = info[0], info[5], info[6]
    if state != _ESTABLISHED:
        raise NotMovable(f"it is not established any more (state {state})")
    # The number of each queue before its bytes: what comes in between, `position` tells later.
    received_next, unread = _next(sock, _RECEIVE), _bytes(sock, termios.FIONREAD)
    received = _peek(sock, unread)
    sent_next, pending, never = _next(sock, _SEND), _bytes(sock, termios.TIOCOUTQ), _bytes(sock, _SIOCOUTQNSD)
    written = _peek(sock, pending)
    alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    found = Frozen(
        flow=flow,
        mss=sock.getsockopt(_TCP, socket.TCP_MAXSEG),
        sack=bool(options & _HAS_SACK),
        send_scale=scales & 15,
        receive_scale=scales >> 4,
        scaled=bool(options & _HAS_SCALE),
        timestamps=bool(options & _HAS_TIMESTAMPS),
        timestamp=_number(sock, _TIMESTAMP),
        microseconds=bool(options & _HAS_MICROSECONDS),
        window=_WINDOW_FIELDS.unpack(sock.getsockopt(_TCP, _WINDOW, _WINDOW_FIELDS.size)),
        receive_first=(received_next - len(received)) % (1 << 32),
        send_first=(sent_next - len(written)) % (1 << 32),
        received=received,
        sent=written[: pending - never],
        unsent=written[pending - never :],
        nodelay=bool(sock.getsockopt(_TCP, socket.TCP_NODELAY)),
        keepalive=_keepalive(sock) if alive else None,
        user_timeout=sock.getsockopt(_TCP, socket.TCP_USER_TIMEOUT),
        send_buffer=sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
        receive_buffer=sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
    )
    return found, (received_next, unread, sent_next, pending)


def restore(frozen: Frozen) -> socket.socket:
    """Return the connection, silent yet, with its flow's ``address`` and ``port`` at this end. Raises OSError.

    Its ``unsent`` bytes are not in it: they are to be sent first once it speaks.
    """
    family = _FAMILIES[frozen.flow.family]
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        silence(sock)
        _fill(sock, frozen, family)
    except BaseException:
        sock.close()
        raise
    return sock


def _fill(sock: socket.socket, frozen: Frozen, family: socket.AddressFamily) -> None:
    flow = frozen.flow
    # What a queue takes is reckoned with what the kernel needs around it.
    room = max(frozen.send_buffer, 2 * len(frozen.sent))
    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, room)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, max(frozen.receive_buffer, 2 * len(frozen.received)))
    sock.bind((socket.inet_ntop(family, flow.address), flow.port))
    for queue, first in ((_SEND, frozen.send_first), (_RECEIVE, frozen.receive_first)):
        sock.setsockopt(_TCP, _QUEUE, queue)
        sock.setsockopt(_TCP, _SEQUENCE, struct.pack("=I", first))
    sock.connect((socket.inet_ntop(family, flow.client), flow.client_port))
    options = [(_OPT_MSS, frozen.mss)]
    options += [(_OPT_SACK, 0)] * frozen.sack + [(_OPT_TIMESTAMP, 0)] * frozen.timestamps
    options += [(_OPT_SCALE, frozen.send_scale | frozen.receive_scale << 16)] * frozen.scaled
    sock.setsockopt(_TCP, _OPTIONS, b"".join(struct.pack("=II", *option) for option in options))
    if flow.family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RTHDR, b"")
    stamp = frozen.timestamp if frozen.microseconds else frozen.timestamp & ~1
    ahead = _AHEAD * (1000 if frozen.microseconds else 1)
    sock.setsockopt(_TCP, _TIMESTAMP, struct.pack("=I", (stamp + ahead) % (1 << 32)))
    _write(sock, frozen.received)  # the receive queue is chosen yet
    sock.setsockopt(_TCP, _QUEUE, _SEND)
    _write(sock, frozen.sent)
    sock.setsockopt(_TCP, _WINDOW, _WINDOW_FIELDS.pack(*frozen.window))
    sock.setsockopt(_TCP, socket.TCP_NODELAY, frozen.nodelay)
    sock.setsockopt(_TCP, socket.TCP_USER_TIMEOUT, frozen.user_timeout)
    if frozen.keepalive is not None:
        for option, value in zip(_KEEPALIVE, frozen.keepalive, strict=True):
            sock.setsockopt(_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def thaw(sock: socket.socket, *, asking: bool) -> None:
    """Have a restored connection speak; ``asking`` its client at once how far it has got. Raises OSError."""
    sock.setsockopt(_TCP, _REPAIR, _OFF if asking else _OFF_SILENT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


_KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


def _keepalive(sock: socket.socket) -> tuple[int, int, int]:
    idle, interval, count = (sock.getsockopt(_TCP, option) for option in _KEEPALIVE)
    return idle, interval, count


def _write(sock: socket.socket, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += sock.send(data[at : at + _PIECE])


def _peek(sock: socket.socket, size: int) -> bytes:
    return sock.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT) if size else b""


def _next(sock: socket.socket, queue: int) -> int:
    sock.setsockopt(_TCP, _QUEUE, queue)
    return _number(sock, _SEQUENCE)


def _number(sock: socket.socket, option: int) -> int:
    return int(struct.unpack("=I", sock.getsockopt(_TCP, option, 4))[0])


def _bytes(sock: socket.socket, what: int) -> int:
    return int.from_bytes(fcntl.ioctl(sock, what, _NONE), sys.byteorder)


def _plain(address: str) -> bytes:
    if ":" not in address:
        return socket.inet_aton(address)
    found = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return found[12:] if found.startswith(_MAPPED) else found


def source_toward(client: bytes) -> bytes:
    """Return the address of this box from which it reaches ``client``. Raises OSError."""
    family = _FAMILIES[4 if len(client) == 4 else 6]
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.connect((socket.inet_ntop(family, client), 9))
        return socket.inet_pton(family, asked.getsockname()[0])


def borrowed(descriptor: int) -> socket.socket:
    """Return a socket of its own for a descriptor, which it shares with no other."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
