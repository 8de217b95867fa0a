"""Others' netfilter rules against ours: who empties the ruleset, who stops or leads away our clients' packets.

Rules are evaluated, whoever manages them, and not guessed from what is installed (`walk`). After the translation a
packet has the instance's port: a rule by the service's port matches nothing there, whether it allows or denies.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from portfleet.core.model import Fleet, Listen
from portfleet.core.needs import Needs
from portfleet.dataplane.nft.doctor import iptables, ruleset
from portfleet.dataplane.nft.doctor.nft_command import nft
from portfleet.dataplane.nft.doctor.packets import Truth
from portfleet.dataplane.nft.doctor.ruleset import Rule, Ruleset
from portfleet.dataplane.nft.doctor.walk import Hit, Walk
from portfleet.dataplane.nft.doctor.ways import Pass, Way
from portfleet.dataplane.nft.saved import SavedRules, remedy
from portfleet.doctor.finding import Finding, Severity, broken, fine, warning

_FLUSH = re.compile(r"^[^#]*\bflush\s+ruleset\b", re.MULTILINE)


@dataclass(frozen=True)
class FirewallFacts:
    """``flushes`` tells that /etc/nftables.conf empties the ruleset, ``at_boot`` that nftables.service is enabled.

    ``interfaces``: those by which clients may come, lo left out; "?" before there is one; ``saved``:
    files of saved rules that hold our tables.
    """

    flushes: bool = False
    at_boot: bool = False
    interfaces: tuple[str, ...] = ("eth0",)
    rules: Ruleset = field(default_factory=Ruleset)
    saved: tuple[str, ...] = ()


def read() -> FirewallFacts:
    """Read the facts of this machine."""
    return FirewallFacts(
        flushes=bool(_FLUSH.search(_text("/etc/nftables.conf"))),
        at_boot=_systemd("is-enabled", "nftables.service"),
        interfaces=tuple(ruleset.interfaces()),
        rules=_rules(),
        saved=tuple(SavedRules().with_ours()),
    )


def _rules() -> Ruleset:
    """Return the rules of this network namespace."""
    found = ruleset.parse(nft("-j", "-t", "list", "ruleset"), ask=nft)
    iptables.complete(found, iptables.save)
    return found


def judge(facts: FirewallFacts, fleet: Fleet, needs: Needs) -> Iterator[Finding]:
    """Judge what others' rules do to the fleet."""
    if facts.flushes and facts.at_boot:
        yield warning(
            "/etc/nftables.conf",
            "empties the whole ruleset (flush ruleset) whenever nftables.service is started or reloaded",
            why="our rules go with it; the watcher puts them back, but without a watcher every connection is reset",
            mend="replace `flush ruleset` by `table inet filter; delete table inet filter` (one such pair a table)",
        )
    for path in facts.saved:
        yield broken(
            path,
            "holds tables of portfleet, as `nft list ruleset` prints them",
            why="nft cannot load the keeper while the watcher owns it: nftables.service fails, and no firewall is left",
            mend=remedy(path),
        )
    if facts.rules.trouble:
        yield warning(
            "firewalls",
            f"others' rules are not known: {facts.rules.trouble}",
            why="whether a firewall drops clients cannot be told",
            mend="apt-get install nftables && sudo portfleet doctor",
        )
        return
    if facts.rules.left_out:
        yield warning(
            "firewalls",
            f"others have more than {ruleset.MOST_RULES:,} rules; {facts.rules.left_out:,} of them were not looked at",
            why="one of them may drop clients",
            mend="nft list ruleset",
        )
    found = list(_walked(facts, fleet, needs))
    yield from found
    if not found and not (facts.flushes and facts.at_boot):
        yield fine("firewalls", "no rule of others stands in the way")


def _walked(facts: FirewallFacts, fleet: Fleet, needs: Needs) -> Iterator[Finding]:
    """Return a finding for each rule of others that meets a packet of ours: the worst, if it meets several."""
    worst: dict[str, Finding] = {}
    for hit, at, way in _hits(facts, fleet, needs):
        finding = _finding(hit, at, way, facts.rules, needs)
        if finding is None:
            continue
        known = worst.setdefault(finding.about, finding)
        if known.severity is Severity.WARNING and finding.severity is Severity.BROKEN:
            worst[finding.about] = finding
    yield from worst.values()


def _hits(facts: FirewallFacts, fleet: Fleet, needs: Needs) -> Iterator[tuple[Hit, Pass, Way]]:
    for way in _ways(facts, fleet, needs):
        for at in way.passes(facts.rules):
            for hit in Walk(facts.rules, at.packet, at.chain, at.dialled).run():
                yield hit, at, way


