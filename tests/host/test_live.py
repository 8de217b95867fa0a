"""Live migration between booted hosts: 5,000 connections that talk go on at the other one, also without the first.

Two hosts deployed by site.yml, the second with another release whose handler takes over the state of the first one's;
ssh between them; clients here. `PORTFLEET_ROUNDS` is how often all connections of each family move, hosts in turns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nspawn
from deploy import Ansible
from nspawn import Host, run
from support.booted import CLIENTS, status
from support.counting import COUNTING
from support.sandbox import wait_for

pytestmark = pytest.mark.live

ROUNDS = int(os.environ.get("PORTFLEET_ROUNDS", "1"))
SERVICE = {4: "192.0.2.100", 6: "2001:db8::100"}
CLIENTS_OF = {4: "198.18.0.0/15", 6: "2001:db8:1::/48"}
PORT, TALKERS, FAST = 7000, 5000, 10

ECHO: dict[str, Any] = {
    "listen": [f":{PORT}"],
    "command": ["portfleet-daemon", "--port", "{port}", "--handler", "answer:Counting"],
    "releases": "/srv/echo",
    "environment": {"PYTHONPATH": "{release}"},
    "user": "portfleet",
    "instances": 2,
    "ports": "7100-7107",
    "max_connections": 8000,
}
#: Says how many requests a connection has had, by releases that keep the number in different ways.
RELEASES = {
    "v1": COUNTING,
    "v2": """
class Counting:
    def connected(self, conn):
        conn.state = {"asked": 0}

    def request(self, conn, data):
        conn.state["asked"] += 1
        return b"%d %s" % (conn.state["asked"], data)

    def export_state(self, conn):
        return b"%d" % conn.state["asked"]

    def import_state(self, conn, blob):
        conn.state = {"asked": int(blob)}
""",
}
#: Key and known hosts are where the watcher, which does not see /root, finds them.
_KEY = "/etc/portfleet/box-key"
SSH = f"ssh -i {_KEY} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes --"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Boot and deploy two hosts, each with its release, and let each reach the other as root."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"])) as hosts:
        ansible = Ansible(tmp_path_factory.mktemp("ansible"), hosts, Path(os.environ["PORTFLEET_WHEELS"]))
        releases = []
        for name, text in RELEASES.items():
            folder = ansible.write_release(name)
            (folder / "answer.py").write_text(text)
            releases.append({"service": "echo", "name": name, "src": str(folder)})
        for host, name in zip(hosts, RELEASES, strict=True):
            ansible.own[host] = {"portfleet_config": {"service": {"echo": ECHO | {"release": name}}}}
        ansible.write_inventory(portfleet_releases=releases, portfleet_extra_packages=["openssh-client"])
        done = ansible.play("site.yml")
        assert done.code == 0, done.output
        for box in hosts.values():
            (box.root / _KEY.lstrip("/")).write_text(box.key.read_text())
            box.run(f"chmod 600 {_KEY}")
        run("sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
        run("ip", "route", "add", "local", CLIENTS_OF[6], "dev", "lo")
        yield hosts


def move_address(host: Host, verb: str) -> None:
    """Have the service's addresses on a host ("add") or not ("del")."""
    nodad = " nodad" if verb == "add" else ""
    host.run(f"ip addr {verb} {SERVICE[4]}/24 dev eth0; ip addr {verb} {SERVICE[6]}/64 dev eth0{nodad}", check=False)


def serves(host: Host) -> bool:
    """Return whether both instances are ready."""
    return all(one["state"] == "ready" for one in status(host)["instances"] if one["slots"])


def connections(host: Host) -> int:
    """Return how many connections the second instance of a host has."""
    return int(next(one["connections"] for one in status(host)["instances"] if one["name"] == "echo-blue-2"))


def ask(talkers: subprocess.Popen[str], what: str) -> dict[str, Any]:
    """Return what the talkers have met since they were last asked; ``what`` is "report" or "stop"."""
    assert talkers.stdin is not None and talkers.stdout is not None
    talkers.stdin.write(what + "\n")
    talkers.stdin.flush()
    found: dict[str, Any] = json.loads(talkers.stdout.readline())
    return found


@contextmanager
def talking(family: int) -> Iterator[subprocess.Popen[str]]:
    """Have 5,000 clients of a family that ask about every 2.5 s, and some of them each 5 ms."""
    four = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(TALKERS)]
    six = [f"2001:db8:1:{number:x}::1" for number in range(TALKERS)]
    sources = [[SERVICE[family], address] for address in (four if family == 4 else six)]
    job = {"sources": sources, "port": PORT, "every": 2.5, "fast": FAST, "counted": True}
    command = [sys.executable, str(CLIENTS.with_name("talkers.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "connected\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("number", range(ROUNDS))
def test_established_connections_go_on_at_the_other_host_and_without_the_first(
    boxes: dict[str, Host], number: int, family: int, measured: Any
) -> None:
    here, there = list(boxes.values())[:: 1 if (number + (family == 6)) % 2 else -1]
    for host in boxes.values():
        wait_for("it serves", partial(serves, host), seconds=60)
    move_address(here, "add")
    here.run(f"portfleet pin echo {CLIENTS_OF[family]} 2")
    try:
        with talking(family) as talkers:
            assert connections(here) == TALKERS
            # The state that moves is none that a new connection has.
            wait_for("each has asked", lambda: ask(talkers, "report")["fewest"] > 0)
            load = os.getloadavg()[0]
            said = here.run(f"PORTFLEET_SSH='{SSH}' portfleet migrate echo/2 {there.address} --live").stdout
            assert connections(here) == 0 and connections(there) == TALKERS, said
            moved = re.search(r"([\d,]+) connections were moved to \S+ in ([\d.]+) s; none is left here", said)
            assert moved is not None and int(moved[1].replace(",", "")) == TALKERS, said
            before = ask(talkers, "report")
            here.link("down")
            move_address(there, "add")
            run("ip", "neigh", "flush", "dev", "hosts")
            found = ask(talkers, "stop")
        measured(
            f"IPv{family}, {here.name} to {there.name}, load {load:.1f}: {TALKERS:,} moved in {moved[2]} s, "
            f"{TALKERS / float(moved[2]):,.0f}/s; longest wait at p99.9 {before['p999_ms']} ms, the longest "
            f"{before['longest_ms'][-1]} ms; {found['replies']:,} replies, {found['lost'] + found['failed']} lost, "
            f"{found['wrong']} wrong; with {here.name} unplugged the longest wait {found['longest_ms'][-1]} ms"
        )
        assert found["connected"] == TALKERS and found["failed"] == found["lost"] == found["wrong"] == 0, found
        assert found["replies"] > before["replies"]
    finally:
        here.link("up")
        move_address(there, "del")
        wait_for("it answers", lambda: here.run("true", check=False).returncode == 0, seconds=30)
        here.run("nft delete table netdev portfleet-moved", check=False)
        move_address(here, "del")
        here.run(f"portfleet undrain echo/2; portfleet unpin echo {CLIENTS_OF[family]}", check=False)
