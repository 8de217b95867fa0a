"""Fill conntrack's table of this network namespace, keep it full for some seconds, and empty it of that again.

`fill_conntrack.py SECONDS` prints the entries at the fullest and the limit. The limit itself is the machine's and
cannot be lowered in a namespace. The entries are made by ctnetlink, assured, so that the kernel does not drop them
early to make room (with `--half-open` not assured, so that it does); a mark of their own lets them be deleted as one,
and they time out by themselves if this is killed.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

_NETLINK_NETFILTER = 12
_NEW, _DELETE = 0x100, 0x102
_REQUEST, _ACK, _CREATE_EXCLUSIVE = 0x1, 0x4, 0x600
_MARK = struct.pack("!I", 0x7EAF0001)
#: IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED of linux/netfilter/nf_conntrack_common.h
_STATUS = struct.pack("!I", 0x08 if "--half-open" in sys.argv else 0x0E)
_LIFETIME = struct.pack("!I", 60)
_ONE, _TWO = socket.inet_aton("203.0.113.10"), socket.inet_aton("203.0.113.11")
_PROC = Path("/proc/sys/net/netfilter")


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def side(kind: int, source: bytes, target: bytes, ports: tuple[int, int]) -> bytes:
    """Return one direction's tuple, of UDP."""
    ip = attribute(0x8001, attribute(1, source) + attribute(2, target))
    proto = (
        attribute(1, b"\x11") + attribute(2, struct.pack("!H", ports[0])) + attribute(3, struct.pack("!H", ports[1]))
    )
    return attribute(0x8000 | kind, ip + attribute(0x8002, proto))


def message(kind: int, flags: int, body: bytes) -> bytes:
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + body
    return struct.pack("=LHHLL", 16 + len(body), kind, flags, 0, 0) + body


def entry(number: int) -> bytes:
    there, back = (1 + number % 65_000, 1 + number // 65_000), (1 + number // 65_000, 1 + number % 65_000)
    body = side(1, _ONE, _TWO, there) + side(2, _TWO, _ONE, back)
    body += attribute(3, _STATUS) + attribute(7, _LIFETIME) + attribute(8, _MARK)
    return message(_NEW, _REQUEST | _CREATE_EXCLUSIVE, body)


def count() -> int:
    return int((_PROC / "nf_conntrack_count").read_text())


def drain(netlink: socket.socket) -> None:
    """Throw away the errors of entries that did not fit."""
    while True:
        try:
            netlink.recv(65_536, socket.MSG_DONTWAIT)
        except OSError:
            return


def main() -> None:
    limit, seconds = int((_PROC / "nf_conntrack_max").read_text()), float(sys.argv[1])
    most, number, full = 0, 0, 0.0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        try:
            while not full or time.monotonic() < full + seconds:
                netlink.send(b"".join(entry(number + more) for more in range(64)))
                drain(netlink)
                number += 64
                most = max(most, count())
                if most >= limit and not full:
                    full = time.monotonic()
        finally:
            chosen = attribute(8, _MARK) + attribute(21, b"\xff\xff\xff\xff")
            netlink.send(message(_DELETE, _REQUEST | _ACK, chosen))
            netlink.recv(65_536)
    print(most, limit)


if __name__ == "__main__":
    main()
