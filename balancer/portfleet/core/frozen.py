"""A TCP connection as it travels to another box: what the kernel has of it, as values that JSON can hold."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass

from portfleet.core.typed import within

#: The largest of an unsigned field of 32 bits, of an option's int, and of one of keep-alive (net/tcp.h).
_U32, _INT, _KEEPALIVE = (1 << 32) - 1, (1 << 31) - 1, 32767


@dataclass(frozen=True)
class Flow:
    """A connection as its client sees it, and the ``port`` on this box that it was translated to."""

    client: str
    client_port: int
    dialled: str
    dialled_port: int
    port: int

    def __post_init__(self) -> None:
        """Raise ValueError for what is no address or no port; a zone (RFC 4007) could be any text."""
        if "%" in self.client + self.dialled:
            raise ValueError("an address has a zone")
        if ipaddress.ip_address(self.client).version != ipaddress.ip_address(self.dialled).version:
            raise ValueError("the two ends have different address families")
        for port in (self.client_port, self.dialled_port, self.port):
            within("a port", port, 1, 65535)

    @property
    def family(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.client).version


@dataclass(frozen=True)
class Frozen:
    """A dumped connection: tcp(7) and TCP_REPAIR of linux/tcp.h name its parts.

    ``receive_first`` and ``send_first`` are the sequence numbers of the first byte in each queue; queues are base64:
    ``received`` (not read yet), ``sent`` (not acknowledged yet), ``unsent``. ``window``: struct tcp_repair_window.
    ``keepalive``: idle, interval and count, None if it is off. Buffers are in bytes, ``user_timeout`` in ms.
    """

    flow: Flow
    mss: int
    sack: bool
    send_scale: int
    receive_scale: int
    scaled: bool
    timestamps: bool
    timestamp: int
    microseconds: bool
    window: tuple[int, int, int, int, int]
    receive_first: int
    send_first: int
    received: str
    sent: str
    unsent: str
    nodelay: bool
    keepalive: tuple[int, int, int] | None
    user_timeout: int
    send_buffer: int
    receive_buffer: int

    def __post_init__(self) -> None:
        """Raise ValueError for what the kernel's fields cannot hold."""
        for name in ("timestamp", "receive_first", "send_first"):
            within(name, getattr(self, name), 0, _U32)
        for number in self.window:
            within("window", number, 0, _U32)
        for name in ("mss", "user_timeout", "send_buffer", "receive_buffer"):
            within(name, getattr(self, name), 0, _INT)
        for number in self.keepalive or ():
            within("keepalive", number, 1, _KEEPALIVE)
        for name in ("send_scale", "receive_scale"):
            within(name, getattr(self, name), 0, 15)


def pack(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def unpack(text: str) -> bytes:
    """Return what `pack` was given; raise ValueError for anything else."""
    return base64.b64decode(text, validate=True)
