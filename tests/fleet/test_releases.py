"""Releases and restarts of daemons that nobody here wrote: no connection is closed that nobody asked to close."""

from __future__ import annotations

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


@pytest.mark.long
def test_redis_keeps_every_connection_until_somebody_asks_to_close_some() -> None:
    sources = [f"198.18.0.{number + 1}" for number in range(_HELD)]
    with fleet_box(_TWO) as box, dialled(box.boxes.clients, (HOST4, 6000), sources) as held:
        said = box.portfleet("restart", "kv", "--dry-run", "--rate", "20").stderr
        assert "40 connections cannot be handed off" in said and "closed, 20 a second, which takes 2 s" in said, said
        said = box.portfleet("cutover", "kv", "--force", "--dry-run").stderr
        assert "40 connections cannot be handed off" in said and "they stay with blue until they end" in said, said
        said = refused(box, "restart", "kv")
        assert "40 connections cannot be handed off" in said and "no connection was closed" in said, said
        assert answer(held) == _HELD
        box.write(_TWO.replace("instances = 2", 'instances = 2\nenvironment = { MODE = "new" }'))
        said = refused(box, "apply")
        assert "40 connections that cannot be handed off would be closed by restarts" in said, said
        box.write(_TWO.replace("6100-6107", "6200-6207"))
        assert "40 connections that cannot be handed off would be closed by restarts" in refused(box, "apply")
        assert answer(held) == _HELD
        box.write(_TWO)
        done = box.portfleet("cutover", "kv", "--force", "--keep", "0")
        assert "40 connections stay with blue until they end" in done.stdout, done
        assert answer(held) == _HELD and set(box.redis_ports(sources[:8]).values()) <= {6104, 6105}


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
        assert "crash loop" in box.status()["kv-blue-1"]["why"]
