"""The two tables by which packets of connections that move are held, and then sent on, as text for nft.

They stand beside ours and live on when the fleet is down, for then the moved connections do too:

- ``netdev portfleet-moved`` sees packets before conntrack and sockets do. Those of held connections go into the
  interface `TAP` and wait there, or are dropped if there is none (TCP sends them again). Those of moved ones are sent
  on to the box that has them by now, as frames on the same segment (Documentation: nft(8), fwd statement). ``meta
  pkttype host``: the hook also sees frames that a switch floods.
- ``inet portfleet-held`` drops what the held connections' sockets send, so that nothing is said after the dump.

Moved connections are forgotten an hour after their last packet, and at once when their client dials anew by the same
port: only a client whose connection has ended does (RFC 9293, 3.5), and it is to reach this box. That the packet itself
deletes the element ("delete", Linux 5.4) lets one with a forged address and the right port end a moved connection:
nothing else tells here that it has ended.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

MOVED, HELD = "netdev portfleet-moved", "inet portfleet-held"
#: The interface in which packets wait; one process at a time has it.
TAP = "portfleet-held"
#: What nft calls the families.
_IP = {4: "ip", 6: "ip6"}
#: ARPHRD_ETHER of linux/if_arp.h.
_ETHERNET = "1"


def base() -> str:
    """Return the two tables, anew and without elements of held connections."""
    lines = [f"add table {MOVED}", *(f"add chain {MOVED} {chain}" for chain in ("flows", "held", "moved"))]
    lines += [f"add table {HELD}", f"add chain {HELD} output {{ type filter hook output priority -160; }}"]
    lines += [f"flush chain {MOVED} flows", f"flush chain {HELD} output"]
    for family, ip in _IP.items():
        key = f"typeof {ip} saddr . tcp sport . {ip} daddr . tcp dport; size 65535; flags timeout;"
        lines += [f"add set {MOVED} held{family} {{ {key} }}", f"add set {HELD} silent{family} {{ {key} }}"]
        silent = f"{ip} daddr . tcp dport . {ip} saddr . tcp sport @silent{family}"
        lines.append(f"add rule {HELD} output {silent} counter drop")
    lines += [f"add rule {MOVED} flows jump held", f"add rule {MOVED} flows jump moved"]
    for device in _ethernets():
        lines += list(_incoming(device))
        lines.append(f"add rule {MOVED} in-{device} jump flows")
    return "\n".join([*lines, *dropping().splitlines()]) + "\n"


def dropping() -> str:
    """Return the rules that drop the packets of held connections."""
    rules = (f"add rule {MOVED} held {_of('held', family)} counter drop" for family in _IP)
    return "\n".join([f"flush chain {MOVED} held", *rules]) + "\n"


def waiting() -> str:
    """Return the rules that have packets of held connections wait in `TAP`, and pass from there when they come back."""
    rules = [f"flush chain {MOVED} held"]
    for family in _IP:
        rules.append(f'add rule {MOVED} held meta pkttype host {_of("held", family)} counter fwd to "{TAP}"')
    rules += _incoming(TAP)
    for family in _IP:  # of another process: it goes no second time around
        rules.append(f"add rule {MOVED} in-{TAP} {_of('held', family)} counter drop")
    return "\n".join([*rules, f"add rule {MOVED} in-{TAP} jump moved"]) + "\n"


def way_to(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, device: str) -> str:
    """Return the set ``name`` of connections whose packets are sent on to ``address`` by ``device``, with its rules."""
    ip = _IP[address.version]
    key = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
    moved = f"meta pkttype host {key} @{name}"
    anew = f"{moved} tcp flags & (syn | ack) == syn delete @{name} {{ {key} }} counter accept"
    on = f'{moved} update @{name} {{ {key} timeout 1h }} counter fwd {ip} to {address} device "{device}"'
    return (
        f"add set {MOVED} {name} {{ typeof {key}; size 262144; flags dynamic,timeout; timeout 1h; }}\n"
        f"add rule {MOVED} moved {anew}\nadd rule {MOVED} moved {on}\n"
    )


def _of(name: str, family: int) -> str:
    """Return the expression for packets of connections in one of the sets."""
    ip = _IP[family]
    return f"{ip} saddr . tcp sport . {ip} daddr . tcp dport @{name}{family}"


def _incoming(device: str) -> Iterator[str]:
    """Yield the chain for what comes in by ``device``, without rules."""
    yield f'add chain {MOVED} in-{device} {{ type filter hook ingress device "{device}" priority 0; }}'
    yield f"flush chain {MOVED} in-{device}"


def _ethernets() -> Sequence[str]:
    """Return the interfaces by which frames come: clients may come by any of them."""
    found = sorted(Path("/sys/class/net").iterdir()) if Path("/sys/class/net").exists() else []
    names = [path.name for path in found if (path / "type").read_text().strip() == _ETHERNET and path.name != TAP]
    return names or [name for _, name in socket.if_nameindex() if name not in ("lo", TAP)]
