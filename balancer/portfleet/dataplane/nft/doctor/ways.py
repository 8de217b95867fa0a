"""The ways of a service's packets through the hooks: what others' chains see at each. Pure.

A client's SYN has the port that was dialled until our chains at priority -100 (dstnat) translate it; what comes later
sees the instance's. The instance's answer has the instance's port until it leaves (it is translated back at priority
100 of postrouting). conntrack knows nothing of a packet before priority -200.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portfleet.core.model import Listen
from portfleet.dataplane.nft.doctor.packets import Packet
from portfleet.dataplane.nft.doctor.ruleset import Chain, Ruleset

_CONNTRACK, _TRANSLATION, _BACK = -200, -100, 100


@dataclass(frozen=True)
class Pass:
    """One packet at one base chain. ``dialled``: the port it had before translation, None if it still has it."""

    packet: Packet
    chain: Chain
    dialled: int | None


@dataclass(frozen=True)
class Way:
    """What a service's packets have: a listen address, one family, an instance's port and where it is.

    ``interface``: by which clients come, "lo" for those on this box; ``remote``: the instance's address elsewhere.
    """

    listen: Listen
    family: int
    port: int
    interface: str
    remote: str = ""

    def passes(self, ruleset: Ruleset) -> Iterator[Pass]:
        """Return every packet of a connection's begin at every base chain it passes, in order."""
        inside = self.interface == "lo"
        for hook in ("output",) if inside else ("ingress", "prerouting"):
            yield from self._at(hook, ruleset, first=True)
        if inside:
            yield from self._at("prerouting", ruleset, translated=True)
        yield from self._at("forward" if self.remote else "input", ruleset, translated=True)
        if not self.remote:
            yield from self._answer(ruleset)

    def _at(self, hook: str, ruleset: Ruleset, *, first: bool = False, translated: bool = False) -> Iterator[Pass]:
        for chain in ruleset.bases(hook):
            if not self._concerns(chain) or (translated and chain.kind == "nat"):
                continue  # NAT chains see the first packet once, and only until one of them has translated it
            before = first and (chain.kind == "nat" or chain.priority <= _TRANSLATION)
            facts = self._facts(hook, chain, before=before)
            yield Pass(facts, chain, None if before else self.listen.port)

    def _answer(self, ruleset: Ruleset) -> Iterator[Pass]:
        for hook in ("output", "postrouting"):
            for chain in ruleset.bases(hook):
                if (
                    self._concerns(chain)
                    and chain.kind != "nat"
                    and not (hook == "postrouting" and chain.priority > _BACK)
                ):
                    facts = self._common() | {"tcp.sport": self.port, "ct.state": frozenset({"established"})}
                    facts |= {"meta.oifname": self.interface, "tcp.flags": frozenset({"syn", "ack"})}
                    if chain.priority <= _CONNTRACK:
                        del facts["ct.state"], facts["ct.status"]
                    yield Pass(Packet(self.family, facts, self._words("the answer to")), chain, None)

    def _facts(self, hook: str, chain: Chain, *, before: bool) -> Packet:
        facts = self._common() | {
            "tcp.dport": self.listen.port if before else self.port,
            "tcp.flags": frozenset({"syn"}),
            "ct.state": frozenset({"new"}),
            "fib.daddr type": "local",
        }
        address = "ip.daddr" if self.family == 4 else "ip6.daddr"
        if self.remote and not before:
            facts |= {address: self.remote, "fib.daddr type": "unicast"}
        elif self.listen.address:
            facts[address] = self.listen.address
        facts["meta.oifname" if hook == "output" else "meta.iifname"] = self.interface
        if before:
            facts["ct.status"] = frozenset()
            if chain.priority <= _CONNTRACK:
                del facts["ct.state"], facts["ct.status"]
        return Packet(self.family, facts, self._words(""))

    def _common(self) -> dict[str, object]:
        return {
            "meta.l4proto": "tcp",
            "meta.protocol": "ip" if self.family == 4 else "ip6",
            "meta.nfproto": f"ipv{self.family}",
            "ip.protocol" if self.family == 4 else "ip6.nexthdr": "tcp",
            "ct.status": frozenset({"dnat"}),
            "ct.original proto-dst": self.listen.port,
        }

    def _words(self, what: str) -> str:
        whom = "clients on this box" if self.interface == "lo" else "clients from outside"
        return " ".join(filter(None, (what, whom, f"by {self.listen}")))

    def _concerns(self, chain: Chain) -> bool:
        families = {"inet", "netdev", "ip" if self.family == 4 else "ip6"}
        return chain.family in families
