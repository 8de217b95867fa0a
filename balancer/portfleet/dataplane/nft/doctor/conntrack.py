"""The kernel's table of connections: its size, how full it is, and when it forgets or distrusts a connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from portfleet.core.needs import Needs
from portfleet.dataplane.nft.tracking import ROWS, Row, advised, least
from portfleet.doctor.finding import Finding, broken, fine, setting, warning
from portfleet.linux.machine import sysctl

#: Room for entries of closed connections, which stay up to two minutes (TIME_WAIT), and for all clients' reconnect.
HEADROOM = 4


@dataclass(frozen=True)
class ConntrackFacts:
    """Numbers are None if the nf_conntrack module is not loaded. ``tcp``: each setting of `tracking.ROWS`, by name."""

    limit: int | None
    used: int | None
    tcp: Mapping[str, int]
    keepalive_time: int


def read() -> ConntrackFacts:
    """Read the facts of this network namespace."""
    return ConntrackFacts(
        limit=_number("nf_conntrack_max"),
        used=_number("nf_conntrack_count"),
        tcp={row.name: value for row in ROWS if (value := _number(f"nf_conntrack_tcp_{row.name}")) is not None},
        keepalive_time=int(sysctl("net.ipv4.tcp_keepalive_time", "7200")),
    )


def judge(facts: ConntrackFacts, needs: Needs) -> Iterator[Finding]:
    """Judge the table against the fleet's peak."""
    if facts.limit is None or facts.used is None:
        yield warning(
            "conntrack",
            "the module nf_conntrack is not loaded, so its limits cannot be seen",
            why="its table must hold 4 × the fleet's peak of connections",
            mend="modprobe nf_conntrack && portfleet doctor",
        )
        return
    yield _size(facts.limit, needs)
    yield _fill(facts.used, facts.limit)
    yield from _tcp(facts, needs)


def _size(limit: int, needs: Needs) -> Finding:
    about, peak, wanted = "nf_conntrack_max", needs.connections, HEADROOM * needs.connections
    if limit < wanted and not needs.stated:
        return warning(
            about,
            f"{limit:,}; nothing but the limit of descriptors bounds the fleet's connections, at {peak:,}",
            why="the table must hold 4 × the peak; a full one drops new connections without a word",
            mend="set max_connections in fleet.toml, then: portfleet doctor",
        )
    why = "a full table drops new connections without a word"
    if limit < peak:
        return broken(
            about, f"{limit:,} is less than the fleet's peak of {peak:,}", why=why, mend=_resize(about, wanted)
        )
    if limit < wanted:
        what = f"{limit:,} is less than 4 × the fleet's peak of {peak:,}"
        return warning(
            about, what, why=f"closed connections stay in it for two minutes; {why}", mend=_resize(about, wanted)
        )
    return fine(about, f"{limit:,}, the fleet's peak is {peak:,}")


def _resize(about: str, value: int) -> str:
    # Outside the first network namespace the file cannot be written, and `sysctl -w` says nothing of it.
    return f"{setting(f'net.netfilter.{about}', value)}   # on the machine itself, not in a container"


def _fill(used: int, limit: int) -> Finding:
    share = 100 * used // limit if limit else 0
    what = f"{used:,} of {limit:,} entries are used ({share} %)"
    if share < 80:
        return fine("conntrack table", what)
    judged = broken if share >= 95 else warning
    return judged(
        "conntrack table",
        what,
        why="a full table drops new connections without a word",
        mend=_resize("nf_conntrack_max", 2 * limit),
    )


def _tcp(facts: ConntrackFacts, needs: Needs) -> Iterator[Finding]:
    """Judge every setting of TCP: what ends connections that TCP has not ended."""
    spoken = needs.keepalive or facts.keepalive_time
    found = [finding for row in ROWS if row.name in facts.tcp for finding in _setting(row, facts.tcp[row.name], spoken)]
    yield from found
    if not found:
        yield fine("conntrack's TCP settings", f"none ends a connection; keepalive speaks within {spoken:,} s")


def _setting(row: Row, value: int, spoken: int) -> Iterator[Finding]:
    bound, mend = least(row, keepalive=spoken), setting(row.sysctl, advised(row, keepalive=spoken))
    if row.over == "keepalive" and value <= spoken:
        judged = broken if row.name == "timeout_established" else warning
        what = f"{value:,} s, but keepalive speaks only after {spoken:,} s"
        yield judged(row.sysctl, what, why=row.costs, mend=mend)
    elif bound is not None and value <= bound:
        what = f"{value:,} s, but TCP may be silent for {bound:,} s: {row.why}"
        yield warning(row.sysctl, what, why=row.costs, mend=mend)
    elif bound is None and row.value is not None and value != row.value:
        yield warning(row.sysctl, f"{value}", why=row.costs, mend=mend)


def _number(name: str) -> int | None:
    value = sysctl(f"net.netfilter.{name}", "")
    return int(value) if value else None
