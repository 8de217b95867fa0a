"""Booted hosts behind equal-cost routes: balancers are lost in turns, and no connection is.

Slots point at two hosts, `one` and `two`; all five are balancers, deployed by site.yml and ecmp.yml. This box is the
router (BIRD) and has the clients. `PORTFLEET_ROUNDS` is how often each fault is made, of the other three in turns.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nspawn
from deploy import Ansible
from nspawn import HERE4, HERE6, Host, run
from support.ecmp import SERVICE, Talk, router_config, words
from support.sandbox import client4, client6, wait_for

pytestmark = pytest.mark.ecmp

ROUNDS = int(os.environ.get("PORTFLEET_ROUNDS", "1"))
NAMES = ("one", "two", "three", "four", "five")
OWNERS, BALANCERS = NAMES[:2], NAMES[2:]
#: Held connections by each family, and new ones a second.
TALKERS, CONNECTS = 500, 25
CONFIG: dict[str, Any] = {
    "service": {
        "echo": {
            "listen": [":7000"],
            "command": ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"],
            "user": "portfleet",
            "instances": 2,
            "ports": "7100-7107",
            "max_connections": 4000,
        }
    },
    "forward": {"addresses": [*SERVICE.values()], "boxes": {}},
}
VARIABLES = {
    "portfleet_ecmp_routers": [HERE4, HERE6],
    "portfleet_releases": [],
    "portfleet_extra_packages": [],
}


@dataclass
class Segment:
    """The hosts, how they are deployed, and where this router sends packets."""

    hosts: dict[str, Host]
    ansible: Ansible

    def ways(self, family: int) -> set[str]:
        """Return the hosts that a family's packets go to."""
        shown = run("ip", f"-{family}", "-j", "route", "show", SERVICE[family])
        hops = [hop for route in json.loads(shown or "[]") for hop in route.get("nexthops", [route])]
        names = {host.address if family == 4 else host.address6: host.name for host in self.hosts.values()}
        return {names[hop["gateway"]] for hop in hops if "gateway" in hop}

    def announced(self, *names: str, seconds: float = 60) -> None:
        """Wait until packets go to exactly these hosts."""
        wait_for(f"{names} announce", lambda: all(self.ways(family) == {*names} for family in (4, 6)), seconds=seconds)

    def deploy(self, *playbooks: str, **states: list[str]) -> dict[str, int]:
        """Run playbooks with owners in these states; return how many tasks changed something on each host."""
        config = copy.deepcopy(CONFIG)
        config["forward"] |= states
        config["forward"]["boxes"] = {name: [self.hosts[name].address, self.hosts[name].address6] for name in OWNERS}
        self.ansible.config = config
        self.ansible.write_inventory(**VARIABLES)
        changed = dict.fromkeys(self.hosts, 0)
        for playbook in playbooks:
            done = self.ansible.play(playbook, timeout=1200)
            assert done.code == 0, done.output
            changed = {name: number + done.changed[name] for name, number in changed.items()}
        return changed

    def change(self, **states: list[str]) -> None:
        """Edit fleet.toml on all hosts as an operator does, and have it hold by ecmp.yml."""
        lines = "".join(rf"\n{state} = {json.dumps(names)}" for state, names in states.items())
        edit = (
            rf"sed -i -e '/^\(draining\|out\|returning\) =/d' -e 's/^\[forward\]$/&{lines}/' /etc/portfleet/fleet.toml"
        )
        for host in self.hosts.values():
            host.run(edit)
        assert max(self.deploy("ecmp.yml", **states).values()) > 0
        for host in self.hosts.values():
            host.run("portfleet forward check")

    def established(self, name: str) -> int:
        """Return how many clients' connections a host has."""
        shown = self.hosts[name].run("portfleet status --json || test $? -ge 7").stdout
        return sum(one["connections"] for service in json.loads(shown)["services"] for one in service["instances"])


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    """Boot and deploy the hosts, with this box as their router."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"]), NAMES) as hosts, routing(tmp_path_factory.mktemp("bird")):
        ansible = Ansible(tmp_path_factory.mktemp("ansible"), hosts, Path(os.environ["PORTFLEET_WHEELS"]))
        made = Segment(hosts, ansible)
        made.deploy("site.yml", "ecmp.yml")
        made.announced(*NAMES)
        yield made


@contextmanager
def routing(folder: Path) -> Iterator[None]:
    """Have this box take the hosts' announcements, and clients of both families here."""
    for setting in (
        "net.ipv6.ip_nonlocal_bind=1",
        "net.ipv4.fib_multipath_hash_policy=1",
        "net.ipv6.fib_multipath_hash_policy=1",
    ):
        run("sysctl", "-qw", setting)
    run("ip", "route", "add", "local", "2001:db8:1::/48", "dev", "lo")
    config = folder / "bird.conf"
    config.write_text(router_config(range(1, 1 + len(NAMES)), interface="hosts", own={4: HERE4, 6: HERE6}))
    # Routers have time for their signs of life, whatever the load of this box is.
    command = [
        "nice",
        "-n",
        "-10",
        "bird",
        "-f",
        "-c",
        str(config),
        "-s",
        str(folder / "ctl"),
        "-P",
        str(folder / "pid"),
    ]
    with subprocess.Popen(command) as bird:
        try:
            yield
        finally:
            bird.terminate()


