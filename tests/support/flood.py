"""SYNs from addresses that no host has, as a flood sends them: each stays half-open."""

from __future__ import annotations

import socket
import struct

from support.netns import network_of
from support.sandbox import CLIENT4, Sandbox

_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_SYN = 0x02


def prepare(boxes: Sandbox) -> None:
    """Have the host answer forged addresses into the void: the clients' box has none of them."""
    boxes.host.net("ip", "route", "add", "203.0.113.0/24", "via", CLIENT4)
    boxes.clients.sysctl("net.ipv4.ip_forward", "0")


def syns(boxes: Sandbox, to: tuple[str, int], count: int, *, first: int = 0) -> None:
    """Send ``count`` SYNs, no two from the same address and port, numbered from ``first``."""
    target = socket.inet_aton(to[0])
    with network_of(boxes.clients), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(first, first + count):
            source = socket.inet_aton(f"203.0.113.{1 + number % 250}")
            raw.sendto(_packet(source, target, 1024 + number // 250 % 60_000, to[1]), (to[0], 0))


def _packet(source: bytes, target: bytes, from_port: int, port: int) -> bytes:
    tcp = _TCP.pack(from_port, port, 1, 0, 5 << 4, _SYN, 1024, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", _checksum(pseudo + tcp)) + tcp[18:]
    return _IP.pack(0x45, 0, _IP.size + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0, source, target) + tcp


def _checksum(data: bytes) -> int:
    total = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
