"""Firewalls beside the fleet: what each does to it, and that what docs/deploy.md and doctor say mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nspawn import Host
from support.booted import ask

pytestmark = pytest.mark.host

DROPPING = """table inet filter {
  chain input {
    type filter hook input priority 0; policy drop
    ct state established,related accept
    iifname lo accept
    tcp dport { 22, 7000 } accept
  }
}"""


def served(host: Host) -> bool:
    """Return whether a client is answered."""
    return ask(host, message="hello\n") != [None]


def mend(host: Host, about: str) -> str:
    """Return the commands that doctor gives for what is broken in a table of others; ``about`` is its name."""
    findings = json.loads(host.run("portfleet doctor --json", check=False).stdout)["findings"]
    broken = [found for found in findings if found["severity"] == "broken" and f" {about} " in found["about"]]
    assert broken, findings
    return " && ".join(sorted({str(found["mend"]) for found in broken}))


@pytest.fixture
def bare(one: Host) -> Iterator[Host]:
    """Return the first host; no firewall is left on it afterwards."""
    yield one
    one.run("nft delete table inet filter", check=False)
    one.run("ufw --force disable; systemctl disable --now ufw firewalld", check=False)
    one.run("apt-get purge -y -q ufw firewalld", check=False)
    assert served(one)


def test_a_chain_that_drops_by_default(bare: Host) -> None:
    bare.run(f"nft -f - <<'END'\n{DROPPING}\nEND")
    assert not served(bare), "the rule for the service's own port never matches"
    bare.run(mend(bare, "inet filter"))
    assert served(bare)


def test_ufw(bare: Host) -> None:
    bare.run("DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ufw")
    bare.run("ufw allow 22/tcp && ufw allow 7000/tcp && ufw --force enable")
    assert not served(bare)
    bare.run(mend(bare, "ip filter"))
    assert served(bare)


def test_firewalld(bare: Host) -> None:
    bare.run("DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends firewalld")
    bare.run("systemctl start firewalld && firewall-cmd --state")
    assert bare.run("firewall-cmd --query-port=7000/tcp", check=False).stdout == "no\n"
    assert served(bare)
    assert "service-echo" in bare.run("firewall-cmd --reload && nft list table inet portfleet").stdout
    assert served(bare)