def talk(connects: int = CONNECTS) -> Talk:
    """Return clients that hold connections that talk, and make new ones."""
    sources = {family: [client(number) for number in range(TALKERS)] for family, client in ((4, client4), (6, client6))}
    new = {family: [client(TALKERS + n) for n in range(200)] for family, client in ((4, client4), (6, client6))}
    popen = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return Talk(lambda *words: popen(words), sources, new=new, connects=connects)


def broken(reports: list[dict[str, Any]]) -> list[str]:
    """Return the sources whose held connections broke."""
    return [one["source"] for report in reports for one in report["held"] if one["lost"]]


def refused(reports: list[dict[str, Any]]) -> int:
    """Return how many new connections were refused or broke."""
    return sum(report["connects"]["refused"] + report["connects"]["reset"] for report in reports)


def freeze(host: Host) -> Callable[[], None]:
    """Stop a whole host."""
    host.freeze()

    def repair() -> None:
        host.thaw()
        host.link("up")

    return repair


def unplug(host: Host) -> Callable[[], None]:
    """Pull a host's cable."""
    host.link("down")
    return partial(host.link, "up")


def kill_bird(host: Host) -> Callable[[], None]:
    """Kill bird, and have it stay away."""
    host.run("systemctl mask --runtime bird; systemctl kill -s KILL bird")
    return lambda: (host.run("systemctl unmask --runtime bird; systemctl restart bird"), None)[1]


def stop(host: Host) -> Callable[[], None]:
    """Withdraw a host as an operator does before maintenance."""
    host.run("systemctl stop bird")
    return lambda: (host.run("systemctl start bird"), None)[1]


FAULTS = {"frozen": freeze, "its cable out": unplug, "bird killed": kill_bird, "stopped": stop}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_connection_is_lost_with_a_balancer(segment: Segment, fault: str, measured: Callable[[str], None]) -> None:
    for number in range(ROUNDS):
        host = segment.hosts[BALANCERS[number % len(BALANCERS)]]
        segment.announced(*NAMES)
        talking = talk()
        repair = FAULTS[fault](host)
        segment.announced(*(name for name in NAMES if name != host.name), seconds=10)
        talking.meet(4 * CONNECTS)  # as many as begin in two seconds
        repair()
        segment.announced(*NAMES)
        talking.meet(2 * CONNECTS)
        reports = talking.stop()
        measured(f"a balancer {fault} ({host.name}, {number + 1} of {ROUNDS}): {words(reports)}")
        assert not broken(reports), broken(reports)[:5]
        assert not refused(reports), [report["connects"]["errors"][:3] for report in reports]


def test_a_second_run_changes_nothing(segment: Segment) -> None:
    talking = talk()
    assert set(segment.deploy("ecmp.yml").values()) == {0}
    reports = talking.stop()
    assert not broken(reports) and not refused(reports)


def test_a_host_that_boots_anew_sends_on_before_it_announces(segment: Segment) -> None:
    talking = talk()
    segment.hosts["five"].cut()
    segment.announced(*NAMES[:-1])
    segment.hosts["five"].boot()
    segment.announced(*NAMES)
    talking.meet(4 * CONNECTS)  # also by it
    reports = talking.stop()
    assert not broken(reports) and not refused(reports), words(reports)


def test_a_box_that_slots_point_at_drains_goes_and_returns(segment: Segment, measured: Callable[[str], None]) -> None:
    talking = talk()
    had = segment.established("one")
    segment.change(draining=["one"])
    reports = talking.stop()
    measured(f"a box drained: {words(reports)}")
    assert had > 0 and not broken(reports) and not refused(reports)
    wait_for("it is empty", lambda: segment.established("one") == 0)
    segment.change(out=["one"])
    talking = talk()
    assert segment.established("one") == 0
    segment.change(draining=["one"])
    segment.change(returning=["one"])
    wait_for("new ones go to it again", lambda: segment.established("one") > 0)
    reports = talking.stop()
    measured(f"it returned: {words(reports)}")
    assert not broken(reports) and not refused(reports)
    segment.change()


def test_with_a_box_that_slots_point_at_its_own_connections_are_lost_alone(
    segment: Segment, measured: Callable[[str], None]
) -> None:
    talking = talk(connects=1)
    count = "ss -tnH state established '( sport = :7100 or sport = :7101 or sport = :7102 or sport = :7103 )'"
    shown = segment.hosts["two"].run(f"{count} | awk '{{print $4}}'").stdout.split()
    others = {line.rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in shown}
    segment.hosts["one"].cut()
    segment.announced(*NAMES[1:])
    own = 2 * TALKERS - len(others)
    wait_for("those of the lost box have given up", lambda: talking.so_far()["lost"] >= own, seconds=60)
    reports = talking.stop()
    lost = broken(reports)
    measured(f"a box that slots point at lost its power: {len(lost)} of its own lost, of {len(others)} others none")
    assert len(others) > TALKERS / 2 and lost and not others & {*lost}
