"""Boxes behind a router with equal-cost routes: BIRD on each balancer and on the router, the service's addresses on lo.

clients   203.0.113.2, 2001:db8:2::2      every address of 198.18.0.0/15 and 2001:db8:1::/48 is its own
router    203.0.113.1 and 192.0.2.254     a bridge with the boxes as its ports; each has a route for the addresses
boxes     192.0.2.11, 2001:db8::11, …     owners, which have a fleet and the addresses, and balancers alone
service   203.0.113.100, 2001:db8:5::100

BIRD's config of a balancer is what the role portfleet_ecmp writes.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from support.fleet_box import HOME, PORTFLEET
from support.reachable import TOP, show_checkout
from support.sandbox import Box, make_box, wait_for

SERVICE = {4: "203.0.113.100", 6: "2001:db8:5::100"}
ROUTER = {4: "192.0.2.254", 6: "2001:db8::fe"}
CLIENTS = Path(__file__).with_name("clients.py")
_ROLE = TOP / "ansible/roles/portfleet_ecmp/templates"
_OF = {4: r"^[0-9.]+$", 6: ":"}


def addresses(number: int) -> dict[int, str]:
    """Return the own addresses of the box with a number."""
    return {4: f"192.0.2.{10 + number}", 6: f"2001:db8::{10 + number}"}


def balancer_config(own: Mapping[int, str], *, interface: str = "eth0") -> str:
    """Return BIRD's config of a balancer, as the role writes it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)  # noqa: S701 (no HTML)
    environment.tests["search"] = _search
    values = {
        "ansible_managed": "for a test",
        "portfleet_ecmp_addresses": [*SERVICE.values()],
        "portfleet_ecmp_of": _OF,
        "portfleet_ecmp_routers": [*ROUTER.values()],
        "portfleet_ecmp_own_address": own[4],
        "portfleet_ecmp_own_address6": own[6],
        "portfleet_ecmp_router_id": own[4],
        "portfleet_ecmp_interface": interface,
        "portfleet_ecmp_as": 64512,
        "portfleet_ecmp_router_as": 64512,
        "portfleet_ecmp_bfd_ms": 100,
    }
    return environment.from_string((_ROLE / "bird.conf.j2").read_text()).render(values)


def _search(text: str, pattern: str) -> bool:
    """Return what Ansible's test ``search`` does."""
    return re.search(pattern, text) is not None


def router_config(numbers: Sequence[int], *, interface: str, own: Mapping[int, str] = ROUTER) -> str:
    """Return BIRD's config of a router with equal-cost routes to the boxes with these numbers."""
    lines = [f"router id {own[4]};", "protocol device { scan time 1; }"]
    timers = "min rx interval 100 ms; min tx interval 100 ms; multiplier 3;"
    lines.append(f'protocol bfd {{ interface "{interface}" {{ {timers} }}; }}')
    for family in (4, 6):
        lines.append(f"protocol kernel {{ merge paths yes; ipv{family} {{ import none; export all; }}; }}")
        lines += [
            f"protocol bgp box{number}f{family} {{ local {own[family]} as 64512; "
            f"neighbor {addresses(number)[family]} as 64512; direct; bfd on; connect delay time 1; "
            f"connect retry time 5; error wait time 1, 5; ipv{family} {{ import all; export none; }}; }}"
            for number in numbers
        ]
    return "\n".join(lines) + "\n"


