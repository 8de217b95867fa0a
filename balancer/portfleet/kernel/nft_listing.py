"""What `nft -j list` prints, read back into values: elements of maps, and each chain's rules in a normal form.

nft prints rules in a form of its own (1.0.6 has ``ct status ! dnat`` for ``ct status & dnat == 0``), so rules are never
compared with what was written: the digest of a chain's listing is taken right after our own commit and compared
with later listings by the same nft.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from portfleet.kernel.changes import InstanceRule
from portfleet.model import Listen

Json = Mapping[str, Any]


def digests(listing: Json) -> dict[str, str]:
    """Give {chain: digest of its rules and hook} for a table's listing, counters and handles left out."""
    chains: dict[str, list[Any]] = {}
    for item in listing["nftables"]:
        if "chain" in item:
            chain = {key: item["chain"].get(key) for key in ("type", "hook", "prio", "policy")}
            chains.setdefault(item["chain"]["name"], []).insert(0, chain)
        elif "rule" in item:
            rule = item["rule"]
            normal = [_without_counts(expression) for expression in rule["expr"]]
            chains.setdefault(rule["chain"], []).append([normal, rule.get("comment")])
    return {name: hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:32]
            for name, rules in chains.items()}  # fmt: skip


def _without_counts(expression: Json) -> Json:
    return {"counter": None} if "counter" in expression else expression


def rules_of(listing: Json, chain: str) -> list[list[Json]]:
    """Give the expressions of each rule of ``chain``."""
    return [item["rule"]["expr"] for item in listing["nftables"] if item.get("rule", {}).get("chain") == chain]


def home_of(listing: Json) -> str | None:
    """Give the identity of the fleet that made the table; "" where a table is there that does not say."""
    found = None
    for item in listing["nftables"]:
        if "table" in item:
            found = found or ""
        comment = item.get("rule", {}).get("comment") or ""
        if item.get("rule", {}).get("chain") == "guard" and comment.startswith("portfleet "):
            found = comment.removeprefix("portfleet ")
    return found


def elements(listing: Json) -> Iterator[tuple[Any, Any]]:
    """Give (key, data) of every element of the one map or set in ``listing``; data is None for a set."""
    for item in listing["nftables"]:
        body = item.get("map") or item.get("set") or {}
        for element in body.get("elem", ()):
            if "map" in item:
                yield element[0], element[1]
            else:
                yield element, None


def target(data: Any) -> str | None:
    """Give the chain that a verdict leads to; None for any verdict that is not ours."""
    return data["goto"]["target"] if isinstance(data, dict) and "goto" in data else None


def listens(name: str, listing: Json) -> Iterator[tuple[Listen, str]]:
    """Give (listen address of one family, service) of every element of the map ``name``."""
    family = 6 if name.endswith("6") else 4
    for key, data in elements(listing):
        service = (target(data) or "").removeprefix("service-")
        if isinstance(key, dict):
            address, port = key["concat"]
            yield Listen(int(port), str(address), (family,)), service  # type: ignore[arg-type] # 4 or 6
        else:
            yield Listen(int(key), None, (family,)), service  # type: ignore[arg-type] # 4 or 6


def merge(found: Mapping[Listen, str]) -> dict[Listen, str]:
    """Join the two families of ":PORT" into one listen address where both lead to one service."""
    merged = dict(found)
    for listen, service in found.items():
        twin = Listen(listen.port, None, (6,))
        if listen.address is None and listen.families == (4,) and found.get(twin) == service:
            del merged[listen], merged[twin]
            merged[Listen(listen.port, None, (4, 6))] = service
    return merged


def ranges(listing: Json) -> frozenset[tuple[int, int]]:
    """Give the port ranges of a set, inclusive."""
    return frozenset(
        (key["range"][0], key["range"][1]) if isinstance(key, dict) else (key, key) for key, _ in elements(listing)
    )


def instance_rule(name: str, rules: list[list[Json]]) -> InstanceRule | None:
    """Read an instance's mark and port out of its chain, for a lost journal; None where they are not there."""
    mark = port = None
    for rule in rules:
        for expression in rule:
            if "mangle" in expression and expression["mangle"]["key"] == {"ct": {"key": "mark"}}:
                mark = expression["mangle"]["value"]
            if "redirect" in expression:
                port = expression["redirect"]["port"]
    return InstanceRule(name, mark, port) if isinstance(mark, int) and isinstance(port, int) else None


def seed_and_slots(rules: list[list[Json]]) -> tuple[int, int] | None:
    """Read a service's seed and number of slots out of its chain, for a lost journal."""
    for rule in rules:
        for expression in rule:
            key = expression.get("vmap", {}).get("key", {})
            if "jhash" in key:
                return int(key["jhash"]["seed"]), int(key["jhash"]["mod"])
    return None
