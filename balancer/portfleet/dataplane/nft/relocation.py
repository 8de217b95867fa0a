"""What the kernel must be told while connections move to another box: packets held, sent on, entries made and deleted.

Two tables beside ours, which live on when the fleet is down, for then the moved connections do too:

- ``netdev portfleet-moved`` sees packets before conntrack and sockets do. It drops those of held connections (TCP sends
  them again), and sends those of moved ones on to the box that has them by now, as frames on the same segment
  (Documentation: nft(8), fwd statement). ``meta pkttype host``: the hook also sees frames that a switch floods.
- ``inet portfleet-held`` drops what the held connections' sockets send, so that nothing is said after the dump.

Elements of held connections have a time-out: if the process that holds them ends, they go on by themselves. Moved ones
are forgotten an hour after their last packet, and at once when their client dials anew by the same port: only a client
whose connection has ended does (RFC 9293, 3.5), and it is to reach this box. That the packet itself deletes the element
("delete", Linux 5.4) lets one with a forged address and the right port end a moved connection: nothing else tells here
that it has ended.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.frozen import Flow
from portfleet.dataplane.nft.context import NftContext
from portfleet.linux import routes
from portfleet.linux.machine import sysctl
from portfleet.linux.netlink import Netfilter, attribute, attributes, nested

_MOVED, _HELD = "netdev portfleet-moved", "inet portfleet-held"
_NEW, _GET, _DELETE, _CREATE, _EXCLUSIVE = 0x100, 0x101, 0x102, 0x400, 0x200
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL, _TIMEOUT, _TRANSLATION = 1, 2, 3, 4, 7, 13
#: SEEN_REPLY, ASSURED and CONFIRMED, as `restorer` says.
_KNOWN_WELL = 0x0E
#: SACK_PERM and BE_LIBERAL, as value and mask: no window is known on the new box.
_LIBERAL, _ESTABLISHED = b"\x0a\x0a", 3
_IP = {4: ("ip", socket.AF_INET, 1, 2, 1, 2), 6: ("ip6", socket.AF_INET6, 3, 4, 4, 5)}
#: ARPHRD_ETHER of linux/if_arp.h.
_ETHERNET = "1"
_REMEMBERED = "432000"


class NftRelocation:
    """The kernel's part of a relocation (see `Relocation`). Methods raise PortfleetError."""

    def __init__(self) -> None:
        self._nft = NftContext()
        self._ready: set[str] = set()

    def flow(self, local: str, port: int, peer: str, peer_port: int) -> Flow | None:
        size = ipaddress.ip_address(local).version
        reply = _way(_REPLY, size, (local, port), (peer, peer_port))
        try:
            with Netfilter() as netfilter:
                entry = netfilter.get(_GET, _IP[size][1], reply)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(error) from None
        original = attributes(entry.get(_ORIGINAL, b""))
        addresses, ports = attributes(original.get(1, b"")), attributes(original.get(2, b""))
        dialled = addresses.get(_IP[size][3])
        if dialled is None or routes.is_local(ipaddress.ip_address(peer)):
            return None
        return Flow(peer, peer_port, str(ipaddress.ip_address(dialled)), int.from_bytes(ports[3], "big"), port)

    def hold(self, flows: Sequence[Flow], *, seconds: float) -> None:
        self._lay()
        self._do(_elements("add", flows, timeout=f" timeout {seconds:g}s"))

    def release(self, flows: Sequence[Flow]) -> None:
        self._do(_released(flows))

    def forward(self, flows: Sequence[Flow], box: str) -> None:
        name, keys = self._way_to(box), [_key(flow, flow.dialled_port) for flow in flows]
        self._do([f"add element {_MOVED} {name} {{ {', '.join(keys)} }}", *_released(flows)])
        self.dismiss(flows)

    def take_back(self, flows: Sequence[Flow]) -> None:
        for listed in self._sets():
            keys = [_key(flow, flow.dialled_port) for flow in flows if listed.startswith(f"to{flow.family}-")]
            if keys:
                element = f"element {_MOVED} {listed} {{ {', '.join(keys)} }}"
                self._do([f"add {element}", f"delete {element}"])

    def reach(self, box: str) -> str:
        address = ipaddress.ip_address(box)
        if routes.neighbour_by(address) is None:
            return f"{box} is not on a segment of this box: packets cannot be sent on to it as frames"
        return ""

    def admit(self, flows: Sequence[Flow], addresses: Sequence[str]) -> None:
        seconds = int(sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", _REMEMBERED))
        wanted = [_entry(flow, address, seconds) for flow, address in zip(flows, addresses, strict=True)]
        self.dismiss(flows)
        results = self._change(_NEW, wanted, flags=_CREATE | _EXCLUSIVE)
        if wrong := [code for code in results if code]:
            self.dismiss(flows)
            raise _refused(OSError(wrong[0], os.strerror(wrong[0])))

    def dismiss(self, flows: Sequence[Flow]) -> None:
        wanted = [(_IP[flow.family][1], _original(flow)) for flow in flows]
        results = self._change(_DELETE, wanted)
        if wrong := [code for code in results if code not in (0, errno.ENOENT)]:
            raise _refused(OSError(wrong[0], os.strerror(wrong[0])))

    def _change(self, kind: int, wanted: Iterable[tuple[int, bytes]], *, flags: int = 0) -> list[int]:
        try:
            with Netfilter() as netfilter:
                return netfilter.change(kind, wanted, flags=flags)
        except OSError as error:
            raise _refused(error) from None

    def _do(self, lines: Iterable[str]) -> None:
        self._nft.do("\n".join(lines) + "\n")

    def _lay(self) -> None:
        """Load the tables if they are not there."""
        if "base" in self._ready:
            return
        if self._nft.ask(f"list set {_MOVED} held4") is None or self._nft.ask(f"list set {_HELD} silent4") is None:
            self._nft.do(_base(_ethernets()))
        self._ready.add("base")

    def _way_to(self, box: str) -> str:
        """Return the set of connections that are sent on to ``box``, which is made with its rule if it is not there."""
        address = ipaddress.ip_address(box)
        name = f"to{address.version}-{str(address).replace(':', '_')}"
        if name not in self._ready:
            if self._nft.ask(f"list set {_MOVED} {name}") is None:
                device = routes.neighbour_by(address)
                if device is None:
                    raise PortfleetError(self.reach(box), hint="put both boxes on one segment")
                self._nft.do(_sent_on(name, address, device))
            self._ready.add(name)
        return name

    def _sets(self) -> list[str]:
        found = self._nft.ask("list sets netdev") or {}
        sets = [entry["set"] for entry in found.get("nftables", ()) if "set" in entry]
        return [one["name"] for one in sets if f"netdev {one['table']}" == _MOVED]


def _base(devices: Sequence[str]) -> str:
    """Return the two tables, anew and without elements of held connections."""
    lines = [f"add table {_MOVED}", f"add chain {_MOVED} flows", f"add table {_HELD}"]
    for family, (ip, *_) in _IP.items():
        key = f"typeof {ip} saddr . tcp sport . {ip} daddr . tcp dport; size 65535; flags timeout;"
        lines += [f"add set {_MOVED} held{family} {{ {key} }}", f"add set {_HELD} silent{family} {{ {key} }}"]
    lines += [f"add chain {_HELD} output {{ type filter hook output priority -160; }}", f"flush chain {_HELD} output"]
    for family, (ip, *_) in _IP.items():
        ingress = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport @held{family}"
        lines.append(f"insert rule {_MOVED} flows {ingress} counter drop")
        output = f"{ip} daddr . tcp dport . {ip} saddr . tcp sport @silent{family}"
        lines.append(f"add rule {_HELD} output {output} counter drop")
    for device in devices:
        chain = f"in-{device}"
        lines.append(f'add chain {_MOVED} {chain} {{ type filter hook ingress device "{device}" priority 0; }}')
        lines += [f"flush chain {_MOVED} {chain}", f"add rule {_MOVED} {chain} jump flows"]
    return "\n".join(lines) + "\n"


def _sent_on(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, device: str) -> str:
    ip = _IP[address.version][0]
    key = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
    moved = f"meta pkttype host {key} @{name}"
    anew = f"{moved} tcp flags & (syn | ack) == syn delete @{name} {{ {key} }} counter accept"
    on = f'{moved} update @{name} {{ {key} timeout 1h }} counter fwd {ip} to {address} device "{device}"'
    return (
        f"add set {_MOVED} {name} {{ typeof {key}; size 262144; flags dynamic,timeout; timeout 1h; }}\n"
        f"add rule {_MOVED} flows {anew}\nadd rule {_MOVED} flows {on}\n"
    )


def _released(flows: Sequence[Flow]) -> list[str]:
    # What has timed out is no more: adding it first lets all of them be deleted.
    return [*_elements("add", flows), *_elements("delete", flows)]


def _elements(verb: str, flows: Sequence[Flow], *, timeout: str = "") -> list[str]:
    """Return the commands that add or delete ``flows`` as held ones: one a set, as each costs a look at all sets."""
    lines = []
    for family in {flow.family for flow in flows}:
        some = [flow for flow in flows if flow.family == family]
        held = ", ".join(_key(flow, flow.dialled_port) + timeout for flow in some)
        silent = ", ".join(_key(flow, flow.port) + timeout for flow in some)
        lines.append(f"{verb} element {_MOVED} held{family} {{ {held} }}")
        lines.append(f"{verb} element {_HELD} silent{family} {{ {silent} }}")
    return lines


def _key(flow: Flow, port: int) -> str:
    return f"{flow.client} . {flow.client_port} . {flow.dialled} . {port}"


def _ethernets() -> list[str]:
    """Return the interfaces by which frames come: clients may come by any of them."""
    found = sorted(Path("/sys/class/net").iterdir()) if Path("/sys/class/net").exists() else []
    names = [path.name for path in found if (path / "type").read_text().strip() == _ETHERNET]
    return names or [name for _, name in socket.if_nameindex() if name != "lo"]


def _entry(flow: Flow, address: str, seconds: int) -> tuple[int, bytes]:
    """Return the request for the entry by which a moved connection is translated to ``address`` here."""
    _, family, _, _, least, greatest = _IP[flow.family]
    here, port = ipaddress.ip_address(address).packed, flow.port.to_bytes(2, "big")
    target = nested(
        _TRANSLATION,
        attribute(least, here),
        attribute(greatest, here),
        nested(3, attribute(1, port), attribute(2, port)),
    )
    flags = attribute(4, _LIBERAL) + attribute(5, _LIBERAL)
    reply = _way(_REPLY, flow.family, (flow.dialled, flow.dialled_port), (flow.client, flow.client_port))
    members = [_original(flow), reply, target, nested(_PROTOCOL, nested(1, attribute(1, bytes([_ESTABLISHED])), flags))]
    members += [attribute(_STATUS, struct.pack("!I", _KNOWN_WELL)), attribute(_TIMEOUT, struct.pack("!I", seconds))]
    return family, b"".join(members)


def _original(flow: Flow) -> bytes:
    return _way(_ORIGINAL, flow.family, (flow.client, flow.client_port), (flow.dialled, flow.dialled_port))


def _way(kind: int, family: int, start: tuple[str, int], end: tuple[str, int]) -> bytes:
    _, _, source, target, _, _ = _IP[family]
    (begins, port), (ends, to) = start, end
    addresses = attribute(source, ipaddress.ip_address(begins).packed) + attribute(
        target, ipaddress.ip_address(ends).packed
    )
    ports = attribute(2, port.to_bytes(2, "big")) + attribute(3, to.to_bytes(2, "big"))
    return nested(kind, nested(1, addresses), nested(2, attribute(1, bytes([socket.IPPROTO_TCP])), ports))


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"the kernel's connection table refuses a moved connection: {error.strerror}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
