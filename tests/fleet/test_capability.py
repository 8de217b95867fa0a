"""What a daemon says of itself counts, not what its command is called: hand-off, limits, eviction, its exit code."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from support.drained import REDIS_TWO, ends
from support.fleet_box import HOME, FleetBox, fleet_box
from support.forms import forms
from support.operated import TOLD, counts_its_sockets, history, last_releases, operated, slots
from support.sandbox import wait_for
from support.watched import events, load, signal, wait_event

_SOURCE = Path(__file__).parents[2] / "examples" / "c-daemon" / "daemon.c"


@pytest.fixture(scope="module")
def c_daemon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the daemon of examples/c-daemon, built as it is."""
    program = tmp_path_factory.mktemp("c") / "c-daemon"
    subprocess.run(["cc", "-std=gnu11", "-O2", "-pthread", "-o", program, _SOURCE], check=True)
    return program


def in_c(program: Path) -> str:
    """Return a service of two instances of the daemon in C."""
    return f"""
[service.echo]
listen = [":7000"]
command = ["{program}", "--port", "{{port}}"]
ports = "7100-7119"
instances = 2
[service.echo.drain]
rate = 5
"""


def by_env(box: FleetBox) -> str:
    return TOLD.replace('["portfleet-daemon"', '["env", "A=1", "portfleet-daemon"')


def by_script(box: FleetBox) -> str:
    """Put releases that exec the daemon into the box and return a service that runs them."""
    for release in ("v1", "v2"):
        script = '#!/bin/sh\ncd /\nexec portfleet-daemon --handler support.told:told "$@"\n'
        place = f"{HOME}/own/{release}"
        box.boxes.host.run("sh", "-c", f"mkdir -p {place} && cat > {place}/run && chmod +x {place}/run", text=script)
    command = 'command = ["{release}/run", "--port", "{port}"]'
    lines = [command if line.startswith("command") else line for line in TOLD.splitlines()]
    return "\n".join(lines).replace('release = "v1"', f'release = "v1"\nreleases = "{HOME}/own"')


def unharmed_by_hand_off(box: FleetBox, *, release: str) -> None:
    """Drain, undrain, rebalance and cut over under load, all by hand-off, and see that no client notices."""
    with load(box, held=60, connects=50) as clients:
        drained = box.portfleet("drain", "echo/1", "--handoff").stdout
        assert "connections handed off, 0 ended" in drained and " 0 connections handed" not in drained, drained
        box.portfleet("undrain", "echo/1")
        assert "connections were handed off" in box.portfleet("rebalance", "echo", "--limit", "1.2").stdout
        done = box.portfleet("cutover", "echo", "--release", release, "--handoff").stdout
        moved = re.search(r"([\d,]+) connections were handed off", done)
        assert moved and int(moved[1]) >= 60, done  # one that is held by a client that comes and goes may be among them
        wait_for("each says what it has", lambda: counts_its_sockets(box))
    connects = clients.report["connects"]
    assert (connects["refused"], connects["reset"]) == (0, 0), connects
    assert clients.lost == []


@pytest.mark.long
def test_a_daemon_in_c_hands_off(c_daemon: Path) -> None:
    with operated(in_c(c_daemon)) as box:
        unharmed_by_hand_off(box, release="another")
        box.settled()


@pytest.mark.parametrize("config", forms([by_env, by_script]))
def test_so_does_ours_behind_a_wrapper(config: object) -> None:
    with fleet_box() as box:
        box.write(config(box))  # type: ignore[operator] # one of the two functions above
        box.portfleet("up")
        unharmed_by_hand_off(box, release="v2")


@pytest.mark.long
def test_a_daemon_without_evict_is_drained_at_the_rate(c_daemon: Path) -> None:
    with operated(in_c(c_daemon)) as box:
        with ends(box, port=7000, number=300, message="hello\n") as ended:
            said = box.portfleet("drain", "echo", "--rate", "100/s", "--force").stdout
        assert "300 were closed" in said and len(ended) == 300
        assert 2.0 < max(ended) - min(ended) < 6.0, "neither all at once nor one by one"
        box.portfleet("undrain", "echo")
        assert {name: box.status()[name]["state"] for name in slots(box)} == {
            "echo-blue-1": "ready",
            "echo-blue-2": "ready",
        }


REFUSED = [
    (("drain", "{0}/1", "--handoff"), "{0}-blue-1"),
    (("rebalance", "{0}"), "{0}-blue-1"),
    (("cutover", "{0}", "--force", "--handoff"), "{0}-blue-1"),
]


