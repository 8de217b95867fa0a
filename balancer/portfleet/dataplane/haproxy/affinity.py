"""Which bytes of a connection decide on its slot: HAProxy's expression, and the same bytes computed offline."""

from __future__ import annotations

import ipaddress

from portfleet.core.model import Affinity
from portfleet.dataplane.haproxy.xxh32 import xxh32

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def slot_for(affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
    """Return the slot of a client's connection; None for the random kinds.

    Raise ValueError if the affinity counts the client's ``port`` and it is None.
    """
    if not affinity.deterministic:
        return None
    return xxh32(_key(affinity, address, port), seed) % slots


def source_of(affinity: Affinity, address: Address) -> Address:
    """Return what a client's source is known by: its address cut to the affinity's prefix."""
    prefix = affinity.prefix4 if address.version == 4 else affinity.prefix6
    return ipaddress.ip_network((address, prefix), strict=False).network_address


def source_expression(affinity: Affinity) -> str:
    """Return the expression of a client's source; ``ipmask`` makes an IPv4-mapped address an IPv4 one."""
    return f"src,ipmask({affinity.prefix4},{affinity.prefix6})"


def slot_lines(affinity: Affinity, *, turn: str, seed: int, slots: int) -> tuple[str, ...]:
    """Return the rules that set ``sess.slot``; ``turn`` is the variable that counts a round-robin."""
    match affinity.kind:
        case "source":
            return (f"set-var(sess.slot) {source_expression(affinity)},xxh32({seed}),mod({slots})",)
        case "connection":
            return (
                "set-var(sess.port) src_port",
                f"set-var(sess.slot) src,concat(:,sess.port),xxh32({seed}),mod({slots})",
            )
        case "random":
            return (f"set-var(sess.slot) rand({slots})",)
        case "round-robin":
            return (
                f"set-var({turn}) var({turn}),add(1),mod({slots})",
                f"set-var(sess.slot) var({turn})",
            )


def _key(affinity: Affinity, address: Address, port: int | None) -> bytes:
    if affinity.kind == "connection":
        if port is None:
            raise ValueError("the affinity is by connection: the client's port counts too")
        return f"{address}:{port}".encode()
    return source_of(affinity, address).packed