def _ways(facts: FirewallFacts, fleet: Fleet, needs: Needs) -> Iterator[Way]:
    for listen, name in needs.listens.items():
        low, high = needs.ports[name]
        for family in listen.families:
            for port in dict.fromkeys((low, (low + high + 1) // 2)):  # the first instance of each colour
                yield from (Way(listen, family, port, interface) for interface in ("lo", *facts.interfaces))
            for remote in _remotes(fleet, name, family):
                for interface in facts.interfaces:
                    yield Way(listen, family, remote.port, interface, remote.address or "")


def _remotes(fleet: Fleet, name: str, family: int) -> Iterable[Listen]:
    service = fleet.services.get(name)
    return [remote for remote in service.remote if family in remote.families] if service else ()


def _finding(hit: Hit, at: Pass, way: Way, rules: Ruleset, needs: Needs) -> Finding | None:
    if Truth.SOME in (hit.truth, hit.let) and hit.what != "dnat":
        return None  # the site's own choice of clients
    sure, service = hit.truth is Truth.YES and hit.let is Truth.NO, needs.listens[way.listen]
    judged = broken if sure else warning
    does = f"{hit.what}s" if sure else f"may {hit.what}"
    if hit.rule is None:
        return judged(
            f"chain {hit.chain.table} {hit.chain.name}",
            f"its policy {does} {at.packet.words}",
            why=_why(at, way),
            mend=_let_in(hit, at, way, needs.ports[service]),
        )
    about, text = f"rule {hit.rule.handle} in {hit.rule.table} {hit.rule.chain}", f"`{rules.text(hit.rule)}`"
    match hit.what:
        case "deaf":
            return warning(
                about,
                f"{text} is by port {way.listen.port}, which no packet of {service} has any more there",
                why="it denies nothing: packets are translated to the instance's port before they come to it",
                mend=f"portfleet deny {service} ADDRESS, or: {_by_dialled(hit, way.listen.port)}",
            )
        case "dnat":
            docker = f"docker ps --filter publish={way.listen.port}, or: " if hit.rule.chain == "DOCKER" else ""
            return judged(
                about,
                f"{text} {'leads' if sure else 'may lead'} {at.packet.words} elsewhere",
                why=f"who translates first takes all new clients of {service}: that depends on who loaded last",
                mend=docker + _delete(hit.rule),
            )
        case "notrack":
            return judged(
                about,
                f"{text} {'keeps' if sure else 'may keep'} {at.packet.words} from being tracked",
                why="what conntrack does not know cannot be translated: they are refused",
                mend=_delete(hit.rule),
            )
        case _:
            mend = _let_in(hit, at, way, needs.ports[service])
            return judged(about, f"{text} {does} {at.packet.words}", why=_why(at, way), mend=mend)


def _why(at: Pass, way: Way) -> str:
    if at.dialled is None:
        return f"no rule of {at.chain.table} lets port {way.listen.port} pass"
    return f"it judges after the translation: a rule for port {way.listen.port} never matches there"


def _by_dialled(hit: Hit, port: int) -> str:
    table, chain = hit.chain.table, hit.chain.name
    if hit.chain.tool:
        return f"{hit.chain.tool} -t {table.split()[1]} -I {chain} -p tcp -m conntrack --ctorigdstport {port} … -j DROP"
    return f"nft insert rule {table} {chain} meta l4proto tcp ct original proto-dst {port} … drop"


def _delete(rule: Rule) -> str:
    if rule.added:
        return f"{rule.added.replace(' -A ', ' -D ', 1)}   # and in its owner's own file"
    return f"nft delete rule {rule.table} {rule.chain} handle {rule.handle}   # and in its owner's own file"


def _let_in(hit: Hit, at: Pass, way: Way, ports: tuple[int, int]) -> str:
    """Return the command that lets the packet pass, in the words of whoever manages the rules."""
    table, chain = hit.chain.table, hit.chain.name
    low, high = ports
    if table == "inet firewalld" and at.dialled is not None:
        return f"firewall-cmd --permanent --add-port={low}-{high}/tcp && firewall-cmd --reload"
    inside = [one.name for one in _reached(hit)]
    if any(name.startswith("ufw") for name in inside) and at.dialled is not None:
        return f"ufw allow {low}:{high}/tcp"
    if hit.chain.tool:
        match = "-m conntrack --ctstate DNAT"
        if at.dialled is None and "tcp.dport" in at.packet.facts:
            match = f"-p tcp --dport {way.listen.port}"
        of = table.split()[1]
        return f"{hit.chain.tool} -t {of} -I {chain} {match} -j ACCEPT   # and in that firewall's own file"
    match = (
        f"tcp dport {way.listen.port}" if at.dialled is None and "tcp.dport" in at.packet.facts else "ct status dnat"
    )
    return f"nft insert rule {table} {chain} {match} accept   # and in that firewall's own file"


def _reached(hit: Hit) -> Iterator[ruleset.Chain]:
    """Return the base chain and those it jumps to itself, which tell who manages it."""
    yield hit.chain
    for rule in hit.chain.rules:
        for statement in rule.body:
            if "jump" in statement:
                yield ruleset.Chain(hit.chain.table, statement["jump"]["target"])


def _systemd(question: str, unit: str) -> bool:
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        return False
    return subprocess.run(["systemctl", question, "--quiet", unit], check=False).returncode == 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
