"""Whether a rule of others matches a packet of ours, as far as what is known of the packet can tell. Pure.

What is not known counts as "may match". One thing is told apart: which clients, by their addresses. A rule for some of
them is the site's own choice, and no fault.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

#: Returns the elements of a named set, None if they are not known.
Elements = Callable[[str], Iterable[Any] | None]


class Truth(IntEnum):
    """Whether something holds. All of several hold no better than the least of them, but for NO, in this order."""

    NO = 0
    MAYBE = 1  #: depends on what is not known here
    SOME = 2  #: holds for some clients, by their addresses
    YES = 3


@dataclass(frozen=True)
class Packet:
    """What is known of a packet: {"tcp.dport": 7000, "ct.state": {"new"}, …}; ``family`` is 4 or 6.

    A value that is a set is a field of flags.
    """

    family: int
    facts: Mapping[str, Any]
    words: str = ""

    def with_facts(self, **facts: Any) -> Packet:
        """Return the packet with other facts; dots of their names are written as two underscores."""
        changed = {name.replace("__", "."): value for name, value in facts.items()}
        return Packet(self.family, {**self.facts, **changed}, self.words)


#: Who the client is, in a packet that it sends or gets.
_WHO = {"ip.saddr", "ip6.saddr", "ether.saddr", "tcp.sport", "ct.ip saddr", "ct.original ip saddr"}
_OTHER_PROTOCOLS = ("udp.", "udplite.", "sctp.", "dccp.", "icmp.", "icmpv6.", "arp.", "esp.", "ah.")
_NUMBERS = {"tcp": 6, "ipv4": 2, "ipv6": 10}


def all_of(*truths: Truth) -> Truth:
    """Return whether all of ``truths`` hold."""
    return min(truths, default=Truth.YES)


def matches(match: Mapping[str, Any], packet: Packet, elements: Elements) -> Truth:
    """Return whether a ``match`` of nft's JSON holds for ``packet``."""
    found = holds(match["left"], match["right"], packet, elements)
    if match["op"] not in ("==", "in", "!="):
        return Truth.MAYBE
    if match["op"] == "!=" and found in (Truth.NO, Truth.YES):
        return Truth.YES if found is Truth.NO and not _foreign(key_of(match["left"]), packet) else Truth.NO
    return found


def holds(left: Any, right: Any, packet: Packet, elements: Elements) -> Truth:
    """Return whether the packet's ``left`` is among ``right``."""
    if isinstance(left, dict) and "&" in left:
        return _masked(left["&"], right, packet)
    if isinstance(left, dict) and "concat" in left:
        parts = [key_of(part) for part in left["concat"]]
        return Truth.SOME if any(part in _WHO for part in parts) else Truth.MAYBE
    key = key_of(left)
    if _foreign(key, packet):
        return Truth.NO
    if key not in packet.facts:
        return Truth.SOME if key in _WHO else Truth.MAYBE
    if isinstance(right, str) and right.startswith("@"):
        named = elements(right[1:])
        return Truth.MAYBE if named is None else _among(packet.facts[key], list(named))
    return _among(packet.facts[key], right)


def key_of(left: Any) -> str:
    """Return the name by which a packet's facts know what ``left`` asks for; "" for what they never hold."""
    if not isinstance(left, dict):
        return ""
    kind, value = next(iter(left.items()))
    match kind:
        case "payload":
            protocol = value.get("protocol", "")
            return f"{'tcp' if protocol == 'th' else protocol}.{value.get('field', '')}"
        case "meta":
            name = value["key"]
            return f"meta.{name}name" if name in ("iif", "oif") else f"meta.{name}"
        case "ct":
            return f"ct.{value['dir']} {value['key']}" if "dir" in value else f"ct.{value['key']}"
        case "fib":
            return f"fib.{' '.join(value['flags'])} {value['result']}"
        case _:
            return ""


def _foreign(key: str, packet: Packet) -> bool:
    """Return whether ``key`` is of another protocol than the packet, so that no rule that asks for it matches."""
    return key.startswith(_OTHER_PROTOCOLS) or key.startswith("ip6." if packet.family == 4 else "ip.")


def _masked(operands: list[Any], right: Any, packet: Packet) -> Truth:
    """Return whether flags under a mask are ``right``, as in ``tcp flags & (fin | syn) == syn``."""
    flags = packet.facts.get(key_of(operands[0]))
    if not isinstance(flags, frozenset):
        return Truth.MAYBE
    mask = set(_words(operands[1]))
    wanted = set() if right == 0 else set(_words(right))
    return Truth.YES if flags & mask == wanted else Truth.NO


def _words(value: Any) -> list[Any]:
    if isinstance(value, dict) and "|" in value:
        return [word for part in value["|"] for word in _words(part)]
    return list(value) if isinstance(value, list) else [value]


def _among(fact: Any, right: Any) -> Truth:
    """Return whether ``fact`` is one of ``right``: a value, a list, a set, a range or a prefix."""
    if isinstance(right, dict):
        if "set" in right:
            return _among(fact, right["set"])
        if "elem" in right:
            return _among(fact, right["elem"]["val"])
        if "range" in right or "prefix" in right:
            return _within(fact, right)
        return Truth.MAYBE
    if isinstance(right, list):
        return max((_among(fact, one) for one in right), default=Truth.NO)
    if isinstance(fact, frozenset):
        return Truth.YES if right in fact else Truth.NO
    if isinstance(fact, str) and isinstance(right, str) and right.endswith("*"):
        return Truth.YES if fact.startswith(right[:-1]) else Truth.NO
    return Truth.YES if fact == right or _NUMBERS.get(str(fact)) == right else Truth.NO


def _within(fact: Any, right: Mapping[str, Any]) -> Truth:
    if isinstance(fact, int) and "range" in right:
        low, high = right["range"]
        known = isinstance(low, int) and isinstance(high, int)
        return Truth.MAYBE if not known else Truth.YES if low <= fact <= high else Truth.NO
    try:
        address = ipaddress.ip_address(fact)
        if "prefix" in right:
            network = ipaddress.ip_network((right["prefix"]["addr"], right["prefix"]["len"]), strict=False)
            return Truth.YES if address in network else Truth.NO
        low, high = map(ipaddress.ip_address, right["range"])
    except ValueError:
        return Truth.MAYBE
    return Truth.YES if int(low) <= int(address) <= int(high) else Truth.NO
