"""Established connections behind nftables: by sock_diag on this box, by conntrack on others.

Whose a connection on this box is, its port says only as long as it was not handed off; daemons that hand off are
asked themselves.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from portfleet.core.changes import InstanceRule
from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.nft.reader import NftReader
from portfleet.linux import sockdiag

if TYPE_CHECKING:
    from portfleet.dataplane.interface import Address, ClientConnection, Hold, Room
    from portfleet.dataplane.nft.conntrack import Forgetter, Tracked

#: Seconds for which a connection that conntrack dropped is a reason to distrust probes. That its table is full is none:
#: half-open entries make room (early_drop), so that a flood of SYNs fills it and clients get in nonetheless.
_LATELY = 2.0


class NftConnections:
    """See `Connections`. ``reader`` reads our table."""

    def __init__(self, reader: NftReader) -> None:
        self._reader = reader
        self._dropped: int | None = None
        self._dropped_at = -_LATELY

    def count(self, instances: Iterable[InstanceRule]) -> Mapping[str, int | None]:
        found: dict[str, int | None] = {}
        by_port = None
        for rule in instances:
            if rule.remote is not None:
                found[rule.name] = _established(rule)
                continue
            by_port = sockdiag.established() if by_port is None else by_port
            found[rule.name] = by_port[rule.port]
        return found

    def of(self, instance: InstanceRule) -> list[Hold]:
        from portfleet.dataplane.interface import Hold  # not for `status`

        return [Hold(name) for name in sockdiag.of_port(instance.port)] if instance.remote is None else []

    def of_client(self, instances: Iterable[InstanceRule], address: Address) -> list[ClientConnection]:
        from portfleet.dataplane.interface import ClientConnection  # not for `status`

        rules = list(instances)
        tracked = _tracked(address.packed)
        began = {(one.port, one.replies_from): one.since for one in tracked}
        here = {rule.port: rule.name for rule in rules if rule.remote is None}
        found = [
            ClientConnection(here[ends.port], ends.peer_port, inode, began.get((ends.peer_port, ends.port)))
            for ends, inode in sockdiag.of_peer(address.packed)
            if ends.port in here
        ]
        elsewhere = {
            (ipaddress.ip_address(rule.remote.address or "").packed, rule.remote.port): rule.name
            for rule in rules
            if rule.remote is not None
        }
        return found + [
            ClientConnection(elsewhere[one.address, one.replies_from], one.port, since=one.since)
            for one in tracked
            if (one.address, one.replies_from) in elsewhere
        ]

    def end(self, holds: Iterable[Hold]) -> int:
        try:
            return sockdiag.destroy(hold.name for hold in holds)
        except OSError as error:
            raise PortfleetError(
                f"the kernel does not destroy sockets: {error.strerror}", hint="portfleet doctor", code=Exit.KERNEL
            ) from None

    def forget_unanswered(self, instance: InstanceRule) -> int:
        from portfleet.dataplane.nft import conntrack  # not for `status`

        return conntrack.forget_half_open(instance)

    @cached_property
    def _forgetter(self) -> Forgetter:
        from portfleet.dataplane.nft import conntrack

        return conntrack.Forgetter()

    def forget_ended(self, connections: Iterable[sockdiag.Ends]) -> None:
        self._forgetter.forget(connections)

    def turned_away(self, instances: Iterable[InstanceRule]) -> Mapping[str, int]:
        counts = self._reader.counts("dropped")
        return {rule.name: counts.get(rule.port, 0) for rule in instances if rule.remote is None}

    def refused(self, service: str) -> int:
        return self._reader.passed(f"access_{service}")

    def full(self) -> str:
        room = self.room()
        if room is None or time.monotonic() - self._dropped_at >= _LATELY:
            return ""
        return f"{room.words}, and new connections are dropped"

    def room(self) -> Room | None:
        try:
            entries, limit = (_number(name) for name in ("count", "max"))
            header, *rows = Path("/proc/net/stat/nf_conntrack").read_text().splitlines()
        except OSError:
            return None
        column = header.split().index("drop")
        dropped = sum(int(row.split()[column], 16) for row in rows)
        if self._dropped is not None and dropped > self._dropped:
            self._dropped_at = time.monotonic()
        self._dropped = dropped
        from portfleet.dataplane.interface import Room

        return Room(
            "conntrack",
            used=entries,
            limit=limit,
            dropped=dropped,
            words=f"conntrack holds {entries:,} of {limit:,} entries",
            hint=f"sysctl -w net.netfilter.nf_conntrack_max={2 * limit}",
        )


def _tracked(address: bytes) -> list[Tracked]:
    """Return a client's entries; none without the right to look, or if they changed while they were read."""
    from portfleet.dataplane.nft import conntrack  # not for `status`

    try:
        return list(conntrack.of_client(address))
    except PortfleetError:
        return []


def _established(instance: InstanceRule) -> int | None:
    from portfleet.dataplane.nft import conntrack  # of no use to a fleet that is on one box

    try:
        return conntrack.established(instance)
    except PortfleetError:
        return None


def _number(name: str) -> int:
    return int(Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text())
