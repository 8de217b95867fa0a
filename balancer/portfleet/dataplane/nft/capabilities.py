"""What this kernel and libnftables lack, found by asking them: each rule we use is checked (``nft -c``), none is set.

The kernel takes each snippet into a transaction that it then gives up, and loads its modules on the way, so this also
finds a kernel that was built without one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from portfleet.core.errors import PortfleetError, Problem
from portfleet.core.model import Fleet
from portfleet.dataplane.nft.context import NftContext
from portfleet.linux.machine import sysctl


@dataclass(frozen=True)
class Capability:
    """One thing that is needed, in words, and the rules that show it. ``without`` is what happens if it is missing."""

    words: str
    rules: str
    without: str


_PRE = "chain c { type nat hook prerouting priority dstnat; policy accept; "
_IN = "chain c { type filter hook input priority 10; policy accept; "
_MAP = "map m { typeof ip saddr : meta priority; size 16; flags dynamic,timeout; }\n"
_SERVE = "nothing can be loaded"
NEEDED = (
    Capability("NAT for both families in one table (Linux 5.2)", _PRE + "}", _SERVE),
    Capability(
        "a hash of the client's address (nft_hash)",
        "map m { typeof meta cpu : meta priority; }\n"
        + _PRE
        + "\nmeta priority set jhash ip saddr & 255.255.255.0 mod 4096 seed 0x5eed map @m\n}",
        "affinity source and connection cannot be used",
    ),
    Capability(
        "numbers in turn (nft_numgen)", _PRE + "\nmeta priority set numgen inc mod 4096\n}", "no round-robin or random"
    ),
    Capability(
        "maps from numbers to chains",
        "map m { typeof meta priority : verdict; }\n" + _PRE + "\nmeta priority vmap @m\n}",
        _SERVE,
    ),
    Capability(
        "translation to a port of the dialled address (nft_nat)",
        _PRE + "\nmeta l4proto tcp dnat ip to ip daddr:7101\nmeta l4proto tcp dnat ip6 to ip6 daddr:7101\n}",
        _SERVE,
    ),
    Capability("a look-up of local addresses (nft_fib)", _PRE + "\nfib daddr type local accept\n}", _SERVE),
    Capability("a look-up of listeners (nft_socket)", _IN + "\nsocket transparent 0 accept\n}", "dead ports refuse"),
    Capability("resets (nft_reject)", _IN + "\nmeta l4proto tcp reject with tcp reset\n}", "ports cannot be guarded"),
    Capability(
        "maps that packets fill and empty",
        _MAP + _PRE + "\ndelete @m { ip saddr : 0:0 }\nupdate @m { ip saddr timeout 1h : 0:1 }\n}",
        "sticky cannot be used",
    ),
    Capability(
        "maps with intervals",
        "map m { typeof ip saddr : meta priority; flags interval; elements = { 198.18.0.0/24 : 0:1 }; }\n"
        + _PRE
        + "\nmeta priority set ip saddr map @m\n}",
        "sources cannot be pinned",
    ),
    Capability(
        "counts of connections (nft_connlimit)",
        "set s { typeof tcp dport; size 16; flags dynamic; }\n"
        + _IN
        + "\nadd @s { tcp dport ct count over 10 } counter drop\n}",
        "max_connections cannot be kept for daemons that do not keep to it themselves",
    ),
    Capability(
        "translation to another box (nft_masq)",
        _PRE
        + "\nmeta l4proto tcp dnat ip to 203.0.113.2:7101\n}\n"
        + "chain p { type nat hook postrouting priority srcnat; policy accept; \nmasquerade\n}",
        "remote instances cannot be used",
    ),
)


def missing() -> list[str]:
    """Return what is missing, a line each; empty where all is there. Raises PortfleetError without the right to ask."""
    nft = NftContext()
    nft.do("table inet portfleet-probe { }\n", dry=True)
    found = []
    for number, capability in enumerate(NEEDED):
        try:  # in a table of its own: libnftables remembers maps that were only checked
            nft.do(f"table inet portfleet-probe-{number} {{\n{capability.rules}\n}}\n", dry=True)
        except PortfleetError:
            found.append(f"{capability.words}: without it {capability.without}")
    return found


def unneeded(fleet: Fleet) -> list[Problem]:
    """Return a problem for each service whose instances would be told their clients, whom they see themselves."""
    return [
        Problem(
            f"service.{service.name}.send_proxy",
            "the kernel passes connections on as they are: nothing could put a header before the client's first byte",
            'leave it out, or set dataplane = "haproxy" in [fleet]',
        )
        for service in fleet.services.values()
        if service.send_proxy
    ]


_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def forwarding(fleet: Fleet) -> list[Problem]:
    """Return a problem for each remote instance to which this box would not forward packets."""
    return [
        Problem(
            f"service.{service.name}.remote[{number}]",
            f"{name} is 0: this box would not forward clients' packets to {remote}",
            f"sysctl -w {name}=1 (and in /etc/sysctl.d, for the next boot)",
        )
        for service in fleet.services.values()
        for number, remote in enumerate(service.remote)
        for family in remote.families
        if sysctl(name := _FORWARDING[family], "0") == "0"
    ]
