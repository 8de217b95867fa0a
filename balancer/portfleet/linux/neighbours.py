"""The hardware addresses of other boxes on a segment, by rtnetlink(7): asked for, and kept known by the kernel itself.

A managed neighbour (Linux 5.16) is looked for at once and again every few seconds, without a packet that needs it. So a
frame that is sent on waits for no answer, and a box that got another interface card is found by its new address.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from portfleet.core.pins import Address
from portfleet.linux.netlink import ACK, DUMP, REQUEST, attribute, attributes, messages

_NEW, _DELETE, _GET = 28, 29, 30  # RTM_NEWNEIGH, …
_CREATE, _REPLACE = 0x400, 0x100
_ADDRESS, _HARDWARE, _MORE_FLAGS = 1, 2, 15  # NDA_DST, NDA_LLADDR, NDA_FLAGS_EXT
_MANAGED = 1
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=LHHLL")
_MESSAGE = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, interface, state, flags, type
_FAILED = 0x20


def manage(neighbours: Iterable[tuple[Address, str]]) -> None:
    """Have the kernel keep the hardware addresses of (address, interface) known; raises OSError."""
    flags = attribute(_MORE_FLAGS, struct.pack("=L", _MANAGED))
    for address, device in neighbours:
        _change(_NEW, _CREATE | _REPLACE, address, device, flags)


def forget(neighbours: Iterable[tuple[Address, str]]) -> None:
    """Have it forget them; those that it does not know, or by an interface that is gone, are none."""
    for address, device in neighbours:
        with suppress(OSError):
            _change(_DELETE, 0, address, device)


def known() -> dict[Address, str]:
    """Return the hardware addresses of all neighbours that are known now, such as ``02:00:00:00:02:0b``."""
    found: dict[Address, str] = {}
    with _socket() as asked:
        asked.send(_HEADER.pack(_HEADER.size + _MESSAGE.size, _GET, REQUEST | DUMP, 1, 0) + bytes(_MESSAGE.size))
        while True:
            for kind, _, body in messages(asked.recv(1 << 18)):
                if kind in (_DONE, _ERROR):
                    return found
                parts, state = attributes(body[_MESSAGE.size :]), _MESSAGE.unpack_from(body)[2]
                if {_ADDRESS, _HARDWARE} <= parts.keys() and not state & _FAILED and len(parts[_HARDWARE]) == 6:
                    found[ipaddress.ip_address(parts[_ADDRESS])] = parts[_HARDWARE].hex(":")


def _change(kind: int, flags: int, address: Address, device: str, more: bytes = b"") -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _MESSAGE.pack(family, socket.if_nametoindex(device), 0, 0, 0) + attribute(_ADDRESS, address.packed) + more
    with _socket() as asked:
        asked.send(_HEADER.pack(_HEADER.size + len(body), kind, REQUEST | ACK | flags, 1, 0) + body)
        for answer, _, said in messages(asked.recv(1 << 16)):
            if answer == _ERROR and (code := -struct.unpack_from("=i", said)[0]):
                raise OSError(code, os.strerror(code))


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.bind((0, 0))
    return made
