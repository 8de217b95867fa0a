"""A standby pair on booted hosts: whatever becomes of one of them, connections through it go on by the other.

Two hosts are the pair, deployed by site.yml and ha.yml. Instances are on a third box, a network of its own beside them:
what is on the host that dies ends with it. `PORTFLEET_ROUNDS` is how often each fault is made, hosts in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import nspawn
from deploy import Ansible
from nspawn import Host, run
from support.booted import CLIENTS
from support.sandbox import client4, client6, wait_for

pytestmark = pytest.mark.pair

ROUNDS = int(os.environ.get("PORTFLEET_ROUNDS", "1"))
ADDRESSES = {4: "192.0.2.100", 6: "2001:db8::100"}
FAR = {4: "192.0.2.21", 6: "2001:db8::21"}
PORTS = {4: 7000, 6: 7001}
#: Held connections by each family, and new ones a second.
TALKERS, CONNECTS = 500, 25


def service(family: int) -> dict[str, Any]:
    """Return a service whose clients all get instances on the third box."""
    bracket = "{}" if family == 4 else "[{}]"
    anywhere = {4: "0.0.0.0", 6: "[::]"}[family]
    return {
        "listen": [f"{anywhere}:{PORTS[family]}"],
        "command": ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"],
        "user": "portfleet",
        "instances": 1,
        "ports": f"7{family}00-7{family}03",
        "max_connections": 4000,
        "remote": [f"{bracket.format(FAR[family])}:{7801 + number}" for number in range(4)],
        "weight": {"1": 0},
        "remote_snat": [ADDRESSES[family]],
    }


CONFIG = {"service": {"four": service(4), "six": service(6)}}
VARIABLES = {
    "portfleet_ha_addresses": [f"{ADDRESSES[4]}/24", f"{ADDRESSES[6]}/64"],
    "portfleet_releases": [],
    "portfleet_extra_packages": [],
}


@dataclass
class Pair:
    """The two hosts of the pair, and how they are deployed."""

    hosts: dict[str, Host]
    ansible: Ansible

    def has_address(self, host: Host) -> bool:
        """Return whether the service's addresses are on a host."""
        shown = run("ip", "-n", host.name, "-o", "addr", "show", "dev", "eth0")
        there = [f" {address}/" in shown for address in ADDRESSES.values()]
        assert len(set(there)) == 1 or not all(there)
        return all(there)

    @property
    def serving(self) -> Host:
        """The host that has the addresses."""
        (found,) = (host for host in self.hosts.values() if self.has_address(host))
        return found

    @property
    def standby(self) -> Host:
        """The other one."""
        (found,) = (host for host in self.hosts.values() if not self.has_address(host))
        return found

    def settle(self, entries: int = 0) -> None:
        """Wait until one host has the addresses, the other is its standby and knows as many connections."""
        wait_for("one host serves", lambda: sum(map(self.has_address, self.hosts.values())) == 1, seconds=60)
        wait_for("the other has its record", lambda: pulled(self.standby), seconds=60)
        wait_for("it knows the connections", lambda: known(self.standby) >= entries, seconds=60)


def pulled(host: Host) -> bool:
    """Return whether a host has taken over the other's record, as far as it was to."""
    shown = host.run("systemctl show -P ActiveState -P Result portfleet-ha-pull", check=False).stdout.split()
    return sorted(shown) == ["inactive", "success"]


def known(host: Host) -> int:
    """Return of how many clients that hold connections a host's conntrack has them; new ones beside do not count."""
    shown = "conntrack -L -f {} -p tcp --dport {} 2>/dev/null | grep ESTABLISHED"
    found = 0
    for (family, port), client in zip(PORTS.items(), (client4, client6), strict=True):
        held = {ip_address(client(number)) for number in range(TALKERS)}
        listed = host.run(shown.format(f"ipv{family}", port), check=False).stdout.splitlines()
        found += len(held & {ip_address(line.partition(" src=")[2].split()[0]) for line in listed})
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Boot, deploy and pair two hosts, with a third box beside them."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"])) as hosts, third_box():
        ansible = Ansible(tmp_path_factory.mktemp("ansible"), hosts, Path(os.environ["PORTFLEET_WHEELS"]))
        ansible.config = CONFIG
        ansible.write_inventory(**VARIABLES)
        for playbook in ("site.yml", "ha.yml"):
            done = ansible.play(playbook)
            assert done.code == 0, done.output
        made = Pair(hosts, ansible)
        made.settle()
        yield made


