"""Others' rules as values: chains of every table but ours, read by `nft -j list ruleset` (nft 1.0.6 and 1.1).

Rules that iptables-nft wrote are there too: their ports and verdicts in nft's own form, its matches and targets as
``xt`` with a name (`iptables` tells the rest). Elements of named sets are left out of the listing, which may be huge,
and asked for when a rule that matters looks into one.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from portfleet.dataplane.nft.doctor.nft_command import nft

OURS = frozenset({"portfleet", "portfleet-forward", "portfleet-keeper"})
#: Rules that are read at most: what comes after them is not judged, and is said to be.
MOST_RULES = 10_000
_MOST_SETS = 64
_MOST_INTERFACES = 16


@dataclass(frozen=True)
class Rule:
    """One rule; ``table`` is its family and table, ``body`` its statements as nft's JSON has them.

    ``handle``: nft's, or the number that iptables-legacy shows; ``added``: the command of iptables that adds it, "" for
    one that nft tells by itself.
    """

    table: str
    chain: str
    handle: int
    body: tuple[Mapping[str, Any], ...]
    added: str = ""


@dataclass
class Chain:
    """One chain; ``hook`` is "" for one that is jumped to, ``priority`` and ``policy`` count for others.

    ``tool``: iptables' command if it manages the chain, "" for nft.
    """

    table: str
    name: str
    hook: str = ""
    kind: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: list[Rule] = field(default_factory=list)
    tool: str = ""

    @property
    def family(self) -> str:
        return self.table.partition(" ")[0]


@dataclass
class Ruleset:
    """``chains`` by table and name; ``left_out``: rules beyond the most that are read; ``trouble``: why none is."""

    chains: dict[tuple[str, str], Chain] = field(default_factory=dict)
    left_out: int = 0
    trouble: str = ""
    ask: Callable[..., str] = lambda *_: ""
    _texts: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)
    _sets: dict[tuple[str, str], list[Any] | None] = field(default_factory=dict)

    def bases(self, hook: str) -> list[Chain]:
        """Return the base chains of a hook in the order in which packets pass them."""
        return sorted((c for c in self.chains.values() if c.hook == hook), key=lambda chain: chain.priority)

    def elements(self, table: str, name: str) -> list[Any] | None:
        """Return the elements of a named set or map; None if they are not known."""
        key = (table, name)
        if key not in self._sets:
            self._sets[key] = self._read(table, name) if len(self._sets) < _MOST_SETS else None
        return self._sets[key]

    def _read(self, table: str, name: str) -> list[Any] | None:
        for kind in ("set", "map"):
            for entry in _entries(self.ask("-j", "list", kind, *table.split(), name)):
                if kind in entry:
                    return list(entry[kind].get("elem", []))
        return None

    def text(self, rule: Rule) -> str:
        """Return a rule as its tool prints it; "" if it is gone."""
        if rule.added:
            return rule.added
        key = (rule.table, rule.chain)
        if key not in self._texts:
            listing = self.ask("-a", "-s", "list", "chain", *rule.table.split(), rule.chain)
            found = re.finditer(r"^\s*(.*\S)\s*# handle (\d+)$", listing, re.MULTILINE)
            self._texts[key] = {int(line[2]): line[1] for line in found}
        return self._texts[key].get(rule.handle, "")


def read_translations() -> Ruleset:
    """Read only tables with NAT chains of others: few rules even if there are very many."""
    found = Ruleset(ask=nft)
    chains = [entry["chain"] for entry in _entries(nft("-j", "list", "chains")) if "chain" in entry]
    tables = {(c["family"], c["table"]) for c in chains if c.get("type") == "nat" and c["table"] not in OURS}
    for table in sorted(tables):
        found.chains |= parse(nft("-j", "-t", "list", "table", *table)).chains
    return found


def interfaces() -> list[str]:
    """Return the interfaces by which clients may come, lo left out; "?" before there is one."""
    return [name for _, name in socket.if_nameindex() if name != "lo"][:_MOST_INTERFACES] or ["?"]


def parse(text: str, *, ask: Callable[..., str] = lambda *_: "") -> Ruleset:
    """Return the rules of a listing in JSON; ``ask`` runs nft for what is not in it."""
    found = Ruleset(ask=ask)
    entries = _entries(text)
    if not entries:
        found.trouble = "nft -j list ruleset says nothing that can be read"
    count = 0
    for entry in entries:
        kind, value = next(iter(entry.items()))
        if not isinstance(value, dict) or value.get("table") in OURS:
            continue
        table = f"{value.get('family')} {value.get('table')}"
        if kind == "chain":
            found.chains[table, value["name"]] = Chain(
                table,
                value["name"],
                hook=value.get("hook", ""),
                kind=value.get("type", ""),
                priority=int(value.get("prio", 0)),
                policy=value.get("policy", "accept"),
            )
        elif kind == "rule" and (chain := found.chains.get((table, value["chain"]))):
            count += 1
            if count > MOST_RULES:
                found.left_out += 1
            else:
                chain.rules.append(Rule(table, value["chain"], int(value["handle"]), tuple(value.get("expr", ()))))
    return found


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(text or "{}").get("nftables", []))
    except ValueError:
        return []
