"""Gives conntrack back what it has forgotten: the connections of our instances, out of the sockets that have them.

conntrack is a cache (`conntrack -F` empties it, as failover scripts do); whose a connection is, its socket says. The
rules drop a packet in the middle of a connection that conntrack does not know, note its ends in ``known4/6`` and spend
the quota ``lost``, of which the kernel tells once until it is armed again (nft_quota_obj_eval; Linux 6.1 tells only
with the next change of the rules, so it is asked too). A pass over all sockets
then makes the missing entries, and the packet goes on when its sender repeats it: after 200 ms on a short way.

- The translation leads from the address that the client dialled, which is the socket's own, and the port that it
  dialled to the socket's own port. Which port that was, if a service has several, the packet in ``known4/6`` says.
- A socket on a port that clients dial belongs to a daemon that was there before our rules; one whose peer is another
  socket of this box belongs to a client that dialled the instance itself. Their entries translate nothing.
- What is known and has no socket is gone: its next packet is answered by a reset (``gone4/6``). All that is known is
  forgotten in the same transaction, so that the next loss begins anew.
- Connections to instances on other boxes have no socket here: only conntrack knew of them, and their clients are reset.

Attributes: linux/netfilter/nfnetlink_conntrack.h and nf_tables.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen
from portfleet.dataplane.interface import Done, Door
from portfleet.dataplane.nft.book import TABLE
from portfleet.dataplane.nft.reader import NftReader
from portfleet.linux import sockdiag
from portfleet.linux.machine import sysctl
from portfleet.linux.netlink import REQUEST, Netfilter, attribute, attributes, message, nested
from portfleet.linux.sockdiag import Ends

NAME = TABLE.removeprefix("inet ")
_NEW, _CREATE, _EXCLUSIVE = 0x100, 0x400, 0x200  # ctnetlink's first message, and flags
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL, _TIMEOUT, _TRANSLATION = 1, 2, 3, 4, 7, 13
#: SEEN_REPLY, ASSURED and CONFIRMED: without the last the kernel says EBUSY.
_KNOWN_WELL = 0x0E
_TCP, _STATE, _FLAGS_ORIGINAL, _FLAGS_REPLY, _ESTABLISHED = 1, 1, 4, 5, 3
#: SACK_PERM and BE_LIBERAL, as value and mask: the window is not known any more.
_LIBERAL = b"\x0a\x0a"
#: Seconds for which an established connection is remembered, if the kernel does not say.
_REMEMBERED = "432000"
#: What stands for a value in a message that is to be filled in: addresses of the client and here, three ports.
_PLACES = re.compile(rb"(CCCC+|LLLL+|cc|dd|ii)")
_GET_OBJECT, _RESET_OBJECT, _INET, _QUOTA = 10 << 8 | 19, 10 << 8 | 21, 1, 2
_OBJECT_DATA, _QUOTA_FLAGS, _DEPLETED = 4, 2, 2

#: A connection as its client sees it: the client's address and port, and what it dialled.
Dialled = tuple[bytes, int, bytes, int]


class Restorer:
    """Makes passes over the sockets of this network namespace; ``run`` carries out a transaction of nft text."""

    def __init__(self, run: Callable[[str], None]) -> None:
        self._run = run
        self._reader = NftReader(NAME)

    def restore(self, doors: tuple[Door, ...]) -> Done | None:
        """Make one pass; None if nothing was lost. Raise PortfleetError if the kernel refuses."""
        began = time.monotonic()
        try:
            with Netfilter() as netfilter:
                if arm(netfilter, "lost") is None:
                    return None
                known = self._known()
                sockets = list(sockdiag.connections())
                entries = list(_entries(sockets, doors, known))
                failed = netfilter.insert(_messages(entries))
        except OSError as error:
            raise _refused(error) from None
        alive = {(ends.peer, ends.peer_port, ends.local) for ends in sockets}
        gone = [one for one in known if one[:3] not in alive]
        if known:
            self._run(_forget(gone))
        restored = len(entries) - failed.total()
        if not restored and not known:
            return None
        took = f"{(time.monotonic() - began) * 1000:.1f}"
        refused = {errno.errorcode.get(code, str(code)): n for code, n in failed.items() if code != errno.EEXIST}
        fields: dict[str, object] = {"restored": restored, "gone": len(gone), "took_ms": took}
        return Done("connections-restored", fields | ({"refused": refused} if refused else {}))

    def _known(self) -> set[Dialled]:
        found: set[Dialled] = set()
        for name, size in (("known4", 4), ("known6", 16)):
            row = struct.Struct(f"!{size}sHxx{size}sHxx")  # each part is padded to a register of 32 bits
            found.update(row.unpack(element.key) for element in self._reader.elements(name))
        return found


def arm(netfilter: Netfilter, quota: str) -> bool | None:
    """Have the kernel tell of ``quota`` again; return whether it was spent, None if there is none. Raises OSError."""
    return _is_spent(netfilter, _RESET_OBJECT, quota)


def spent(netfilter: Netfilter, quota: str) -> bool:
    """Return whether ``quota`` is spent. Raises OSError."""
    return bool(_is_spent(netfilter, _GET_OBJECT, quota))


def _is_spent(netfilter: Netfilter, question: int, quota: str) -> bool | None:
    wanted = {1: NAME.encode() + b"\0", 2: quota.encode() + b"\0", 3: struct.pack("!I", _QUOTA)}
    try:
        found = netfilter.get(question, _INET, *(attribute(kind, value) for kind, value in wanted.items()))
    except FileNotFoundError:
        return None
    flags = attributes(found.get(_OBJECT_DATA, b"")).get(_QUOTA_FLAGS, b"")
    return bool(int.from_bytes(flags, "big") & _DEPLETED)


def _entries(sockets: list[Ends], doors: tuple[Door, ...], known: set[Dialled]) -> Iterator[tuple[Ends, int]]:
    """Return the server's end of every connection that may be ours, and the port that its client dialled."""
    instances = {port: door for door in doors for port in range(door.ports[0], door.ports[1] + 1)}
    listened = {listen.port for door in doors for listen in door.listens}
    direct = {ends for ends in sockets if ends.peer_port in instances}
    for ends in sockets:
        door = instances.get(ends.port)
        if door is None:
            if ends.port in listened:
                yield ends, ends.port
        elif direct and Ends(ends.peer, ends.peer_port, ends.local, ends.port) in direct:
            yield ends, ends.port
        elif dialled := _dialled(ends, door, known):
            yield ends, dialled


