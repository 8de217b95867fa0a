"""`deny`, `undeny` and fail2ban's action on a whole fleet: at once, beside operations, over restarts and flushes."""

from __future__ import annotations

import configparser
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from support.fleet_box import HOME, PORTFLEET, FleetBox, fleet_box
from support.sandbox import BoxError, client4, client6, wait_for
from support.watched import NAMED, QUICK, pid_of, signal, wait_event

ACTION = Path(__file__).parents[2] / "examples/fail2ban/portfleet.conf"
BANNED, OTHER = client4(7), client4(8)


def refused(box: FleetBox, *sources: str) -> set[str]:
    """Return which of ``sources`` are refused (by HAProxy: closed at once); the others must be answered."""
    asked = box.ask(sources, port=7000, message="who\n")
    met = "reset" if box.plane == "haproxy" else "ConnectionRefused"
    assert all(one.reply or met in (one.error or "") for one in asked), asked
    return {one.source for one in asked if one.reply is None}


def access(box: FleetBox) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.portfleet("status", "--json").stdout)["services"][0]["access"]
    return found


@pytest.mark.both_planes
def test_deny_and_undeny() -> None:
    with fleet_box(NAMED) as box:
        six = client6(7)
        words = box.portfleet("deny", "echo", BANNED, "--why", "scans us").stdout
        assert words == (
            f"echo: new connections of {BANNED}/32 are refused for good. Undo with: portfleet undeny echo {BANNED}/32\n"
        )
        box.portfleet("deny", "echo", six, "--for", "1h")
        assert refused(box, BANNED, OTHER, six, client6(8)) == {BANNED, six}
        (first, second) = access(box)["deny"]
        assert (first["network"], first["until"], first["why"]) == (f"{BANNED}/32", None, "scans us")
        assert second["network"] == f"{six}/128" and second["until"].endswith("Z") and second["who"]
        assert access(box)["refused"] == 2
        said = box.portfleet("status").stdout
        assert f"denied: {BANNED}/32, {six}/128 until 20" in said and "refused since the rules were loaded: 2" in said
        assert box.portfleet("plan", "--check").returncode == 0
        assert "deny" not in box.portfleet("history").stdout

        assert "would deny" in box.portfleet("deny", "echo", OTHER, "--dry-run").stdout
        assert refused(box, OTHER) == set()
        assert box.portfleet("undeny", "echo", BANNED).stdout.startswith(f"echo: {BANNED}/32 may connect again.")
        assert "is not denied" in box.portfleet("undeny", "echo", BANNED).stdout
        assert refused(box, BANNED, six) == {six}
        box.portfleet("undeny", "echo", six)
        assert refused(box, six) == set()
        assert ("/echo.deny" if box.plane == "haproxy" else "access_echo") not in box.rules()
        for wrong, complaint in (
            (("echo", "198.18.0.7/24"), "not an address or a network"),
            (("nope", BANNED), "nope"),
            (("echo", BANNED, "--for", "soon"), "not a duration"),
        ):
            with pytest.raises(BoxError, match="exit 2"):
                box.portfleet("deny", *wrong)
            assert complaint in box.portfleet("deny", *wrong, check=False).stderr


@pytest.mark.long
def test_denials_outlive_everything_but_their_time() -> None:
    with fleet_box(NAMED + 'deny = ["198.18.99.0/24"]\n' + QUICK) as box:
        box.portfleet("deny", "echo", BANNED)
        box.portfleet("deny", "echo", OTHER, "--for", "1h")
        out = {BANNED, OTHER, "198.18.99.1"}
        box.calm()
        for what in ("flush ruleset", "flush set inet portfleet deny4-echo", "flush chain inet portfleet access_echo"):
            before = wait_event(box, "watching")
            box.boxes.host.run("nft", what)
            wait_event(box, "healed", after=before)
            wait_for("all are out again", lambda: refused(box, *out, client4(9)) == out)
        before = wait_event(box, "watching")
        signal(box, pid_of(box, "portfleet-watch"), "KILL")
        wait_event(box, "watching", after=before, count=2)
        box.portfleet("cutover", "echo", "--force")
        assert refused(box, *out, client4(9)) == out
        box.portfleet("down", "--yes")
        box.portfleet("up")
        assert refused(box, *out, client4(9)) == out
        box.boxes.host.run("rm", f"{HOME}/lib/journal.json")
        box.portfleet("apply")
        assert refused(box, *out, client4(9)) == out, "the kernel remembers what a lost journal does not"

        box.portfleet("deny", "echo", OTHER, "--for", "2s")
        wait_for("its time is over", lambda: OTHER not in refused(box, OTHER), seconds=6)
        assert box.portfleet("plan", "--check").returncode == 0
        assert [one["network"] for one in access(box)["deny"]] == ["198.18.99.0/24", f"{BANNED}/32"]


@pytest.mark.both_planes
def test_a_denial_waits_for_no_operation() -> None:
    with fleet_box(NAMED) as box:
        held = box.boxes.clients.popen("python3", "-c", _HELD)
        assert held.stdout is not None and held.stdout.readline() == "up\n"
        owner = box.explain("echo", [client4(1), client4(2)])[client4(1)]
        box.portfleet("drain", f"echo/{owner}", "--no-wait", "--deadline", "1h")
        began = time.monotonic()
        box.portfleet("deny", "echo", BANNED)
        assert refused(box, BANNED, OTHER) == {BANNED}
        print(f"a denial took {time.monotonic() - began:.2f} s, with its proof")
        assert json.loads(box.portfleet("status", "--json").stdout)["services"][0]["operation"]
        box.portfleet("cancel", "echo")
        assert refused(box, BANNED, OTHER) == {BANNED}
        held.kill()
        held.wait()


_HELD = f"""
import socket, sys
one = socket.create_connection(("192.0.2.1", 7000), 5, ("{client4(1)}", 0))
one.sendall(b"who\\n")
one.recv(100)
print("up", flush=True)
sys.stdin.read()
"""


def commands(action: Path, **tags: str) -> dict[str, str]:
    """Return the commands of a fail2ban action file, its tags filled in as fail2ban does it (jail.conf(5))."""
    parser = configparser.RawConfigParser()
    parser.read_string(action.read_text())
    known = dict(parser["Init"]) | tags
    found = dict(parser["Definition"])
    while any("<" in text for text in found.values()):  # a tag may hold tags
        found = {name: re.sub(r"<(\w+)>", lambda match: known[match[1]], text) for name, text in found.items()}
    return found


@pytest.mark.long
def test_the_fail2ban_action_bans_and_unbans() -> None:
    tags = {"service": "echo", "name": "sshd", "bantime": "600", "portfleet": f"{PORTFLEET} --home {HOME}"}
    with fleet_box(NAMED) as box:
        for address, other in ((BANNED, OTHER), (client6(7), client6(8))):
            run = commands(ACTION, **tags, ip=address)
            assert not any(run[name] for name in ("actionstart", "actionstop", "actioncheck"))
            box.boxes.host.run("sh", "-ec", run["actionban"])
            assert refused(box, address, other) == {address}
            (denied,) = access(box)["deny"]
            assert denied["until"] and denied["why"] == "fail2ban sshd"
            box.boxes.host.run("sh", "-ec", run["actionunban"])
            assert refused(box, address, other) == set()
        for_good = commands(ACTION, **tags | {"for": ""}, ip=BANNED)
        box.boxes.host.run("sh", "-ec", for_good["actionban"])
        assert access(box)["deny"][0]["until"] is None
