"""`portfleet doctor` on a machine of namespaces: what it finds, and that its commands mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portfleet.dataplane.nft.tracking import PREFIX
from support.sandbox import Box, make_box

PORTFLEET = str(Path(sys.executable).parent / "portfleet")
FLEET = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
ports = "7100-7107"
instances = 2
max_connections = 1000
"""


@pytest.fixture
def box() -> Iterator[Box]:
    """Return a machine with /run/pf as home of a fleet and an /etc/sysctl.d of its own."""
    box = make_box("doctor")
    try:
        box.run("sh", "-c", "mkdir -p /run/pf && cat > /run/pf/fleet.toml", text=FLEET)
        box.run("sh", "-c", "mount -t tmpfs tmpfs /etc/sysctl.d")
        yield box
    finally:
        box.close()


def doctor(box: Box) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and what is not fine by what it is about."""
    done = box.run(PORTFLEET, "--home", "/run/pf", "doctor", "--json", check=False)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, {found["about"]: found for found in findings if found["severity"] != "fine"}


def test_the_commands_it_gives_mend_what_it_found(box: Box) -> None:
    box.sysctl("net.core.somaxconn", "128")
    box.sysctl("net.ipv4.tcp_max_syn_backlog", "128")
    box.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
    box.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "300")
    code, found = doctor(box)
    assert code == 1
    # Two more are so by the kernel's own default; our daemon's keepalive bounds what it may forget of a half-close.
    forgets = {f"{PREFIX}timeout_{state}" for state in ("established", "close_wait", "fin_wait", "last_ack")}
    assert set(found) == {"net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", f"{PREFIX}be_liberal", *forgets}
    for finding in found.values():
        box.run("sh", "-ec", finding["mend"])
    assert doctor(box) == (0, {})
    assert len(box.run("cat", "/etc/sysctl.d/60-portfleet.conf").stdout.splitlines()) == len(found)


def test_a_warning_alone_is_exit_0(box: Box) -> None:
    assert doctor(box)[0] == 0
    box.sysctl("net.core.somaxconn", "128")
    code, found = doctor(box)
    assert (code, found["net.core.somaxconn"]["severity"]) == (0, "warning")


def test_a_firewall_that_drops_what_was_redirected(box: Box) -> None:
    rules = "type filter hook input priority 0; policy drop\niifname lo accept\ntcp dport 7000 accept"
    box.run("nft", f"table inet filter {{\nchain input {{\n{rules}\n}}\n}}")
    _, found = doctor(box)
    box.run("sh", "-ec", found["chain inet filter input"]["mend"])
    assert "chain inet filter input" not in doctor(box)[1]


def test_a_stranger_on_the_service_port(box: Box) -> None:
    listen = (
        "import socket,sys; s = socket.create_server(('127.0.0.1', 7000)); print('up', flush=True); sys.stdin.read()"
    )
    with box.popen("python3", "-c", listen) as stranger:  # ends with its standard input
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "up\n"
        found = doctor(box)[1]["port 7000"]
    assert found["severity"] == "warning"
    assert found["what"].startswith("python3 (pid ")


def test_a_broken_config_is_a_finding_among_the_others(box: Box) -> None:
    box.run("sh", "-c", "echo 'instancse = 4' >> /run/pf/fleet.toml")
    code, found = doctor(box)
    assert code == 1
    assert any("instancse" in finding["about"] for finding in found.values())


def test_words_for_people(box: Box) -> None:
    done: subprocess.CompletedProcess[str] = box.run(PORTFLEET, "--home", "/run/pf", "doctor", check=False)
    assert "fine     kernel: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 broken, ")


def test_a_sticky_map_that_is_nearly_full(box: Box) -> None:
    box.run("sh", "-c", "echo 'sticky = \"1h\"\nsticky_size = 1024' >> /run/pf/fleet.toml")
    clients = ", ".join(f"198.18.{n // 256}.{n % 256} : 1" for n in range(820))
    kind = f"typeof ip saddr : ct mark\nsize 1024\nflags dynamic,timeout\nelements = {{ {clients} }}"
    box.run("nft", "-f", "-", text=f"table inet portfleet {{\nmap sticky4-1024-echo {{\n{kind}\n}}\n}}")
    found = doctor(box)[1]
    assert found["sticky clients of echo, IPv4"]["what"] == "820 of 1,024 places are taken"
    assert "sticky clients of echo, IPv6" not in found