def _dialled(ends: Ends, door: Door, known: set[Dialled]) -> int | None:
    """Return the port of ``door`` that the peer of ``ends`` dialled; None if that cannot be told yet."""
    ports = {listen.port for listen in door.listens if _covers(listen, ends.local)}
    if len(ports) > 1:
        ports = {port for port in ports if (ends.peer, ends.peer_port, ends.local, port) in known}
    return next(iter(ports), None)


def _covers(listen: Listen, address: bytes) -> bool:
    """Return whether clients of ``listen`` may have dialled ``address``."""
    if listen.address is None:
        return (4 if len(address) == 4 else 6) in listen.families
    return ipaddress.ip_address(listen.address).packed == address


def _messages(entries: Iterable[tuple[Ends, int]]) -> Iterator[bytes]:
    """Return the request that makes each entry: parts are joined, as building them takes ten times as long."""
    remembered = int(sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", _REMEMBERED))
    templates: dict[tuple[int, bool], list[bytes]] = {}
    for ends, dialled in entries:
        size, translated = kind = len(ends.local), dialled != ends.port
        if kind not in templates:
            templates[kind] = _template(size, remembered, translated=translated)
        values: Mapping[bytes, bytes] = {
            b"C" * size: ends.peer,
            b"L" * size: ends.local,
            b"cc": ends.peer_port.to_bytes(2, "big"),
            b"dd": dialled.to_bytes(2, "big"),
            b"ii": ends.port.to_bytes(2, "big"),
        }
        yield b"".join([values.get(part, part) for part in templates[kind]])


def _template(size: int, remembered: int, *, translated: bool) -> list[bytes]:
    """Return the request of a kind of entry in parts: what is the same in all, and places for what is not.

    The reply is the plain inverse; the kernel translates it as it does for the first packet of a connection.
    """
    client, local = b"C" * size, b"L" * size
    source, target, least, greatest = (1, 2, 1, 2) if size == 4 else (3, 4, 4, 5)

    def way(kind: int, start: tuple[bytes, bytes], end: tuple[bytes, bytes]) -> bytes:
        addresses = nested(1, attribute(source, start[0]), attribute(target, end[0]))
        protocol = attribute(1, bytes([socket.IPPROTO_TCP])), attribute(2, start[1]), attribute(3, end[1])
        return nested(kind, addresses, nested(2, *protocol))

    parts = [way(_ORIGINAL, (client, b"cc"), (local, b"dd")), way(_REPLY, (local, b"dd"), (client, b"cc"))]
    if translated:
        port = nested(3, attribute(1, b"ii"), attribute(2, b"ii"))
        parts.append(nested(_TRANSLATION, attribute(least, local), attribute(greatest, local), port))
    flags = attribute(_FLAGS_ORIGINAL, _LIBERAL) + attribute(_FLAGS_REPLY, _LIBERAL)
    parts.append(nested(_PROTOCOL, nested(_TCP, attribute(_STATE, bytes([_ESTABLISHED])), flags)))
    parts += [attribute(_STATUS, struct.pack("!I", _KNOWN_WELL)), attribute(_TIMEOUT, struct.pack("!I", remembered))]
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    return _PLACES.split(message(_NEW, REQUEST | _CREATE | _EXCLUSIVE, family, parts))


def _forget(gone: Iterable[Dialled]) -> str:
    """Return the transaction that has connections reset and forgets everything that was known."""
    lines = [f"flush set {TABLE} {name}{family}" for name in ("known", "fresh") for family in (4, 6)]
    for client, port, local, dialled in gone:
        key = f"{ipaddress.ip_address(client)} . {port} . {ipaddress.ip_address(local)} . {dialled}"
        lines.append(f"add element {TABLE} gone{4 if len(client) == 4 else 6} {{ {key} }}")
    return "\n".join(lines) + "\n"


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"cannot give conntrack back what it forgot: {os.strerror(error.errno or 0)}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
