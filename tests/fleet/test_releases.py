"""Releases and restarts of daemons that nobody here wrote: no connection is closed that nobody asked to close."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence

import pytest

from support.fleet_box import REDIS, FleetBox, fleet_box
from support.held import dialled
from support.sandbox import HOST4, wait_for
from support.watched import events, wait_event

_HELD = 40
_SOURCES = [f"198.18.4.{number}" for number in range(1, 9)]
#: Redis in twos, whose operations wait for a second.
_TWO = REDIS.replace("instances = 4", "instances = 2") + '[service.kv.drain]\ndeadline = "1s"\n'


def answer(held: Sequence[socket.socket]) -> int:
    """Return how many of ``held`` answer a request."""
    answered = 0
    for connection in held:
        try:
            connection.sendall(b"PING\r\n")
            answered += connection.recv(100) == b"+PONG\r\n"
        except OSError:
            continue
    return answered


def refused(box: FleetBox, *words: str) -> str:
    """Run a verb that must not end well and return all that it says."""
    done = box.portfleet(*words, check=False)
    assert done.returncode in (1, 2), done
    return done.stdout + done.stderr


def told(said: str, words: str) -> bool:
    """Return whether ``said`` counts the connections held in ``words``; a probe that is under way is one more."""
    return re.search(rf"\b({_HELD}|{_HELD + 1}) {words}", said) is not None


@pytest.mark.long
def test_redis_keeps_every_connection_until_somebody_asks_to_close_some() -> None:
    sources = [f"198.18.0.{number + 1}" for number in range(_HELD)]
    with fleet_box(_TWO) as box, dialled(box.boxes.clients, (HOST4, 6000), sources) as held:
        said = box.portfleet("restart", "kv", "--dry-run", "--rate", "20").stderr
        assert told(said, "connections cannot be handed off") and "closed, 20 a second, which takes 2 s" in said, said
        said = box.portfleet("cutover", "kv", "--force", "--dry-run").stderr
        assert told(said, "connections cannot be handed off") and "they stay with blue until they end" in said, said
        said = refused(box, "restart", "kv")
        assert told(said, "connections cannot be handed off") and "no connection was closed" in said, said
        assert answer(held) == _HELD
        box.write(_TWO.replace("instances = 2", 'instances = 2\nenvironment = { MODE = "new" }'))
        said = refused(box, "apply")
        assert told(said, "connections that cannot be handed off would be closed by restarts"), said
        assert re.search(r"kv-blue-1: \d+ are closed at once; kv-blue-2: \d+ are closed at once", said), said
        assert "drain.rate in the config" in said, said
        planned = box.portfleet("plan").stdout
        assert re.search(r"restart kv-blue-1 \(.*; \d+ connections are closed at once\)", planned), planned
        box.write(_TWO.replace("6100-6107", "6200-6207"))
        assert told(refused(box, "apply"), "connections that cannot be handed off would be closed by restarts")
        assert answer(held) == _HELD
        box.write(_TWO)
        done = box.portfleet("cutover", "kv", "--force", "--keep", "0")
        assert told(done.stdout, "connections stay with blue until closed"), done
        assert answer(held) == _HELD and set(box.redis_ports(sources[:8]).values()) <= {6104, 6105}


@pytest.mark.long
def test_apply_closes_connections_at_the_rate_that_the_config_states() -> None:
    sources = [f"198.18.0.{number + 1}" for number in range(_HELD)]
    with fleet_box(_TWO) as box, dialled(box.boxes.clients, (HOST4, 6000), sources) as held:
        changed = _TWO.replace('deadline = "1s"', 'deadline = "1s"\nrate = 8').replace('"off"', '"1s"')
        box.write(changed.replace("instances = 2", 'instances = 2\nenvironment = { MODE = "new" }'))
        planned = box.portfleet("plan").stdout
        assert re.search(r"restart kv-blue-1 \(.*connections are closed, 8 a second, which takes [1-5] s", planned), (
            planned
        )
        assert "wait 1 s to see that kv-blue-1 lives on" in planned, planned
        began = time.monotonic()
        done = box.portfleet("apply", "--json")
        assert time.monotonic() - began > (_HELD - 8) / 8
        # A probe that is under way when the instance's connections are closed is one of them.
        assert _HELD <= json.loads(done.stdout)["ended"] <= _HELD + 2
        assert told(box.portfleet("history").stdout, "connections were closed by restarts")
        assert answer(held) == 0
        assert box.portfleet("plan", "--check").returncode == 0


@pytest.mark.long
def test_a_cutover_runs_the_release_by_the_file_and_a_rollback_as_it_ran() -> None:
    new = _TWO.replace('"--save"', '"--maxclients", "77", "--save"')
    new = new.replace("instances = 2", 'instances = 2\nrelease = "v2"\nenvironment = { MODE = "new" }')
    with fleet_box(_TWO.replace("instances = 2", 'instances = 2\nrelease = "v1"')) as box:
        box.write(new)
        planned = box.portfleet("plan").stdout
        assert "restart" not in planned and "command, environment differ" not in planned.split("note:")[0], planned
        said = box.portfleet("cutover", "kv").stderr
        assert "green is started with command, environment of" in said, said
        assert limits(box) == {"77"}
        box.portfleet("apply")
        assert limits(box) == {"77"}
        box.portfleet("rollback", "kv")
        assert limits(box) != {"77"} and "77" not in limits(box)
        assert "would go forward again to release v2" in refused(box, "rollback", "kv")


def limits(box: FleetBox) -> set[str]:
    """Return the limits of clients by those who serve."""
    asked = box.ask([f"198.18.1.{n}" for n in range(1, 9)], port=6000, message="CONFIG GET maxclients\r\n", lines=5)
    return {(one.reply or "none").split("\n")[-1].strip() for one in asked}


@pytest.mark.long
def test_a_release_that_dies_after_two_seconds_never_meets_a_client() -> None:
    with fleet_box(_TWO.replace('min_ready = "off"', 'min_ready = "5s"')) as box:
        done = box.portfleet(
            "cutover",
            "kv",
            "--command",
            "timeout 2 redis-server --port {port} --save '' --protected-mode no",
            check=False,
        )
        assert done.returncode == 4 and "nothing changed for clients" in done.stderr, done
        assert set(box.redis_ports([f"198.18.2.{n}" for n in range(1, 9)]).values()) <= {6100, 6101}
        assert box.status()["kv-green-1"]["pid"] is None


def dying(seconds: float) -> str:
    """Return the command of a redis that ends by itself."""
    return f"timeout {seconds:g} redis-server --port {{port}} --save '' --protected-mode no"


@pytest.mark.long
def test_what_does_not_live_on_is_no_success_of_any_verb() -> None:
    steady = _TWO.replace('min_ready = "off"', 'min_ready = "3s"')
    bad = steady.replace('"redis-server", ', '"timeout", "1.5", "redis-server", ')
    with fleet_box() as box:
        box.write(bad)
        done = box.portfleet("up", check=False)
        assert done.returncode == 4 and "ended within 3 s of being ready (min_ready)" in done.stdout, done
        box.portfleet("down")
        box.write(steady)
        box.portfleet("up")
        box.write(bad)
        done = box.portfleet("apply", check=False)
        assert done.returncode == 4 and "kv-blue-1: ended within 3 s" in done.stdout, done
        assert "kv-blue-2 was not restarted and serves on as it runs" in done.stderr, done
        box.write(steady)
        box.portfleet("apply")
        began = time.monotonic()
        box.portfleet("restart", "kv/1")
        box.portfleet("scale", "kv", "3")
        assert time.monotonic() - began > 6


@pytest.mark.long
def test_a_release_that_does_not_stay_up_is_rolled_back_by_the_watcher() -> None:
    with fleet_box(_TWO) as box:
        before = set(box.redis_ports(_SOURCES).values())
        box.portfleet("cutover", "kv", "--command", dying(2))
        came = wait_event(box, "rolls-back", service="kv")
        assert "ends soon after every start" in came.fields["reason"]
        wait_for("blue serves", lambda: "rollback: roll kv back to blue" in box.portfleet("history").stdout)
        assert set(box.redis_ports(_SOURCES).values()) == before
        assert box.status()["kv-green-1"]["pid"] is None
        assert len(events(box, "rolls-back")) == 1


@pytest.mark.long
def test_a_crash_loop_slower_than_a_failed_start_waits_longer_each_time() -> None:
    with fleet_box() as box:
        box.write(_TWO.replace('"redis-server", ', '"timeout", "1.5", "redis-server", '))
        box.portfleet("up", check=False)
        wait_event(box, "given-up", instance="kv-blue-1", try_number="3")
        given_up = events(box, "given-up", instance="kv-blue-1")
        assert [one.fields["try_number"] for one in given_up] == ["1", "2", "3"]
        assert all(one.fields["last_log"] for one in given_up)
        wait_for("one waits", lambda: [one["next_try"] for one in box.status().values() if one["state"] == "failed"])
        wait_for(
            "no instance serves",
            lambda: "\n  which is out: crash loop" in box.portfleet("explain", "kv", *_SOURCES).stdout,
        )


#: Two redis of which the second ends 1.5 s after each start while there is a file.
_HALF = _TWO.replace(
    '["redis-server", "--port", "{port}"', '["/run/pf/half", "{port}", "redis-server", "--port", "{port}"'
)
_HALF_SCRIPT = """#!/bin/sh
port=$1; shift
[ $port = 6101 ] && [ -e /run/pf/broken ] && exec timeout 1.5 "$@"
exec "$@"
"""


@pytest.mark.long
@pytest.mark.parametrize("served", [True, False], ids=["after it has served", "from its first start"])
def test_status_and_explain_say_that_an_instance_is_in_a_crash_loop_and_when_it_is_tried_again(served: bool) -> None:
    with fleet_box() as box:
        box.write(_HALF if served else _HALF.replace('min_ready = "off"', 'min_ready = "3s"'))
        host = box.boxes.host
        host.run("sh", "-c", "cat > /run/pf/half; chmod 755 /run/pf/half", text=_HALF_SCRIPT)
        if not served:
            host.run("touch", "/run/pf/broken")
        assert box.portfleet("up", check=False).returncode == (0 if served else 4)
        if served:
            host.run("touch", "/run/pf/broken")
            host.run("kill", str(box.status()["kv-blue-2"]["pid"]))
        wait_event(box, "given-up", instance="kv-blue-2", try_number="3")
        entry = box.wait_state("kv-blue-2", "failed")
        assert entry["why"].startswith("crash loop, ended last with") and entry["next_try"] and entry["attempt"] >= 3
        assert entry["pid"] is None and entry["last_log"], entry
        look = box.portfleet("status", check=False)
        assert look.returncode == 7 and re.search(r"kv-blue-2 +serving +failed", look.stdout), look
        assert re.search(r"next try (in \d+ s|now) \(attempt \d+\)", look.stdout), look
        said = box.portfleet("explain", "kv", *_SOURCES).stdout
        assert "its own kv-blue-2 is out: crash loop" in said and "next try at" in said, said
        assert look.stdout.count("ended last with") == 1, look
        box.portfleet("maint", "kv/2")
        assert box.wait_state("kv-blue-2", "maintenance")["next_try"] is None
        host.run("rm", "/run/pf/broken")
        box.portfleet("undrain", "kv/2")
        assert box.wait_state("kv-blue-2", "ready")["why"] is None


_APP = """#!/bin/sh
exec redis-server --port $1 --save '' --protected-mode no --maxclients 100
"""


@pytest.mark.long
def test_a_release_with_new_content_at_the_same_path_is_told_and_can_be_cut_over_to() -> None:
    config = _TWO.replace(
        '["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]',
        '["{release}/bin/app", "{port}"]',
    ).replace("instances = 2", 'instances = 2\nrelease = "/run/pf/app"')
    with fleet_box() as box:
        host = box.boxes.host
        host.run(
            "sh", "-c", "mkdir -p /run/pf/app/bin; cat > /run/pf/app/bin/app; chmod 755 /run/pf/app/bin/app", text=_APP
        )
        box.write(config)
        box.portfleet("up")
        host.run("ln", "/run/pf/app/bin/app", "/run/pf/linked")
        host.run("mkdir", "/run/pf/app/bin/__pycache__")
        host.run("cp", "/run/pf/app/bin/app", "/run/pf/same")
        host.run("mv", "/run/pf/same", "/run/pf/app/bin/app")  # as a package does that is installed once more
        assert "has changed" not in box.portfleet("status").stdout + box.portfleet("plan").stdout
        assert "already runs" in box.portfleet("cutover", "kv").stdout
        # As rsync -t and tar do: another file takes its place, with a time of modification long ago.
        deploy = "sed s/100/200/ > /run/pf/app/new; chmod 755 /run/pf/app/new; touch -d 2020-01-01 /run/pf/app/new"
        host.run("sh", "-c", f"{deploy}; mv /run/pf/app/new /run/pf/app/bin/app", text=_APP)
        for verb in ("status", "plan"):
            said = box.portfleet(verb).stdout
            assert "/run/pf/app has changed (bin/app, " in said, said
            assert "since kv-blue-1, kv-blue-2 started" in said and "portfleet cutover kv" in said, said
        before = box.status()["kv-blue-1"]["pid"]
        host.run("kill", "-9", str(before))
        wait_for("supervisord has started it", lambda: box.status()["kv-blue-1"]["pid"] not in (None, before))
        box.wait_state("kv-blue-1", "ready")
        assert "since kv-blue-2 started" in box.portfleet("status").stdout
        assert limits(box) == {"100", "200"}
        done = box.portfleet("cutover", "kv")
        assert "kv is live on green" in done.stdout and "Undo with: portfleet rollback kv" in done.stdout, done
        assert limits(box) == {"200"}
        assert "has changed" not in box.portfleet("status").stdout
        assert "/run/pf/app has changed (" in box.portfleet("history").stdout
        box.portfleet("rollback", "kv")
        assert limits(box) == {"100", "200"}
        done = box.portfleet("restart", "kv")
        assert limits(box) == {"200"} and "has changed" not in box.portfleet("status").stdout, done
        host.run("sh", "-c", "echo '# once more' >> /run/pf/app/bin/app")
        assert "Undo with" not in box.portfleet("cutover", "kv", "--keep", "0").stdout
        assert "this is no way back" in box.portfleet("rollback", "kv").stderr