@dataclass
class Segment:
    """The boxes by name: ``owners`` have the fleet, ``balancers`` announce the addresses; one may be both.

    ``members`` are the owners that slots point at.
    """

    clients: Box
    router: Box
    boxes: dict[str, Box]
    owners: tuple[str, ...]
    balancers: tuple[str, ...]
    members: tuple[str, ...]
    config: str
    programs: dict[str, list[subprocess.Popen[str]]] = field(default_factory=dict)
    #: The boxes' states as they were last written.
    states: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def portfleet(self, name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb on a box."""
        return self.boxes[name].run(PORTFLEET, "--home", HOME, *words, check=check, timeout=120)

    def write(self, **states: Sequence[str]) -> None:
        """Write the same fleet.toml on all boxes, with boxes in these states, and have it hold, box after box."""
        self.states = states
        for name in self.boxes:
            self._config(self.boxes[name], states)
            self.portfleet(name, "forward", "load")

    def _config(self, box: Box, states: Mapping[str, Sequence[str]]) -> None:
        lines = [f"{state} = {json.dumps([*names])}" for state, names in states.items()]
        forward = ["[forward]", f"addresses = {json.dumps([*SERVICE.values()])}", *lines, "[forward.boxes]"]
        forward += [f"{name} = {json.dumps([*self.own(name).values()])}" for name in self.members]
        box.run("sh", "-c", f"mkdir -p {HOME} && cat > {HOME}/fleet.toml", text="\n".join([self.config, *forward, ""]))

    def own(self, name: str) -> dict[int, str]:
        """Return a box's own addresses."""
        return addresses(1 + [*self.boxes].index(name))

    def start(self, name: str, *words: str) -> None:
        """Start a program on a box."""
        self.programs.setdefault(name, []).append(self.boxes[name].popen(*words))

    def announce(self, name: str) -> None:
        """Have a balancer announce the addresses."""
        box = self.boxes[name]
        box.path("/run/bird.conf").write_text(balancer_config(self.own(name)))
        self.start(name, "bird", "-f", "-c", "/run/bird.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid")

    def ways(self, family: int) -> set[str]:
        """Return the boxes that the router sends a family's packets to."""
        shown = self.router.run("ip", f"-{family}", "-j", "route", "show", SERVICE[family]).stdout
        hops = [hop for route in json.loads(shown or "[]") for hop in route.get("nexthops", [route])]
        names = {self.own(name)[family]: name for name in self.boxes}
        return {names[hop["gateway"]] for hop in hops if "gateway" in hop}

    def announced(self, *names: str) -> None:
        """Wait until the router's routes lead to exactly these boxes."""
        wait_for(f"routes by {names}", lambda: all(self.ways(family) == {*names} for family in (4, 6)), seconds=30)

    def counted(self, name: str, chain: str) -> int:
        """Return how many packets the rules of a chain have counted on a box."""
        shown = self.boxes[name].run("nft", "-j", "list", "chain", "netdev", "portfleet-forward", chain).stdout
        rules = [entry["rule"]["expr"] for entry in json.loads(shown)["nftables"] if "rule" in entry]
        return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


@contextmanager
def segment(
    config: str, *, owners: Sequence[str], balancers: Sequence[str], late: Sequence[str] = ()
) -> Iterator[Segment]:
    """Return boxes with the fleet ``config`` up on the owners, sending packets on, and announced by the balancers.

    No slots point at the owners in ``late`` yet.
    """
    names = list(dict.fromkeys([*owners, *balancers]))
    made: list[Box] = []
    try:
        for name in ("clients", "router", *names):
            made.append(make_box(name))
        clients, router, *boxes = made
        members = tuple(name for name in owners if name not in late)
        found = Segment(
            clients, router, dict(zip(names, boxes, strict=True)), tuple(owners), tuple(balancers), members, config
        )
        _lay(found)
        for name in names:
            found._config(found.boxes[name], {})
            if name in owners:
                found.portfleet(name, "up")
            found.portfleet(name, "forward", "load")
        for name in balancers:
            found.announce(name)
        found.announced(*balancers)
        yield found
    finally:
        for box in made:
            box.close()
        for programs in found.programs.values() if len(made) > 1 else ():
            for program in programs:
                program.communicate()


def _lay(found: Segment) -> None:
    clients, router = found.clients, found.router
    clients.ip(f"link add eth0 type veth peer name out netns {router.pid}")
    clients.ip("addr add 203.0.113.2/30 dev eth0", "addr add 2001:db8:2::2/64 dev eth0 nodad", "link set eth0 up")
    clients.ip("route add default via 203.0.113.1", "route add ::/0 via 2001:db8:2::1")
    clients.ip("route add local 198.18.0.0/15 dev lo", "route add local 2001:db8:1::/48 dev lo")
    clients.sysctl("net.ipv6.ip_nonlocal_bind", "1")
    router.ip("addr add 203.0.113.1/30 dev out", "addr add 2001:db8:2::1/64 dev out nodad", "link set out up")
    router.ip("link add br0 type bridge", f"addr add {ROUTER[4]}/24 dev br0", f"addr add {ROUTER[6]}/64 dev br0 nodad")
    router.ip(
        "link set br0 up", "route add 198.18.0.0/15 via 203.0.113.2", "route add 2001:db8:1::/48 via 2001:db8:2::2"
    )
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        router.sysctl(name, "1")
    for name in ("net.ipv4.fib_multipath_hash_policy", "net.ipv6.fib_multipath_hash_policy"):
        router.sysctl(name, "1")
    for number, (name, box) in enumerate(found.boxes.items(), 1):
        own = addresses(number)
        router.ip(f"link add to-{name} type veth peer name eth0 netns {box.pid}")
        router.ip(f"link set to-{name} master br0", f"link set to-{name} up")
        box.ip(f"addr add {own[4]}/24 dev eth0", f"addr add {own[6]}/64 dev eth0 nodad", "link set eth0 up")
        box.ip(f"route add default via {ROUTER[4]}", f"route add ::/0 via {ROUTER[6]}")
        show_checkout(box)
        if name in found.owners:
            box.sysctl("net.ipv4.conf.all.arp_ignore", "1")
            box.sysctl("net.ipv4.conf.all.arp_announce", "2")
            box.ip(f"addr add {SERVICE[4]}/32 dev lo", f"addr add {SERVICE[6]}/128 dev lo nodad")
    numbers = [1 + [*found.boxes].index(name) for name in found.balancers]
    router.path("/run/bird.conf").write_text(router_config(numbers, interface="br0"))
    router_bird = ("bird", "-f", "-c", "/run/bird.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid")
    found.programs["router"] = [router.popen(*router_bird)]


class Talk:
    """Clients by IPv4 and IPv6 that hold connections and make new ones beside them (from ``new``), until `stop`."""

    def __init__(
        self,
        popen: Callable[..., subprocess.Popen[str]],
        sources: Mapping[int, Sequence[str]],
        *,
        new: Mapping[int, Sequence[str]] | None = None,
        connects: int,
        port: int = 7000,
    ) -> None:
        self._processes = []
        for family, some in sources.items():
            job: dict[str, Any] = {"to": [SERVICE[family], port], "sources": some, "connects": connects}
            job["from"] = (new or sources)[family]
            job |= {"message": "hello {id}\n", "interval": 0.5, "timeout": 20}
            process = popen("/usr/bin/python3", str(CLIENTS), "hold")
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            self._processes.append(process)
        for process in self._processes:
            said = process.stdout.readline() if process.stdout else ""
            assert said == "up\n", said + (process.stderr.read() if process.stderr else "")

    def so_far(self) -> dict[str, int]:
        """Return how many held connections have broken ("lost"), and how many new ones have ended ("new")."""
        found = Counter[str]()
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("so far\n")
            process.stdin.flush()
            found.update(json.loads(process.stdout.readline()))
        return dict(found)

    def meet(self, number: int) -> None:
        """Wait until so many more new connections have ended."""
        before = self.so_far()["new"]
        wait_for(f"{number} new connections", lambda: self.so_far()["new"] >= before + number)

    def stop(self) -> list[dict[str, Any]]:
        """Have them end; return what each family met."""
        return [json.loads(process.communicate("\n", timeout=60)[0]) for process in self._processes]


def words(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return what clients met in one line."""
    held = [one for report in reports for one in report["held"]]
    new = [report["connects"] for report in reports]
    lost, slowest = sum(one["lost"] for one in held), max(one["slowest"] for one in held)
    refused, longest = sum(one["refused"] + one["reset"] for one in new), max(one["slowest"] for one in new)
    return (
        f"{len(held)} established: {lost} lost, longest wait {slowest:.2f} s; "
        f"{sum(one['done'] for one in new)} new: {refused} refused, longest wait {longest:.2f} s"
        + "".join(f"; {source}: {error}" for one in new for source, error in one["errors"][:3])
    )
