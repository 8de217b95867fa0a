"""What the kernel is told while connections move to another box: packets held, sent on, entries made and deleted.

The tables are those of `moved_rules`, their elements those of `moved_flows`. Elements of held connections have a
time-out: if the process that holds them ends, they go on by themselves.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Sequence

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.frozen import Flow
from portfleet.dataplane.nft import moved_entries, moved_flows, moved_rules
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.held_frames import HeldFrames
from portfleet.dataplane.nft.moved_rules import MOVED
from portfleet.linux import routes, tcp_repair
from portfleet.linux.machine import sysctl
from portfleet.linux.netlink import Netfilter

#: SO_ORIGINAL_DST of linux/netfilter_ipv4.h, IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
_DIALLED = 80
_REMEMBERED = "432000"


class NftRelocation:
    """The kernel's part of a relocation (see `Relocation`). Methods raise PortfleetError."""

    def __init__(self) -> None:
        self._nft = NftContext()
        self._routes = routes.Routes()
        try:
            self._netfilter = Netfilter()
        except OSError as error:
            raise _refused(error) from None
        self._frames: HeldFrames | None = None
        self._ways: dict[str, str] = {}
        self._known: list[str] | None = None

    def flow(self, sock: socket.socket) -> Flow | None:
        local, port, peer, peer_port = tcp_repair.ends(sock)
        try:
            if len(peer) == 4:
                found = sock.getsockopt(socket.IPPROTO_IP, _DIALLED, 16)
                dialled = found[4:8]
            else:
                found = sock.getsockopt(socket.IPPROTO_IPV6, _DIALLED, 28)
                dialled = found[8:24]
        except FileNotFoundError:
            return None
        if self._routes.is_local(peer):
            return None
        return Flow(peer, peer_port, dialled, int.from_bytes(found[2:4], "big"), local, port)

    def hold(self, flows: Sequence[Flow], *, seconds: float) -> None:
        if self._frames is None:
            self._frames = self._laid()
        self._frames.hold(map(moved_flows.moving, flows))
        self._do(moved_flows.hold(flows, seconds=seconds))

    def prolong(self, flows: Sequence[Flow], *, seconds: float) -> None:
        self._do(moved_flows.prolong(flows, seconds=seconds))

    def release(self, flows: Sequence[Flow]) -> None:
        try:
            self._netfilter.transact(moved_flows.NFTABLES, moved_flows.release(flows))
        except OSError:
            self._do(moved_flows.release_late(flows))
        if self._frames is not None:
            self._frames.release(map(moved_flows.moving, flows))

    def forward(self, flows: Sequence[Flow], box: str) -> None:
        self._do(moved_flows.forward(flows, self._way_to(box)))

    def take_back(self, flows: Sequence[Flow]) -> None:
        for name in self._sets():
            if some := [flow for flow in flows if name.startswith(f"to{flow.family}-")]:
                self._do(moved_flows.take_back(some, name))

    def reach(self, box: str) -> str:
        if box not in self._ways and routes.neighbour_by(ipaddress.ip_address(box)) is None:
            return f"{box} is not on a segment of this box: packets cannot be sent on to it as frames"
        return ""

    def admit(self, flows: Sequence[Flow]) -> None:
        seconds = int(sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", _REMEMBERED))
        if errno.EEXIST in self._insert(moved_entries.entries(flows, seconds=seconds), known=errno.EEXIST):
            self.dismiss(flows)  # entries of connections that have been here before
            self._insert(moved_entries.entries(flows, seconds=seconds))

    def dismiss(self, flows: Sequence[Flow]) -> None:
        self._insert(moved_entries.deletions(flows), known=errno.ENOENT)

    def _insert(self, requests: Iterable[bytes], *, known: int = 0) -> Collection[int]:
        """Send requests; return the errors, all ``known``."""
        try:
            failed = self._netfilter.insert(requests)
        except OSError as error:
            raise _refused(error) from None
        if wrong := [code for code in failed if code not in (0, known)]:
            raise _refused(OSError(wrong[0], os.strerror(wrong[0])))
        return failed

    def _do(self, requests: Sequence[moved_flows.Request]) -> None:
        if not requests:
            return
        try:
            self._netfilter.transact(moved_flows.NFTABLES, requests)
        except OSError as error:
            words = f"cannot change nftables, nothing was applied: {error.strerror}: connections that move"
            raise PortfleetError(words, hint="portfleet doctor", code=Exit.KERNEL) from None

    def _laid(self) -> HeldFrames:
        """Load the tables if they are not there, and have packets wait if that can be."""
        if self._nft.ask(f"list chain {MOVED} moved") is None:
            self._nft.do(moved_rules.base())
        frames = HeldFrames()
        if not frames.busy:
            self._nft.do(moved_rules.waiting() if frames else moved_rules.dropping())
        return frames

    def _way_to(self, box: str) -> str:
        """Return the set of connections that are sent on to ``box``, which is made with its rule if it is not there."""
        if box not in self._ways:
            address = ipaddress.ip_address(box)
            name = f"to{address.version}-{str(address).replace(':', '_')}"
            if self._nft.ask(f"list set {MOVED} {name}") is None:
                device = routes.neighbour_by(address)
                if device is None:
                    raise PortfleetError(self.reach(box), hint="put both boxes on one segment")
                self._nft.do(moved_rules.way_to(name, address, device))
            self._ways[box] = name
        return self._ways[box]

    def _sets(self) -> Sequence[str]:
        """Return the sets of connections that are sent on, as they were when this process first asked, and its own."""
        if self._known is None:
            found = self._nft.ask("list sets netdev") or {}
            sets = [entry["set"] for entry in found.get("nftables", ()) if "set" in entry]
            self._known = [one["name"] for one in sets if f"netdev {one['table']}" == MOVED]
        return sorted({*self._known, *self._ways.values()})


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"the kernel refuses a connection that moves: {error.strerror}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
