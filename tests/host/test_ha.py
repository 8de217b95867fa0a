"""A standby pair on booted hosts: whatever becomes of one of them, connections through it go on by the other.

Two hosts are the pair, deployed by site.yml and ha.yml. Instances are on a third box, a network of its own beside them:
what is on the host that dies ends with it. `PORTFLEET_ROUNDS` is how often each fault is made, hosts in turns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from itertools import product
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


#: The clients that hold a connection.
HELD = {str(ip_address(client(number))) for client in (client4, client6) for number in range(TALKERS)}


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
        wait_for("the other has its record", lambda: done(self.standby, "pull"), seconds=60)
        wait_for("it has asked for all connections", lambda: done(self.standby, "learn"), seconds=60)
        try:
            wait_for("it knows the connections", partial(self._alike, entries), seconds=60)
        except AssertionError as error:
            self.tell_unknown(error)
            raise

    def _alike(self, entries: int) -> bool:
        """Return whether there are so many connections that are held, all of which the standby knows."""
        held = known(self.serving)
        return len(held) >= entries and held <= known(self.standby)

    def tell_unknown(self, error: AssertionError) -> None:
        """Add to ``error`` what both hosts have of some held connections that the standby does not know."""
        unknown = sorted(known(self.serving) - known(self.standby))
        error.add_note(f"{len(unknown)} are not known to {self.standby.name}: {unknown[:9]}")
        for (source, _, port), host in product(unknown[:3], self.hosts.values()):
            listed = f"conntrack -L -f {'ipv6' if ':' in source else 'ipv4'} -p tcp --reply-port-dst {port} 2>/dev/null"
            error.add_note(f"{host.name}, to port {port}: {host.run(listed, check=False).stdout.strip()}")
        for host in self.hosts.values():
            said = host.run("conntrackd -s; journalctl -u conntrackd -n 30 -o short-precise --no-pager", check=False)
            error.add_note(f"{host.name}: {said.stdout}")


def done(host: Host, unit: str) -> bool:
    """Return whether a host has done what the role's ``unit`` does, as far as it was to."""
    shown = host.run(f"systemctl show -P ActiveState -P Result portfleet-ha-{unit}", check=False).stdout.split()
    return sorted(shown) == ["inactive", "success"]


def known(host: Host) -> set[tuple[str, str, str]]:
    """Return the held connections that a host's conntrack has: client, its port, and the port that an instance sees."""
    found = set[tuple[str, str, str]]()
    for family, port in PORTS.items():
        listed = ("conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp", "--dport", str(port), "--state", "ESTABLISHED")
        for line in run("ip", "netns", "exec", host.name, *listed).splitlines():  # also of a host without a cable
            sources, ports = (re.findall(rf" {key}=(\S+)", line) for key in ("src", "[sd]port"))
            found.add((str(ip_address(sources[0])), ports[0], ports[-1]))
    return {one for one in found if one[0] in HELD}


def told(host: Host) -> str:
    """Return what keepalived has said on a host of late, for a failure."""
    return f"{host.name}:\n{host.run('journalctl -u keepalived -n 40 -o short-precise --no-pager').stdout}"


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
def talk(*, timeout: float = 10) -> Iterator[Talk]:
    """Hold connections that talk, and make new ones, by IPv4 and IPv6 while the block runs.

    One that waits for longer than ``timeout`` seconds is lost.
    """
    given = Talk()
    with ExitStack() as stack:
        processes = []
        for family, client in ((4, client4), (6, client6)):
            sources = [client(number) for number in range(TALKERS + 200)]
            job = {"to": [ADDRESSES[family], PORTS[family]], "sources": sources[:TALKERS], "from": sources[TALKERS:]}
            job |= {"connects": CONNECTS, "message": "{id}\n", "interval": 0.5, "timeout": timeout}
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
    """Plug the cable in when the host has noticed that it is out, and the other has forgotten its MAC address."""
    wait_for("it gives the addresses up", lambda: not pair.has_address(host), seconds=30)
    pair.serving.run("ip neigh flush all")
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
            unsettled: AssertionError | None = None
            try:
                pair.settle(entries=2 * TALKERS)
            except AssertionError as error:
                unsettled = error  # which may be due to connections that are lost
            assert pair.serving is other, f"the host that came back is the standby\n{told(before)}\n{told(other)}"
        measured(f"{fault} ({before.name}, {number + 1} of {ROUNDS}): {talking}")
        assert not talking.lost, [(one["source"], one["error"]) for one in talking.lost[:5]]
        assert not talking.refused
        if unsettled is not None:
            raise unsettled


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


def test_what_the_standby_has_forgotten_it_is_told_again(pair: Pair) -> None:
    """It sees no packets, so an established connection that lives for longer than the time-out is forgotten there."""
    with talk() as talking:
        pair.settle(entries=2 * TALKERS)
        there = pair.standby
        for family, address in ADDRESSES.items():
            there.run(f"conntrack -D -f ipv{family} -d {address} -p tcp --state ESTABLISHED")
        assert not known(there)
        assert len(known(pair.serving)) >= 2 * TALKERS, "which is nothing to the one that serves"
        pair.serving.run("systemctl is-active portfleet-ha-resend.timer && systemctl start portfleet-ha-resend")
        pair.settle(entries=2 * TALKERS)
    assert not talking.lost and not talking.refused, talking


def test_a_host_that_is_alone_forgets_nothing_while_its_cable_is_out(pair: Pair) -> None:
    """It has to learn the connections anew from the one that serves; as long as none does, it keeps what it knows."""
    with talk(timeout=60) as talking:
        pair.settle(entries=2 * TALKERS)
        here, there = pair.serving, pair.standby
        before = known(here)
        there.run("systemctl stop keepalived")
        here.link("down")
        wait_for("it gives the addresses up", lambda: not pair.has_address(here), seconds=30)
        # By its own address, as nothing else reaches it.
        learns = ("ip", "netns", "exec", here.name, *here.ssh(), "systemctl show -P SubState portfleet-ha-learn")
        wait_for("it has tried to learn", lambda: run(*learns).strip() == "auto-restart", seconds=30)
        assert before <= known(here)
        here.link("up")
        wait_for("it serves again", lambda: pair.has_address(here), seconds=30)
        there.run("systemctl start keepalived")
        pair.settle(entries=2 * TALKERS)
    assert not talking.lost, talking


def test_the_other_host_may_do_nothing_else(pair: Pair) -> None:
    host = pair.hosts["one"]
    ask = "/usr/local/lib/portfleet-ha/ask"
    assert '"services"' in host.run(f"{ask} portfleet export").stdout
    for command in ("portfleet status", "id", "portfleet export; id", ""):
        done = host.run(f"{ask} '{command}' </dev/null", check=False)
        assert done.returncode == 1 and "only" in done.stderr and "uid=" not in done.stdout, done


@pytest.mark.parametrize("family", ADDRESSES)
def test_the_addresses_are_no_source_of_the_host_s_own_connections(pair: Pair, family: int) -> None:
    shown = pair.serving.run(f"ip -{family} -o route get {FAR[family]}").stdout
    assert " src " in shown and f" src {ADDRESSES[family]} " not in shown, shown


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
