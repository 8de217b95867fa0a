"""The table that is there is adopted: what was changed by hand is found and repaired, the rest is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portfleet.dataplane.nft import memory as nft_memory
from portfleet.dataplane.nft import text as nft_text
from portfleet.dataplane.nft.events import RulesWatch
from portfleet.dataplane.nft.plane import NftPlane
from support.plane import ECHO, Plane
from support.sandbox import client4, client6

FULL = ECHO + 'sticky = "1h"\nmax_connections = 50\nslots = 256\n'
OTHER = FULL.replace("portfleet-daemon", "redis-server")
CLIENTS = [client4(number * 409) for number in range(40)] + [client6(number * 204) for number in range(40)]


def listing(rules: Plane) -> str:
    """Return the ruleset without what clients have filled in and without counts."""
    lines = json.loads(rules.boxes.host.run("nft", "-j", "-s", "list", "ruleset").stdout)["nftables"]
    kept = [line for line in lines if "metainfo" not in line]
    for line in kept:
        for body in line.values():
            body.pop("handle", None)
            if str(body.get("name", "")).startswith(("sticky", "counts", "full")):
                body.pop("elem", None)
    return json.dumps(kept, sort_keys=True)


#: What is done by hand → a word of the plan that repairs it.
EDITS = {
    "insert rule inet portfleet echo-blue-1 ip saddr 198.18.0.1 drop": "echo (another program changed them)",
    "add rule inet portfleet service-echo counter": "echo (another program changed them)",
    "flush chain inet portfleet echo-blue-2": "echo (another program changed them)",
    "flush chain inet portfleet try_echo-blue-2": "echo (another program changed them)",
    "add rule inet portfleet overflow_echo accept": "echo (another program changed them)",
    "flush chain inet portfleet guard": "guard (another program changed them)",
    "add rule inet portfleet postrouting counter": "guard (another program changed them)",
    "add chain inet portfleet extra": "remove the rules of extra",
    "add chain inet portfleet Extra_1 { type filter hook input priority 0; }": "remove the rules of Extra_1",
    "delete element inet portfleet slots-echo { 3, 7 }": "point 2 of 256 slots of echo",
    "delete element inet portfleet slots-echo { 3 }; add element inet portfleet slots-echo { 3 : 0:7 }": "point 1 of",
    "add element inet portfleet slots-echo { 300 : 0:1 }": "of 256 slots of echo",
    "flush map inet portfleet slots-echo": "point 256 of 256 slots of echo",
    "delete element inet portfleet instances-echo { 0:1 }": "echo (another program changed them)",
    "add element inet portfleet instances-echo { 0:63 : drop }": "load the rules of echo",
    "add element inet portfleet diverted-echo { 0:1 : 0:2, 0:2 : 0:1 }": "echo (another program changed them)",
    "add element inet portfleet diverted-echo { 0:1 : 0:63 }": "echo (another program changed them)",
    "add element inet portfleet diverted-echo { 0:63 : 0:1 }": "load the rules of echo",
    "delete element inet portfleet taking-echo { 0:2 }": "tell echo who takes",
    "add element inet portfleet taking-echo { 0:63 }": "tell echo who takes",
    "flush map inet portfleet overflow-echo": "tell echo who takes",
    "flush map inet portfleet limits": "load the rules of echo",
    "delete element inet portfleet local4 { 7000 }": "open :7000 of echo",
    "add element inet portfleet local4 { 7999 : drop }": "close",
    "flush set inet portfleet ports": "the table and its guard",
    "add element inet portfleet remotes4 { 203.0.113.9 . 80 }": "the table and its guard",
    "add element inet portfleet remotes6 { 2001:db8::9 . 80 }": "the table and its guard",
    "add element inet portfleet limits { 99 : drop }": "the table and its guard",
    "add element inet portfleet listened { 7001 }": "the table and its guard",
    "flush set inet portfleet listened": "the table and its guard",
    "flush chain inet portfleet midway_in": "guard (another program changed them)",
    "delete table inet portfleet": "the table and its guard",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One data plane for all edits: each is repaired before the next."""
    from support.plane import plane

    with plane(tmp_path_factory.mktemp("drift") / "rules.json") as made:
        made.load(OTHER)
        yield made


@pytest.mark.parametrize("edit", EDITS)
def test_a_hand_edit_is_found_and_repaired(loaded: Plane, edit: str) -> None:
    before = listing(loaded)
    assert loaded.is_as_wanted()
    loaded.boxes.host.run("nft", edit)
    assert any(EDITS[edit] in words for words in loaded.plan()), loaded.plan()
    loaded.load(OTHER)
    assert loaded.is_as_wanted()
    assert sorted(listing(loaded)) == sorted(before)


def test_nothing_changed_is_nothing_done(rules: Plane) -> None:
    rules.load(OTHER)
    watch = RulesWatch()
    rules.load(OTHER)
    assert rules.is_as_wanted()
    assert watch.read() == []
    watch.close()


def test_without_a_memory_rules_are_set_again_and_clients_stay(rules: Plane, tmp_path: Path) -> None:
    rules.load(OTHER)
    rules.serve()
    before, table = rules.met(CLIENTS), listing(rules)
    (tmp_path / "rules.json").unlink()
    rules.load(OTHER)
    assert rules.is_as_wanted()
    assert listing(rules) == table
    assert rules.met(CLIENTS) == before


def test_a_torn_line_is_a_line_not_written(rules: Plane, tmp_path: Path) -> None:
    rules.load(OTHER)
    memory = tmp_path / "rules.json"
    memory.write_text(memory.read_text()[:-40])
    rules.kernel = NftPlane(memory)
    assert rules.plan()
    rules.load(OTHER)
    assert rules.is_as_wanted()


def test_another_version_changes_only_what_it_writes_otherwise(rules: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    rules.load(OTHER)
    rules.serve()
    before = rules.met(CLIENTS)
    monkeypatch.setattr(nft_memory, "writer", lambda: "another version")
    assert rules.is_as_wanted()  # it writes the same text: nothing is set again

    rendered = nft_text.rendered

    def otherwise(change: nft_memory.Setting) -> str:
        text = rendered(change)
        return text.replace("counter dnat", "dnat") if "echo-blue-2" in text else text

    monkeypatch.setattr(nft_memory, "writer", lambda: "a third")
    monkeypatch.setattr(nft_text, "rendered", otherwise)
    assert rules.plan()[0] == "load the rules of echo"
    watch = RulesWatch()
    rules.load(OTHER)
    assert len(watch.read()) == 1
    watch.close()
    assert rules.is_as_wanted()
    chain = rules.boxes.host.run("nft", "list", "chain", "inet", "portfleet", "echo-blue-2").stdout
    assert "counter" not in chain
    assert rules.met(CLIENTS) == before
