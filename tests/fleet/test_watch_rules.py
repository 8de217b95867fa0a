"""The rules are put back: after others' flushes and deletions, and after hand edits of ours."""

from __future__ import annotations

import re
import statistics
import sys

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, events, load, pid_of, signal, wait_event, watch_status

#: What is promised: from the foreign change to the table as it was, in seconds.
HEALED = 0.1


_LISTEN = """
import select, subprocess, sys, time
from portfleet.dataplane.nft.events import RulesWatch
watch, lost = RulesWatch(), None
subprocess.run(sys.argv[1:], check=True)
while True:
    assert select.select([watch], [], [], 10)[0], "not healed"
    for change in watch.read():
        at = time.monotonic()
        if "portfleet" in change.deleted:
            lost = at
        elif "portfleet" in change.tables and lost is not None:
            print(at - lost)
            sys.exit()
"""


def healing(box: FleetBox, *change: str) -> float:
    """Do a change that deletes our table; give the seconds from then until it is back, by the kernel's own word."""
    return float(box.boxes.host.run(sys.executable, "-c", _LISTEN, *change).stdout)


_YARDSTICK = """
import subprocess, time
goto = ", ".join(f"{slot} : goto a" for slot in range(4096))
table = "table inet yardstick { chain a { }; map m { typeof meta cpu : verdict; elements = { %s }; }; }"
began = time.monotonic()
subprocess.run(["nft", "-f", "-"], input=(table % goto).encode(), check=True)
print(time.monotonic() - began)
subprocess.run(["nft", "delete", "table", "inet", "yardstick"], check=True)
"""


def loading(box: FleetBox) -> float:
    """Return the seconds that nft itself takes at the moment to load as many slots, of a table nobody uses."""
    return float(box.boxes.host.run(sys.executable, "-c", _YARDSTICK).stdout)


def calm(box: FleetBox) -> None:
    """Wait until the watcher has let everybody in: a slot that it deals then is repaired on the way."""
    wait_for("nobody is pending", lambda: not watch_status(box)["pending"])


@pytest.mark.long
@pytest.mark.timed
def test_a_foreign_flush_costs_no_connection_and_is_mended_at_once() -> None:
    with fleet_box(NAMED + QUICK) as box, load(box, held=200, connects=100, interval=0.2) as clients:
        rules = box.rules("table", "inet", "portfleet")
        calm(box)
        took, bare = [], []
        for number in range(1, 6):
            bare.append(loading(box))
            took.append(healing(box, "nft", "flush", "ruleset"))
            wait_event(box, "healed", count=number, lost="table")
        print("back after", *[f"{seconds * 1000:.0f}" for seconds in took], "ms")
        print("nft loads as much in", *[f"{seconds * 1000:.0f}" for seconds in bare], "ms")
        # On a machine that others keep busy the promise is one in terms of what nft itself takes there and then.
        assert statistics.median(took) < max(HEALED, 1.5 * statistics.median(bare)), (took, bare)
        healing(box, "nft", "delete", "table", "inet", "portfleet")
        wait_event(box, "healed", count=6, lost="table")
        assert events(box, "table-deleted")[-1].fields["by"] == "nft"
        box.settled()
        assert without_handles(box.rules("table", "inet", "portfleet")) == without_handles(rules)
    assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)


def without_handles(listing: str) -> str:
    """Return a listing without the numbers the kernel gives out."""
    return "\n".join(line.partition(" # handle")[0] for line in listing.splitlines())


@pytest.mark.long
def test_who_is_out_stays_out_when_the_table_is_put_back() -> None:
    with fleet_box(NAMED + QUICK) as box:
        signal(box, box.status()["echo-blue-1"]["pid"], "STOP")
        wait_event(box, "ejected", instance="echo-blue-1")
        wait_for("its slots are dealt", lambda: box.status()["echo-blue-1"]["slots"] == 0)
        before = box.rules("map", "inet", "portfleet", "slots-echo")
        box.boxes.host.run("nft", "flush", "ruleset")
        wait_event(box, "healed", lost="table")
        assert without_handles(box.rules("map", "inet", "portfleet", "slots-echo")) == without_handles(before)