def test_who_cannot_is_named_and_nothing_is_begun() -> None:
    with operated(REDIS_TWO + off()) as box:
        box.calm()
        before = box.snapshot()
        for service in ("kv", "echo"):
            for words, name in REFUSED:
                refused = box.portfleet(*(word.format(service) for word in words), check=False)
                assert refused.returncode == 2 and name.format(service) in refused.stderr, refused
                why = "never asked" if service == "echo" else "no control socket"
                assert why in refused.stderr and "hint:" in refused.stderr, refused
        assert box.snapshot() == before and history(box) == []


def off() -> str:
    """Return our own daemon as a service whose control sockets are not to be used."""
    return TOLD.replace("instances = 2", 'instances = 2\ncontrol = "off"')


@pytest.mark.long
def test_a_new_release_that_cannot_is_told_before_clients_notice_it() -> None:
    command = "redis-server --port {port} --save '' --protected-mode no"
    unprobed = TOLD.partition("[service.echo.probe]")[0]
    with operated(unprobed) as box:
        with load(box, held=20, connects=20) as clients:
            words = ("cutover", "echo", "--release", "v2", "--command", command, "--handoff")
            refused = box.portfleet(*words, check=False)
            assert refused.returncode == 2 and "echo-green-1" in refused.stderr, refused
            assert "nothing changed for clients" in refused.stderr and "blue serves" in refused.stderr, refused
        assert clients.lost == [] and clients.refused == 0
        assert last_releases(clients.report) == {"v1": 20}
        box.settled()


@pytest.fixture
def empty() -> Iterator[FleetBox]:
    with fleet_box() as box:
        yield box


def counted(box: FleetBox) -> set[str]:
    """Return the instances whose connections the kernel counts."""
    listing = box.rules("table", "inet", "portfleet").partition("map limits {")[2].partition("}\n\n")[0]
    return {word.removeprefix("cap_").rstrip(",") for word in listing.split() if word.startswith("cap_")}


@pytest.mark.long
def test_the_kernel_counts_for_those_only_that_do_not_do_it_themselves(empty: FleetBox, c_daemon: Path) -> None:
    script = by_script(empty).partition("[service.echo.probe]")[0]
    script = script.replace("instances = 2", "instances = 2\nmax_connections = 30")
    others = in_c(c_daemon).replace("instances = 2", "instances = 2\nmax_connections = 30")
    others = others.replace("echo", "c").replace("7000", "7001").replace("7100-7119", "7200-7219")
    empty.write(script + others)
    empty.portfleet("up")
    assert counted(empty) == {f"c-{colour}-{number}" for colour in ("blue", "green") for number in (1, 2)}
    empty.settled()
    record = json.loads(empty.boxes.host.run("cat", f"{HOME}/lib/journal.json").stdout)["services"]
    assert (record["echo"]["counts"], record["c"]["counts"]) == (True, False)
    # A release of which that is not so is counted for before its first client.
    command = "redis-server --port {port} --save '' --protected-mode no"
    empty.portfleet("cutover", "echo", "--release", "v2", "--command", command, "--keep", "0")
    assert {name for name in counted(empty) if name.startswith("echo-green")} == {"echo-green-1", "echo-green-2"}
    empty.settled()


def test_exit_code_2_is_a_crash_of_a_daemon_that_never_promised_anything(empty: FleetBox) -> None:
    command = '["sh", "-c", "redis-server --port $0 --save \'\' --protected-mode no; exit 2", "{port}"]'
    lines = [f"command = {command}" if line.startswith("command") else line for line in REDIS_TWO.splitlines()]
    empty.write("\n".join(lines) + '\ninterval = "200ms"\n')
    empty.portfleet("up")
    since = datetime.fromisoformat(empty.status()["kv-blue-1"]["since"]).timestamp()
    wait_for("it has run for longer than supervisord's startsecs", lambda: time.time() - since > 2.5)
    (redis,) = [
        pid for pid, words in empty.processes().items() if words.startswith("redis-server") and ":6100" in words
    ]
    signal(empty, redis, "KILL")
    ejected = wait_event(empty, "ejected", instance="kv-blue-1")
    begun = wait_event(empty, "starting", instance="kv-blue-1", after=ejected)
    assert begun.fields["reason"] == "ended with exit status 2" and begun.at - ejected.at < 1
    wait_event(empty, "serving", instance="kv-blue-1", after=begun)
    assert events(empty, "stays-down") == []
