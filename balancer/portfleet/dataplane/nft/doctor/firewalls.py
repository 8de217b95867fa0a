"""Other programs that write netfilter rules: who empties the ruleset, and who drops what the fleet lets in.

Fact: the translation happens before the input hook, so a firewall there sees the *instance's* port, not the service's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.needs import Needs
from portfleet.dataplane.nft.doctor.nft_command import listed, nft
from portfleet.doctor.finding import Finding, fine, warning

_FLUSH = re.compile(r"^[^#]*\bflush\s+ruleset\b", re.MULTILINE)
_OURS = {"portfleet", "portfleet-keeper"}


@dataclass(frozen=True)
class Chain:
    """A base chain of somebody's that drops by default. ``hook`` is input or forward."""

    table: str
    name: str
    hook: str
    accepts_dnat: bool


@dataclass(frozen=True)
class FirewallFacts:
    """``flushes`` tells that /etc/nftables.conf empties the ruleset, ``at_boot`` that nftables.service is enabled."""

    flushes: bool
    at_boot: bool
    firewalld: bool
    ufw: bool
    docker: bool
    dropping: tuple[Chain, ...] = ()


def read() -> FirewallFacts:
    """Read the facts of this machine; a ruleset that may not be read counts as one without chains."""
    return FirewallFacts(
        flushes=bool(_FLUSH.search(_text("/etc/nftables.conf"))),
        at_boot=_systemd("is-enabled", "nftables.service"),
        firewalld=_systemd("is-active", "firewalld.service"),
        ufw=bool(re.search(r"^ENABLED=yes", _text("/etc/ufw/ufw.conf"), re.MULTILINE)),
        docker=Path("/run/docker.sock").exists(),
        dropping=tuple(_dropping()),
    )


def judge(facts: FirewallFacts, needs: Needs) -> Iterator[Finding]:
    """Judge what others' rules do to the fleet."""
    ports = ", ".join(f"{low}-{high}" for low, high in needs.ports.values())
    if facts.flushes and facts.at_boot:
        yield warning(
            "/etc/nftables.conf",
            "empties the whole ruleset (flush ruleset) whenever nftables.service is started or reloaded",
            why="our rules go with it; the watcher puts them back, but without a watcher every connection is reset",
            mend="replace `flush ruleset` by `table inet filter; delete table inet filter` (one such pair a table)",
        )
    if facts.firewalld:
        yield fine("firewalld", "keeps to its own table and accepts what was translated (ct status dnat)")
    if facts.ufw and ports:
        yield warning(
            "ufw",
            f"is on: it judges after the translation, by the instances' ports ({ports})",
            why="allowing the service's port is not enough; outsiders are kept from those ports by our own guard",
            mend=" && ".join(f"ufw allow {low}:{high}/tcp" for low, high in needs.ports.values()),
        )
    if facts.docker and needs.remote:
        yield warning(
            "docker",
            "sets the policy of forwarded packets to drop",
            why="packets for instances on other boxes are forwarded",
            mend="iptables -I DOCKER-USER -m conntrack --ctstate DNAT,ESTABLISHED -j ACCEPT",
        )
    elif facts.docker:
        yield fine("docker", "its chains do not touch what comes to this machine itself")
    known = facts.ufw or facts.firewalld
    yield from (_drops(chain, ports) for chain in facts.dropping if not known and _matters(chain, needs))
    if not (facts.flushes and facts.at_boot) and not known and not facts.dropping:
        yield fine("firewalls", "nobody else's rules stand in the way")


def _matters(chain: Chain, needs: Needs) -> bool:
    return not chain.accepts_dnat and (chain.hook == "input" or needs.remote)


def _drops(chain: Chain, ports: str) -> Finding:
    return warning(
        f"chain {chain.table} {chain.name}",
        f"drops what its {chain.hook} rules do not accept, by the instances' ports ({ports})" if ports else "drops",
        why="it judges after the translation: a rule for the service's own port never matches",
        mend=f"nft insert rule {chain.table} {chain.name} ct status dnat accept   # and in that firewall's own file",
    )


def _dropping() -> Iterator[Chain]:
    for chain in listed("chain", "chains"):
        if chain.get("policy") == "drop" and chain.get("hook") in ("input", "forward") and chain["table"] not in _OURS:
            table = f"{chain['family']} {chain['table']}"
            rules = nft("list", "chain", *table.split(), chain["name"])
            yield Chain(
                table, chain["name"], chain["hook"], accepts_dnat=bool(re.search(r"ct status.*dnat.*accept", rules))
            )


def _systemd(question: str, unit: str) -> bool:
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        return False
    return subprocess.run(["systemctl", question, "--quiet", unit], check=False).returncode == 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
