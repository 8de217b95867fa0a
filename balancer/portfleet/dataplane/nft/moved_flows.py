"""The elements of the tables of `moved_rules`: connections by their two ends, added and deleted straight to the kernel.

libnftables reads all sets before each change and takes each element apart as text, milliseconds in which clients wait.
Attributes: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cache

from portfleet.core.frozen import Flow
from portfleet.dataplane.nft.moved_rules import HELD, MOVED
from portfleet.linux.netlink import attribute, nested

NFTABLES = 10
_FAMILY = {"inet": 1, "netdev": 5}
_ADD, _DELETE = (NFTABLES << 8 | number for number in (12, 14))
_CREATE = 0x400
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _VALUE, _TIMEOUT = 1, 1, 1, 4
#: Addresses and ports of client and service: each part of a key takes up whole words of four bytes.
_KEYS = {4: struct.Struct(">4sH2x4sH2x"), 6: struct.Struct(">16sH2x16sH2x")}
#: One request of a transaction: address family, kind, flags, attributes.
Request = tuple[int, int, int, bytes]


def key(client: bytes, client_port: int, address: bytes, port: int) -> bytes:
    """Return the key of a connection in a set."""
    return _KEYS[4 if len(client) == 4 else 6].pack(client, client_port, address, port)


def moving(flow: Flow) -> bytes:
    """Return the key of a connection as its packets come in."""
    return key(flow.client, flow.client_port, flow.dialled, flow.dialled_port)


def hold(flows: Sequence[Flow], *, seconds: float) -> list[Request]:
    """Return the requests that hold ``flows``, for ``seconds`` at most, or as long as they were held already."""
    return [_request(_ADD, table, _body(table, name, keys, seconds)) for table, name, keys in _held(flows)]


def prolong(flows: Sequence[Flow], *, seconds: float) -> list[Request]:
    """Return the requests that hold ``flows``, for ``seconds`` from now at most, also if they are held already.

    Adding an element that is there leaves its time as it is (before Linux 6.12), so it is deleted before.
    """
    return release_late(flows) + hold(flows, seconds=seconds)


def release(flows: Sequence[Flow]) -> list[Request]:
    """Return the requests that hold ``flows`` no more; the kernel refuses them (ENOENT) if the time of one is up."""
    return [_request(_DELETE, table, _body(table, name, keys)) for table, name, keys in _held(flows)]


def release_late(flows: Sequence[Flow]) -> list[Request]:
    """Return the requests for that if time may be up: all are added, as only what is is deleted.

    Twice as many elements: each costs a notification, which the watcher reads.
    """
    bodies = [(table, _body(table, name, keys)) for table, name, keys in _held(flows)]
    return [_request(verb, table, body) for verb in (_ADD, _DELETE) for table, body in bodies]


def forward(flows: Sequence[Flow], name: str) -> list[Request]:
    """Return the request that puts ``flows``, of one family, into the set ``name`` of moved ones."""
    return [_request(_ADD, MOVED, _body(MOVED, name, list(map(moving, flows))))]


def take_back(flows: Sequence[Flow], name: str) -> list[Request]:
    """Return the requests that take ``flows``, of one family, out of the set ``name``, in which they need not be."""
    body = _body(MOVED, name, list(map(moving, flows)))
    return [_request(_ADD, MOVED, body), _request(_DELETE, MOVED, body)]


def _held(flows: Sequence[Flow]) -> Iterable[tuple[str, str, list[bytes]]]:
    """Yield the sets in which held connections are, with their keys there: as they come in, and as they go out."""
    for family in sorted({flow.family for flow in flows}):
        some = [flow for flow in flows if flow.family == family]
        yield MOVED, f"held{family}", list(map(moving, some))
        yield HELD, f"silent{family}", [key(f.client, f.client_port, f.address, f.port) for f in some]


def _request(verb: int, table: str, body: bytes) -> Request:
    return _FAMILY[table.partition(" ")[0]], verb, _CREATE if verb == _ADD else 0, body


def _body(table: str, name: str, keys: Sequence[bytes], seconds: float = 0.0) -> bytes:
    """Return the attributes of a request for elements of a set, which are forgotten after ``seconds`` (0: never)."""
    title = table.partition(" ")[2]
    timeout = attribute(_TIMEOUT, struct.pack(">Q", int(seconds * 1000))) if seconds else b""
    head = _head(len(keys[0]), len(timeout))
    elements = nested(_ELEMENTS, b"".join(head + one + timeout for one in keys))
    return attribute(_TABLE, title.encode() + b"\0") + attribute(_SET, name.encode() + b"\0") + elements


@cache
def _head(key_size: int, more: int) -> bytes:
    """Return what is before the key of an element that has ``more`` bytes behind it."""
    return nested(_ELEMENT, nested(_KEY, attribute(_VALUE, bytes(key_size))), bytes(more))[:12]
