"""Which bytes of a connection decide on its slot: the nft expression, and the same bytes computed offline."""

from __future__ import annotations

import ipaddress

from portfleet.core.model import Affinity
from portfleet.dataplane.nft.jhash import slot_of

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def slot_for(affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
    """Return the slot of a client's connection; None for the random kinds. ``connection`` needs ``port``."""
    if not affinity.deterministic:
        return None
    return slot_of(_key(affinity, address, port), seed=seed, slots=slots)


def source_of(affinity: Affinity, address: Address) -> bytes:
    """Return the bytes that a sticky client is known by: its address cut to the affinity's prefix."""
    prefix = affinity.prefix4 if address.version == 4 else affinity.prefix6
    return ipaddress.ip_network((address, prefix), strict=False).network_address.packed


def _key(affinity: Affinity, address: Address, port: int | None) -> bytes:
    if affinity.kind == "connection":
        if port is None:
            raise ValueError("the affinity is by connection: the client's port counts too")
        # A concatenation pads each of its parts to a 32-bit register.
        return address.packed + port.to_bytes(2, "big") + b"\0\0"
    return source_of(affinity, address)


def expressions(affinity: Affinity, *, seed: int, slots: int) -> tuple[str, ...]:
    """Return the nft expressions that make the slot, one per rule, such as ``jhash ip saddr mod 4096 seed 0x5eed``."""
    tail = f"mod {slots} seed {seed:#x}"
    match affinity.kind:
        case "round-robin":
            return (f"numgen inc mod {slots}",)
        case "random":
            return (f"numgen random mod {slots}",)
        case "connection":
            return (f"jhash ip saddr . tcp sport {tail}", f"jhash ip6 saddr . tcp sport {tail}")
        case "source":
            return tuple(f"jhash {source} {tail}" for source in sources(affinity))


def inner_expression(affinity: Affinity, family: int, *, seed: int, slots: int) -> str:
    """Return the nft expression that makes the same slot of an ICMP error, by the packet that the error is about.

    That one went to the client: its destination is what the client's own packets have as their source. It is taken to
    have no IP options, as TCP's packets have none.
    """
    at, bits, port = (192, 32, 240) if family == 4 else (256, 128, 400)
    address = f"@th,{at},{bits}"
    tail = f"mod {slots} seed {seed:#x}"
    if affinity.kind == "connection":
        return f"jhash {address} . @th,{port},16 {tail}"
    prefix = affinity.prefix4 if family == 4 else affinity.prefix6
    mask = f" & {((1 << prefix) - 1) << (bits - prefix):#x}" if prefix < bits else ""
    return f"jhash {address}{mask} {tail}"


def sources(affinity: Affinity) -> tuple[str, str]:
    """Return the nft expressions of a client's source, IPv4 and IPv6: what a sticky client is known by."""
    return f"ip saddr{_mask(affinity.prefix4, 32)}", f"ip6 saddr{_mask(affinity.prefix6, 128)}"


def _mask(prefix: int, bits: int) -> str:
    if prefix == bits:
        return ""
    network = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return f" & {network((0, prefix)).netmask}"
