"""Rules of iptables in the form of nft's JSON, read from what `iptables-save` prints (iptables 1.8).

nft lists what iptables-nft has set with many matches as an ``xt`` of a name alone, and what iptables-legacy has set
not at all. Options that are not known here become such an ``xt`` again, which may match.
"""

from __future__ import annotations

import ipaddress
import shlex
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from portfleet.dataplane.nft.doctor.ruleset import Chain, Rule, Ruleset

Statement = Mapping[str, Any]
#: The hook of each built-in chain, and the priority of each table's (nf_tables wiki, "Netfilter hooks").
_HOOKS = {name.upper(): name for name in ("prerouting", "input", "forward", "output", "postrouting")}
_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
_SOURCE_NAT = 100
_FLAGS = ("fin", "syn", "rst", "ack", "urg", "psh")
_TARGETS: dict[str, Statement] = {
    "ACCEPT": {"accept": None},
    "DROP": {"drop": None},
    "RETURN": {"return": None},
    "REJECT": {"reject": None},
    "NFQUEUE": {"queue": None},
    "NOTRACK": {"notrack": None},
    **{name: {"xt": {"type": "target", "name": name}} for name in ("DNAT", "REDIRECT", "TPROXY")},
}
#: What tells a packet nothing, with the number of its values.
_SILENT = {"--comment": 1, "--log-prefix": 1}


@dataclass(frozen=True)
class Saved:
    """What `TOOL-save` prints: ``policies`` and ``lines`` by table and chain, the lines as arguments of iptables."""

    tool: str
    policies: Mapping[tuple[str, str], str]
    lines: Mapping[tuple[str, str], Sequence[str]]

    @classmethod
    def parse(cls, tool: str, text: str) -> Saved:
        policies: dict[tuple[str, str], str] = {}
        lines: dict[tuple[str, str], list[str]] = {}
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()
            elif line.startswith(":"):
                chain, policy, *_ = line[1:].split()
                policies[table, chain] = policy.lower()
            elif line.startswith("-A "):
                lines.setdefault((table, line.split()[1]), []).append(line)
        return cls(tool, policies, lines)

    def rules(self, family: str, table: str, chain: str) -> Iterator[tuple[str, tuple[Statement, ...]]]:
        """Return the command that adds each rule of a chain, and its statements; none for what cannot be read."""
        chains = {name for of, name in self.policies if of == table}
        for line in self.lines.get((table, chain), ()):
            try:
                words = shlex.split(line)[2:]
            except ValueError:
                words = ["--unreadable"]
            yield f"{self.tool} -t {table} {line}", tuple(_statements(words, family, chains))


def complete(found: Ruleset, save: Callable[[str], str]) -> None:
    """Fill in what nft does not tell of iptables' rules; ``save`` returns what a tool's `-save` prints."""
    for family, tool in (("ip", "iptables"), ("ip6", "ip6tables")):
        if any("xt" in statement for rule in _of(found, family) for statement in rule.body):
            _translate(found, family, Saved.parse(tool, save(f"{tool}-nft-save")))
        _add(found, family, Saved.parse(f"{tool}-legacy", save(f"{tool}-legacy-save")))


def save(command: str) -> str:
    """Return what ``command`` prints; a legacy one is asked only if the kernel has legacy tables, as it makes them."""
    if not shutil.which(command) or (command.endswith("-legacy-save") and not _has_legacy(command)):
        return ""
    return subprocess.run([command], capture_output=True, text=True, check=False).stdout


def _has_legacy(command: str) -> bool:
    try:
        return bool(Path(f"/proc/net/{command.partition('tables')[0]}_tables_names").read_text().strip())
    except OSError:
        return False


def _of(found: Ruleset, family: str) -> Iterator[Rule]:
    yield from (rule for chain in found.chains.values() if chain.family == family for rule in chain.rules)


def _translate(found: Ruleset, family: str, saved: Saved) -> None:
    """Give rules that have an ``xt`` the statements that iptables tells, if both listings have as many rules."""
    for (table, name), chain in found.chains.items():
        of = table.partition(" ")[2]
        told = list(saved.rules(family, of, name))
        if chain.family != family or (of, name) not in saved.policies or len(told) != len(chain.rules):
            continue
        chain.tool = saved.tool
        chain.rules = [
            replace(rule, body=body, added=added) if any("xt" in one for one in rule.body) else rule
            for rule, (added, body) in zip(chain.rules, told, strict=True)
        ]