def test_hand_edits_of_our_table_are_repaired() -> None:
    with fleet_box(NAMED + QUICK) as box:
        calm(box)
        rules = without_handles(box.rules("table", "inet", "portfleet"))
        for number, edit in enumerate(
            (
                "delete element inet portfleet slots-echo { 7 }",
                "flush chain inet portfleet echo-blue-2",
                "add rule inet portfleet guard tcp dport 22 drop",
                "flush chain inet portfleet prerouting",
            ),
            1,
        ):
            box.boxes.host.run("nft", edit)
            wait_event(box, "healed", count=number, lost="rules")
            assert without_handles(box.rules("table", "inet", "portfleet")) == rules, edit
        box.settled()


@pytest.mark.long
def test_other_tables_are_nobodys_business() -> None:
    with fleet_box(NAMED + QUICK) as box:
        calm(box)
        box.boxes.host.run("nft", "add table inet firewall { chain input { type filter hook input priority 0 ; } ; }")
        box.boxes.host.run("nft", "delete element inet portfleet slots-echo { 7 }")
        wait_event(box, "healed")  # what came before it was looked at too
        assert len(events(box, "healed", "drift")) == 1
        assert "chain input" in box.rules("table", "inet", "firewall")


@pytest.mark.long
def test_drift_is_only_reported_where_that_is_configured() -> None:
    with fleet_box(NAMED + '[fleet]\ndrift = "report"\n') as box:
        calm(box)
        box.boxes.host.run("nft", "delete element inet portfleet slots-echo { 7 }")
        told = wait_event(box, "drift")
        assert told.fields["policy"] == "report" and "1 of 4,096 slots" in told.fields["would"]
        assert box.portfleet("plan", "--check", check=False).returncode == 6
        box.boxes.host.run("nft", "delete element inet portfleet slots-echo { 8 }")
        wait_event(box, "drift", count=2)
        box.boxes.host.run("nft", "flush", "ruleset")  # a lost table is no drift: it is put back all the same
        wait_event(box, "healed", lost="table")
        box.settled()


@pytest.mark.long
def test_a_port_added_later_is_kept_waiting_too() -> None:
    with fleet_box(NAMED + QUICK) as box:
        box.write((NAMED + QUICK).replace('[":7000"]', '[":7000", "192.0.2.1:7500"]'))
        box.portfleet("apply")
        listing = wait_for("the keeper knows it", lambda: keeper(box) if "7500" in keeper(box) else "")
        assert "7000" in listing
        watcher = box.boxes.host.run("cat", f"{HOME}/log/portfleet-watch.log").stdout
        assert "no-guardian" not in watcher


def keeper(box: FleetBox) -> str:
    """Return nft's listing of the keeper."""
    return box.boxes.host.run("nft", "list", "table", "inet", "portfleet-keeper").stdout


@pytest.mark.long
def test_what_commands_changed_is_never_taken_back() -> None:
    """Many at once, so that the watcher's looks fall between journal, kernel and the end of each."""
    with fleet_box(NAMED) as box:
        box.calm()
        for number in range(25):
            box.portfleet("pin", "echo", f"198.18.7.{number}", "2")
            box.portfleet("unpin", "echo", f"198.18.7.{number}")
        assert events(box, "healed") + events(box, "drift") == []
        assert "pins" not in box.rules("table", "inet", "portfleet")


def test_with_rules_of_an_earlier_version_an_ejection_deals_the_slots_at_once() -> None:
    """They have no map of diversions; `drift = "report"` leaves them as they are until `apply`."""
    with fleet_box(NAMED + QUICK + '[fleet]\ndrift = "report"\n') as box:
        calm(box)
        host, chain = box.boxes.host, ("inet", "portfleet", "service-echo")
        found = re.findall(r"@diverted-echo # handle (\d+)", host.run("nft", "-a", "list", "chain", *chain).stdout)
        assert found
        rules = [f"delete rule {' '.join(chain)} handle {handle}" for handle in found]
        host.run("nft", "; ".join([*rules, "delete map inet portfleet diverted-echo"]))
        before = events(box)[-1]
        signal(box, pid_of(box, "portfleet-watch"), "KILL")
        started = wait_event(box, "started", after=before)
        wait_event(box, "watching", after=started)
        calm(box)

        signal(box, box.status()["echo-blue-2"]["pid"], "KILL")
        wait_event(box, "cannot-eject", instance="echo-blue-2")
        wait_event(box, "serving", instance="echo-blue-2")
        assert events(box, "cannot-look") == []
        box.portfleet("apply")
        assert box.portfleet("plan", "--check").returncode == 0
        signal(box, box.status()["echo-blue-3"]["pid"], "KILL")
        wait_event(box, "ejected", instance="echo-blue-3")
