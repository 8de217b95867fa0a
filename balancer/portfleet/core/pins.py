"""Pins: sources that always get one instance, the longest prefix first. Pure.

The kernel's interval maps refuse networks that overlap, so a network within another is cut out of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(text: str) -> Network:
    """Read ADDRESS or ADDRESS/PREFIX; raises ValueError, also for bits beyond the prefix and for a scope (%)."""
    if "%" in text:
        raise ValueError("an address with a scope (%) cannot be used")
    return ipaddress.ip_network(text)


def flatten(pins: Mapping[str, str]) -> dict[str, str]:
    """Return {network: member} in which no network overlaps another and the longest prefix of ``pins`` decides."""
    flat: dict[Network, str] = {}
    for network, member in sorted(
        ((parse(text), member) for text, member in pins.items()), key=lambda p: p[0].prefixlen
    ):
        for wider in [other for other in flat if other.version == network.version and _within(network, other)]:
            owner = flat.pop(wider)
            if wider != network:
                flat |= dict.fromkeys(_without(wider, network), owner)
        flat[network] = member
    return {str(network): member for network, member in flat.items()}


def find(pins: Mapping[str, str], address: Address) -> str | None:
    """Return the member to which ``address`` is pinned."""
    holding = [network for text in pins if address in (network := parse(text))]
    return pins[str(max(holding, key=lambda network: network.prefixlen))] if holding else None


def _within(network: Network, wider: Network) -> bool:
    return network.version == wider.version and network.subnet_of(wider)  # type: ignore[arg-type] # same version


def _without(wider: Network, network: Network) -> list[Network]:
    return list(wider.address_exclude(network))  # type: ignore[arg-type] # same version