def _add(found: Ruleset, family: str, saved: Saved) -> None:
    """Add the chains of iptables-legacy."""
    for (of, name), policy in saved.policies.items():
        table, hook = f"{family} {of} (legacy)", _HOOKS.get(name, "")
        priority = _SOURCE_NAT if of == "nat" and hook in ("input", "postrouting") else _PRIORITIES.get(of, 0)
        chain = Chain(table, name, hook, "nat" if of == "nat" else "filter", priority, policy, tool=saved.tool)
        told = enumerate(saved.rules(family, of, name), 1)
        chain.rules += [Rule(table, name, number, body, added) for number, (added, body) in told]
        found.chains[table, name] = chain


def _statements(words: Sequence[str], family: str, chains: Collection[str]) -> Iterator[Statement]:
    protocol, wrong, left = "tcp", False, list(words)
    while left:
        option = left.pop(0)
        if option == "!":
            wrong = True
            continue
        values = [left.pop(0) for _ in range(_values(option, left))]
        if option in ("-j", "-g"):
            yield from _target(option, values[0], left, chains)
            return
        if option == "-p":
            protocol = values[0]
        if option != "-m" and option not in _SILENT:
            yield _match(option, values, family, protocol, wrong=wrong)
        wrong = False


def _values(option: str, left: Sequence[str]) -> int:
    """Return how many of the words that are left are the option's values: all up to the next option."""
    if option in _SILENT:
        return _SILENT[option]
    return next((n for n, word in enumerate(left) if word == "!" or word.startswith("-")), len(left))


def _match(option: str, values: Sequence[str], family: str, protocol: str, *, wrong: bool) -> Statement:
    known = _known(option, values, family, protocol)
    if known is None:
        return {"xt": {"type": "match", "name": option.lstrip("-")}}
    left, right = known
    return {"match": {"op": "!=" if wrong else "==", "left": left, "right": right}}


def _known(option: str, values: Sequence[str], family: str, protocol: str) -> tuple[Any, Any] | None:
    """Return what an option asks for and what that must be, as nft has it; None for what is not known here."""
    match option, *values:
        case (("-s" | "-d"), network):
            field = "saddr" if option == "-s" else "daddr"
            return {"payload": {"protocol": family, "field": field}}, _network(network)
        case (("-i" | "-o"), name):
            key = "iifname" if option == "-i" else "oifname"
            return {"meta": {"key": key}}, f"{name[:-1]}*" if name.endswith("+") else name
        case "-p", name:
            return {"meta": {"key": "l4proto"}}, name
        case (("--sport" | "--dport" | "--sports" | "--dports"), ports):
            right = [_ports(port) for port in ports.split(",")]
            return {"payload": {"protocol": protocol, "field": option[2:7]}}, right
        case (("--ctstate" | "--state"), states):
            return _state(states.lower().split(","))
        case "--ctorigdstport", port:
            return {"ct": {"key": "proto-dst", "dir": "original"}}, _ports(port)
        case "--dst-type", kind:
            return {"fib": {"flags": ["daddr"], "result": "type"}}, kind.lower()
        case "--tcp-flags", mask, flags:
            return {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, _flags(mask)]}, _flags(flags)
        case _:
            return None


def _state(states: Sequence[str]) -> tuple[Any, Any] | None:
    translated = {"dnat", "snat"}.intersection(states)
    if translated and len(states) > 1:
        return None
    return {"ct": {"key": "status" if translated else "state"}}, list(states)


def _flags(words: str) -> list[str]:
    names = words.lower().split(",")
    return list(_FLAGS) if names == ["all"] else [] if names == ["none"] else names


def _ports(words: str) -> Any:
    low, several, high = words.partition(":")
    if not all(part.isdecimal() for part in (low, high or low)):
        return {"unknown": words}
    return {"range": [int(low), int(high)]} if several else int(low)


def _network(words: str) -> Any:
    try:
        network = ipaddress.ip_network(words, strict=False)
    except ValueError:
        return {"unknown": words}
    address = str(network.network_address)
    return address if network.num_addresses == 1 else {"prefix": {"addr": address, "len": network.prefixlen}}


def _target(option: str, name: str, more: Sequence[str], chains: Collection[str]) -> Iterator[Statement]:
    if name in _TARGETS:
        yield _TARGETS[name]
    elif name == "CT" and "--notrack" in more:
        yield {"notrack": None}
    elif name in chains:
        yield {"goto" if option == "-g" else "jump": {"target": name}}
