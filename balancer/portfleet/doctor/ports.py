"""Ports and ways: who else listens, which ports outgoing connections take, whether packets may be forwarded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portfleet.core.needs import Needs
from portfleet.core.paths import Paths
from portfleet.doctor.finding import Finding, broken, fine, setting, warning
from portfleet.linux import processes, sockdiag
from portfleet.linux.machine import read_machine, sysctl
from portfleet.linux.reserve import meets
from portfleet.linux.sockdiag import Listener
from portfleet.supervise.presence import supervisor_pid


@dataclass(frozen=True)
class PortFacts:
    """``strangers`` are LISTEN sockets that are not the fleet's, with their owners; ranges are inclusive."""

    strangers: tuple[tuple[Listener, str], ...]
    local_ports: tuple[int, int]
    reserved: tuple[tuple[int, int], ...]
    forward4: bool
    forward6: bool


def read(paths: Paths, needs: Needs) -> PortFacts:
    """Read the facts; owners are looked up for the fleet's own ports only, as that walks /proc."""
    relevant = [listener for listener in sockdiag.listeners() if _concerns(listener, needs)]
    ours: set[int] = set()
    if relevant and (pid := supervisor_pid(paths)):
        ours = processes.owned(processes.tree(pid), {listener.inode for listener in relevant})
    machine = read_machine()
    return PortFacts(
        strangers=tuple((x, processes.owner_of(x.inode)) for x in relevant if x.inode not in ours),
        local_ports=machine.local_ports,
        reserved=machine.reserved,
        forward4=sysctl("net.ipv4.ip_forward", "0") == "1",
        forward6=sysctl("net.ipv6.conf.all.forwarding", "0") == "1",
    )


def judge(facts: PortFacts, needs: Needs) -> Iterator[Finding]:
    """Judge ports and forwarding."""
    for listener, owner in facts.strangers:
        for listen, service in needs.listens.items():
            if meets(listen, listener):
                yield _covered(listener, owner, service)
        for service, (low, high) in needs.ranges:
            if low <= listener.port <= high:
                yield broken(
                    f"port {listener.port}",
                    f"{owner} listens on {listener}, a port of {service}'s instances",
                    why="the instance of that port cannot start",
                    mend="end that process, or give the service other ports in fleet.toml",
                )
    yield from _local_ports(facts, needs)
    if needs.remote:
        yield from _forwarding(facts)


def _covered(listener: Listener, owner: str, service: str) -> Finding:
    return warning(
        f"port {listener.port}",
        f"{owner} listens on {listener} too, which is where clients dial {service}",
        why=f"new clients go to {service}; while the fleet is down they reach that process",
        mend="end that process, or move it to another port",
    )


def _local_ports(facts: PortFacts, needs: Needs) -> Iterator[Finding]:
    first, last = facts.local_ports
    clash = False
    for service, (low, high) in needs.ranges:
        if low > last or high < first or any(begin <= low and high <= end for begin, end in facts.reserved):
            continue
        clash = True
        value = ",".join([*(f"{a}-{b}" for a, b in facts.reserved), f"{low}-{high}"])
        yield broken(
            "ip_local_port_range",
            f"{first}-{last} holds {low}-{high}, the ports of {service}'s instances",
            why="an outgoing connection may take an instance's port, and the instance then cannot start",
            mend=setting("net.ipv4.ip_local_reserved_ports", value),
        )
    if not clash and needs.ports:
        yield fine("ip_local_port_range", f"{first}-{last} keeps out of the instances' ports")


def _forwarding(facts: PortFacts) -> Iterator[Finding]:
    names = {"net.ipv4.ip_forward": facts.forward4, "net.ipv6.conf.all.forwarding": facts.forward6}
    for name, on in names.items():
        if on:
            yield fine(name, "1")
        else:
            judged = broken if name == "net.ipv4.ip_forward" else warning
            yield judged(
                name,
                "0, and a service has remote instances",
                why="packets for instances on other boxes are dropped in silence",
                mend=setting(name, 1),
            )


def _concerns(listener: Listener, needs: Needs) -> bool:
    return any(meets(listen, listener) for listen in needs.listens) or any(
        low <= listener.port <= high for _, (low, high) in needs.ranges
    )
