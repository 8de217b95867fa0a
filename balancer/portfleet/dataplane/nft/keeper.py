"""The keeper: a small table that keeps established connections alive while others flush the rules.

`nft flush ruleset` (`systemctl restart nftables` does it) deletes every table, and with the last NAT chain the kernel
unregisters NAT itself: packets of established connections are no longer translated and are answered with a reset. A
table with ``flags owner`` (Linux 5.12) belongs to the netlink socket that made it: others' flush passes it by, and it
goes when that socket closes. One NAT chain with one rule that needs conntrack is enough to keep both alive; without a
rule conntrack would go. New connections come untranslated in the meantime: their SYN is dropped instead of being
answered with a reset, and is translated when the client sends it again a second later.

Others may empty conntrack at the same moment. Packets in the middle of a connection are then dropped here, both ways,
until the table and the entries are back (restorer.py): one that left by an instance's port would be entered in
conntrack, and its client would reset the connection. What conntrack calls invalid passes no NAT chain and leaves, so
that no chain stands in the way of every packet that leaves this box: the client's reset is dropped when it comes.
A daemon that was there before us has a socket of its own on the service's port and keeps it.

The drop comes after our guard (priority 10), which may have something else to say to an untranslated connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.interface import Door
from portfleet.dataplane.nft.context import NftContext

NAME = "portfleet-keeper"
_TABLE = f"inet {NAME}"
_SETS = {
    "local4": "type inet_service",
    "local6": "type inet_service",
    "addresses4": "typeof ip daddr . tcp dport",
    "addresses6": "typeof ip6 daddr . tcp dport",
    "ports": "type inet_service; flags interval",
}
_MIDWAY = "tcp flags & (fin | syn | rst | ack) != syn"
_DROP = """
    fib daddr type local meta nfproto ipv4 tcp dport @local4 counter drop
    fib daddr type local meta nfproto ipv6 tcp dport @local6 counter drop
    fib daddr type local ip daddr . tcp dport @addresses4 counter drop
    fib daddr type local ip6 daddr . tcp dport @addresses6 counter drop"""
_MAKE = f"""
table {_TABLE} {{
  flags owner;
{"".join(f"  set {name} {{ {kind}; }}{chr(10)}" for name, kind in _SETS.items())}
  chain prerouting {{
    type nat hook prerouting priority -90; policy accept;
    ct state new counter
  }}
  chain output {{
    type nat hook output priority -90; policy accept;
    {_MIDWAY} jump silent
  }}
  chain input {{
    type filter hook input priority 20; policy accept;
    ct state new,invalid jump wait
  }}
  chain wait {{
    ct status & dnat != 0 accept
    ct state invalid tcp flags & rst == rst tcp dport @ports counter drop
    {_MIDWAY} socket wildcard 0 accept{_DROP}
  }}
  chain silent {{
    tcp sport @ports counter drop{_DROP}
  }}
}}
"""


class Keeper:
    """Holds the keeper table for as long as this process lives or until `close`. Methods raise PortfleetError."""

    def __init__(self) -> None:
        self._nft = NftContext()
        self._made = False
        self._held: tuple[Door, ...] = ()

    def ensure(self, doors: Iterable[Door]) -> None:
        """Make the table if this keeper has none yet, and keep clients of ``doors`` waiting in it.

        Raises PortfleetError with exit 5 where another process owns one: only one watcher can run.
        """
        held = tuple(doors)
        if self._made:
            if held != self._held:  # libnftables reads the whole ruleset for each question, and others' may be huge
                self.update(held)
            return
        self._refuse_second()
        try:
            self._nft.do(_MAKE + "".join(_elements(held)))
        except PortfleetError:
            self._refuse_second()  # the other one was quicker by a moment
            raise
        self._made, self._held = True, held

    def _refuse_second(self) -> None:
        if self._nft.ask(f"list table {_TABLE}") is not None:
            raise PortfleetError(
                "a watcher is already running in this network namespace",
                hint="one fleet, and one watcher, per network namespace; see: portfleet logs portfleet-watch",
                code=Exit.LOCKED,
            )

    def update(self, doors: Iterable[Door]) -> None:
        """Keep clients of exactly ``doors`` waiting."""
        held = tuple(doors)
        self._nft.do("".join([*(f"flush set {_TABLE} {name}\n" for name in _SETS), *_elements(held)]))
        self._held = held

    def close(self) -> None:
        """Remove the table. The kernel does the same when the process ends, however it ends."""
        if self._made:
            self._nft.do(f"delete table {_TABLE}\n")
            self._made = False


def _elements(doors: Iterable[Door]) -> Iterable[str]:
    doors = list(doors)
    for low, high in sorted({door.ports for door in doors}):
        yield f"add element {_TABLE} ports {{ {low}-{high} }}\n"
    for listen in sorted({listen for door in doors for listen in door.listens}, key=str):
        for family in listen.families:
            name, key = f"local{family}", str(listen.port)
            if listen.address is not None:
                name, key = f"addresses{family}", f"{listen.address} . {listen.port}"
            yield f"add element {_TABLE} {name} {{ {key} }}\n"
