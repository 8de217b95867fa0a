"""What this machine lacks for nftables and conntrack to serve the fleet."""

from __future__ import annotations

from collections.abc import Iterator

from portfleet.core.model import Fleet
from portfleet.core.needs import Needs
from portfleet.dataplane.nft.doctor import conntrack, firewalls, sticky, system
from portfleet.doctor.finding import Finding


def examine(fleet: Fleet, needs: Needs) -> Iterator[Finding]:
    """Return every finding about the connection table, sticky clients and other programs' rules."""
    yield from system.judge(system.read(), needs)
    yield from conntrack.judge(conntrack.read(), needs)
    yield from sticky.judge(sticky.read(fleet))
    yield from firewalls.judge(firewalls.read(), fleet, needs)
