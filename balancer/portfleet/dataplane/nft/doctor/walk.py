"""A packet's way through others' chains: which rules stop it, lead it elsewhere, or leave it untracked. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from portfleet.dataplane.nft.doctor.packets import Packet, Truth, all_of, holds, matches
from portfleet.dataplane.nft.doctor.ruleset import Chain, Rule, Ruleset

What = Literal["drop", "reject", "dnat", "notrack", "queue", "deaf"]
#: Rules that are evaluated for one packet at most, and how deep chains may lead into each other (the kernel: 16).
_MOST_STEPS, _DEPTH = 50_000, 16
#: Statements that neither match nor decide.
_SILENT = {"counter", "log", "mangle", "comment", "snat", "masquerade", "continue", "ct helper", "flow", "dup"}
_STOPS: dict[str, What] = {"drop": "drop", "reject": "reject", "queue": "queue", "tproxy": "dnat"}
_LEADS: dict[str, What] = {"dnat": "dnat", "redirect": "dnat"}
_TARGETS: dict[str, What] = {
    "REJECT": "reject",
    "DNAT": "dnat",
    "REDIRECT": "dnat",
    "TPROXY": "dnat",
    "NFQUEUE": "queue",
}


@dataclass(frozen=True)
class Hit:
    """What happens to a packet at ``rule`` (None: by the policy of ``chain``), and how sure that is.

    ``let``: how sure it is that a rule before it lets some such packets through, NO if none does.
    "deaf" is a rule that would stop it if it still had the port that was dialled.
    """

    what: What
    chain: Chain
    rule: Rule | None
    truth: Truth
    let: Truth


@dataclass
class Walk:
    """Walks one packet through one base chain. ``dialled``: the port before translation, None if it still has it."""

    ruleset: Ruleset
    packet: Packet
    base: Chain
    dialled: int | None = None
    hits: list[Hit] = field(default_factory=list)
    cut: bool = False
    _let: Truth = Truth.NO
    _steps: int = 0

    def run(self) -> list[Hit]:
        """Return what happens to the packet; empty if it passes untouched."""
        if not self._chain(self.base, Truth.YES, 0) and self.base.policy == "drop":
            self._hit("drop", None, Truth.YES)
        return self.hits

    def _hit(self, what: What, rule: Rule | None, truth: Truth) -> None:
        self.hits.append(Hit(what, self.base, rule, truth, self._let))

    def _chain(self, chain: Chain, way: Truth, depth: int) -> bool:
        """Walk through a chain that is reached if ``way`` holds; return whether the packet's way ends for sure."""
        for rule in chain.rules:
            self._steps += 1
            if self._steps > _MOST_STEPS or depth > _DEPTH:
                self.cut = True
                return False
            for kind, value, truth in self._verdicts(rule):
                sure = all_of(way, truth)
                if kind in ("jump", "goto"):
                    target = self.ruleset.chains.get((chain.table, value["target"]))
                    if target is not None and self._chain(target, sure, depth + 1) and sure is Truth.YES:
                        return True
                    if kind == "goto" and truth is Truth.YES:
                        return False
                elif kind == "return":
                    if truth is Truth.YES:
                        return False
                elif self._ends(kind, value, rule, sure):
                    return True
        return False

    def _ends(self, kind: str, value: Any, rule: Rule, sure: Truth) -> bool:
        if kind == "accept":
            if sure is Truth.MAYBE or self._let is Truth.NO:
                self._let = sure
            return sure is Truth.YES
        what = _STOPS.get(kind) or _LEADS.get(kind)
        if kind == "xt":
            what = _TARGETS.get((value or {}).get("name", ""))
        elif kind == "notrack":
            what = "notrack"
        if what is None:
            return False
        self._hit(what, rule, sure)
        return sure is Truth.YES and what != "notrack"

    def _verdicts(self, rule: Rule) -> Iterator[tuple[str, Any, Truth]]:
        """Return the rule's verdicts with how sure it is that the packet gets to them."""
        truth = self._truth(rule.body, self.packet)
        if truth is Truth.NO:
            if self.dialled is not None and self._deaf(rule):
                self._hit("deaf", rule, Truth.YES)
            return
        for statement in rule.body:
            kind, value = next(iter(statement.items()))
            if kind == "vmap":
                for verdict, sure in self._chosen(value):
                    name, target = next(iter(verdict.items()))
                    if name != "continue":
                        yield name, target, all_of(truth, sure)
            elif kind not in _SILENT and kind != "match" and not _gate(kind, value):
                yield kind, value, truth

    def _deaf(self, rule: Rule) -> bool:
        stops = {next(iter(statement)) for statement in rule.body} & {"drop", "reject"}
        named = any(_TARGETS.get((s.get("xt") or {}).get("name", "")) == "reject" for s in rule.body)
        before = self.packet.with_facts(tcp__dport=self.dialled)
        return bool(stops or named) and self._truth(rule.body, before) is not Truth.NO

    def _truth(self, body: tuple[Mapping[str, Any], ...], packet: Packet) -> Truth:
        truth = Truth.YES
        for statement in body:
            kind, value = next(iter(statement.items()))
            if kind == "match":
                truth = all_of(truth, matches(value, packet, self._elements))
            elif _gate(kind, value):
                truth = all_of(truth, Truth.MAYBE)
            if truth is Truth.NO:
                break
        return truth

    def _chosen(self, vmap: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Truth]]:
        data = vmap["data"]
        pairs = data.get("set") if isinstance(data, dict) else self._elements(str(data).removeprefix("@"))
        for pair in pairs or ():
            if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict):
                sure = holds(vmap["key"], pair[0], self.packet, self._elements)
                if sure is not Truth.NO:
                    yield pair[1], sure

    def _elements(self, name: str) -> list[Any] | None:
        return self.ruleset.elements(self.base.table, name)


def _gate(kind: str, value: Any) -> bool:
    """Return whether a statement lets packets by that depends on what is not known: limits, iptables' matches, …"""
    if kind == "xt":
        return bool((value or {}).get("type", "match") == "match")
    return kind in ("limit", "quota", "ct count", "connlimit", "set", "map", "meter", "synproxy", "last")