@contextmanager
def third_box() -> Iterator[None]:
    """Have the instances' box on the bridge, and clients of both families here."""
    run("sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
    run("ip", "route", "add", "local", "2001:db8:1::/48", "dev", "lo")
    run("ip", "netns", "add", "far")
    run("ip", "link", "add", "to-far", "type", "veth", "peer", "name", "eth0", "netns", "far")
    run("ip", "link", "set", "to-far", "master", "hosts", "up")
    run("ip", "-n", "far", "addr", "add", f"{FAR[4]}/24", "dev", "eth0")
    run("ip", "-n", "far", "addr", "add", f"{FAR[6]}/64", "dev", "eth0", "nodad")
    for device in ("lo", "eth0"):
        run("ip", "-n", "far", "link", "set", device, "up")
    servers = [f"far-{number}:{7800 + number}" for number in range(1, 5)]
    answerer = CLIENTS.with_name("answerer.py")
    command = ["ip", "netns", "exec", "far", "/usr/bin/python3", str(answerer), *servers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        for _ in servers:
            process.stdout.readline()
        try:
            yield
        finally:
            os.killpg(process.pid, 9)
            run("ip", "link", "del", "to-far")
            run("ip", "netns", "del", "far")


@dataclass
class Talk:
    """What clients of both families met; ``reports`` are there after the block."""

    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The held connections that broke."""
        return [held for report in self.reports for held in report["held"] if held["error"]]

    @property
    def refused(self) -> int:
        """New connections that were refused or broke."""
        return sum(report["connects"]["refused"] + report["connects"]["reset"] for report in self.reports)

    def __str__(self) -> str:
        held = [one for report in self.reports for one in report["held"]]
        longest = max(one["slowest"] for one in held)
        slowest = max(report["connects"]["slowest"] for report in self.reports)
        return (
            f"{len(held)} established: {len(self.lost)} lost, longest wait {longest:.2f} s; "
            f"{sum(report['connects']['done'] for report in self.reports)} new: {self.refused} refused, "
            f"longest wait {slowest:.2f} s"
        )


@contextmanager
def talk() -> Iterator[Talk]:
    """Hold connections that talk, and make new ones, by IPv4 and IPv6 while the block runs."""
    given = Talk()
    with ExitStack() as stack:
        processes = []
        for family, client in ((4, client4), (6, client6)):
            sources = [client(number) for number in range(TALKERS + 200)]
            job = {"to": [ADDRESSES[family], PORTS[family]], "sources": sources[:TALKERS], "from": sources[TALKERS:]}
            job |= {"connects": CONNECTS, "message": "{id}\n", "interval": 0.5, "timeout": 10}
            process = subprocess.Popen(
                [sys.executable, str(CLIENTS), "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        yield given
        given.reports = [json.loads(process.communicate("\n", timeout=60)[0]) for process in processes]


def freeze(pair: Pair, host: Host) -> Callable[[], None]:
    """Stop a whole host; what comes back notices first that its cable is out."""
    host.freeze()

    def repair() -> None:
        host.thaw()
        plug_in(pair, host)

    return repair


def unplug(pair: Pair, host: Host) -> Callable[[], None]:
    """Pull a host's cable."""
    host.link("down")
    return partial(plug_in, pair, host)


def plug_in(pair: Pair, host: Host) -> None:
    """Plug the cable in when the host has noticed that it is out."""
    wait_for("it gives the addresses up", lambda: not pair.has_address(host), seconds=30)
    host.link("up")


def kill_keepalived(pair: Pair, host: Host) -> Callable[[], None]:
    """Kill keepalived: the address stays on the host until it is taken off."""
    host.run("systemctl kill -s KILL keepalived")

    def repair() -> None:
        for family, address in ADDRESSES.items():
            host.run(f"ip addr del {address}/{24 if family == 4 else 64} dev eth0", check=False)
        host.run("systemctl restart keepalived")

    return repair


def switch(pair: Pair, host: Host) -> Callable[[], None]:
    """Switch as an operator does before maintenance."""
    host.run("systemctl stop keepalived")
    return lambda: (host.run("systemctl start keepalived"), None)[1]


FAULTS = {"a host frozen": freeze, "its cable out": unplug, "keepalived killed": kill_keepalived, "a switch": switch}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_connection_is_lost(pair: Pair, fault: str, measured: Callable[[str], None]) -> None:
    for number in range(ROUNDS):
        with talk() as talking:
            pair.settle(entries=2 * TALKERS)
            before, other = pair.serving, pair.standby
            repair = FAULTS[fault](pair, before)
            wait_for("the other host serves", partial(pair.has_address, other), seconds=10)
            time.sleep(2)  # for new connections to meet the other host: what is measured is their longest wait
            repair()
            pair.settle(entries=2 * TALKERS)
            assert pair.serving is other, "the host that came back is the standby"
        measured(f"{fault} ({before.name}, {number + 1} of {ROUNDS}): {talking}")
        assert not talking.lost, talking.lost[:5]
        assert not talking.refused


def test_what_an_operator_changes_is_on_the_other_host_at_once(pair: Pair) -> None:
    pair.settle()
    here, there = pair.serving, pair.standby
    began = time.monotonic()
    here.run("portfleet pin four 198.18.0.0/24 four-remote-2")
    shown = "portfleet status --json"

    def checksums(host: Host) -> list[str]:
        return [one["checksum"] for one in json.loads(host.run(f"{shown} || test $? -ge 7").stdout)["services"]]

    wait_for("tables are equal", lambda: checksums(here) == checksums(there), seconds=30)
    assert "198.18.0.0/24" in there.run("portfleet export").stdout
    assert time.monotonic() - began < 30
    there.run("systemctl start portfleet-ha-pull")
    assert "already" in there.run("journalctl -u portfleet-ha-pull -o cat -n 5").stdout
    here.run("portfleet unpin four 198.18.0.0/24")
    wait_for("tables are equal", lambda: "198.18.0.0/24" not in there.run("portfleet export").stdout, seconds=30)


def test_a_host_that_was_away_takes_over_what_changed_meanwhile(pair: Pair) -> None:
    pair.settle()
    here, there = pair.serving, pair.standby
    there.run("systemctl stop keepalived portfleet-ha-push.timer")
    there.link("down")
    here.run("portfleet pin four 198.18.1.0/24 four-remote-3")
    there.link("up")
    there.run("systemctl start keepalived portfleet-ha-push.timer")
    wait_for("it has the pin", lambda: "198.18.1.0/24" in there.run("portfleet export").stdout, seconds=90)
    here.run("portfleet unpin four 198.18.1.0/24")


def test_the_other_host_may_do_nothing_else(pair: Pair) -> None:
    host = pair.hosts["one"]
    ask = "/usr/local/lib/portfleet-ha/ask"
    assert '"services"' in host.run(f"{ask} portfleet export").stdout
    for command in ("portfleet status", "id", "portfleet export; id", ""):
        done = host.run(f"{ask} '{command}' </dev/null", check=False)
        assert done.returncode == 1 and "only" in done.stderr and "uid=" not in done.stdout, done


def test_a_second_run_changes_nothing(pair: Pair) -> None:
    pair.settle()
    serving = pair.serving
    done = pair.ansible.play("ha.yml")
    assert done.code == 0 and done.changed == {"one": 0, "two": 0}, done.output
    assert pair.serving is serving


def test_another_config_of_keepalived_does_not_move_the_addresses(pair: Pair) -> None:
    pair.settle()
    serving = pair.serving
    pair.ansible.write_inventory(**VARIABLES, portfleet_ha_advert_seconds=0.2)
    with talk() as talking:
        done = pair.ansible.play("ha.yml")
    assert done.code == 0 and min(done.changed.values()) > 0, done.output
    assert pair.serving is serving and not talking.lost and not talking.refused, talking
    for host in pair.hosts.values():
        assert "died" not in host.run("journalctl -u keepalived -o cat").stdout
