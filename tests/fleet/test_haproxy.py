"""What only a fleet behind HAProxy has: no right of root's at all, processes of its own that end and are reloaded."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portfleet.dataplane.haproxy.client import Client, ask
from support.fleet_box import HOME, FleetBox, fleet_box, on_plane
from support.operated import TOLD, slots
from support.sandbox import client4, wait_for
from support.watched import load, pid_of, signal, wait_event

THREE = TOLD.replace("instances = 2", "instances = 3")
_REMEMBERED = re.compile(r"key=(\S+) .*gpt0=(\d+)")
#: Gives one command on a socket of HAProxy's, as another program would.
TELL = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(sys.argv[2].encode() + b"\\n")
    sock.recv(100)
"""


@pytest.fixture
def box() -> Iterator[FleetBox]:
    with on_plane("haproxy"), fleet_box(THREE) as made:
        yield made


def haproxies(box: FleetBox) -> dict[int, str]:
    """Return the masters and workers by pid."""
    return {pid: words for pid, words in box.processes().items() if words.startswith("/usr/sbin/haproxy ")}


def test_no_process_has_a_right_and_the_kernel_no_rule(box: FleetBox) -> None:
    rights = 'grep -E "^(Name|Uid|Cap(Prm|Eff|Bnd)|NoNewPrivs):" /proc/$1/status'
    found = {
        words: box.boxes.host.run("sh", "-c", rights, "sh", str(pid)).stdout
        for pid, words in box.processes().items()
        if HOME in words or "--port 71" in words
    }
    assert len(found) == 3 + 2 * 2 + 2, found  # instances, masters with workers, supervisord and the watcher
    for words, status in found.items():
        print(f"{words[:60]:60} {' '.join(status.split()[2:])}")
        assert re.search(r"Uid:\s*65534\s65534\s65534\s65534\n", status)
        assert re.findall(r"Cap(\w+):\s*(\w+)", status) == [(kind, "0" * 16) for kind in ("Prm", "Eff", "Bnd")]
        assert "NoNewPrivs:\t1" in status
    assert box.boxes.host.run("nft", "list", "ruleset").stdout == ""


def dispatched(box: FleetBox) -> int:
    """Return how many connections HAProxy has given to another instance, as theirs refused them."""
    return sum(int(row["wredis"] or 0) for path in sockets(box) for row in Client(0, path, path).stat(4))


def sockets(box: FleetBox) -> list[Path]:
    """Return where both processes take commands."""
    return [box.boxes.host.path(f"{HOME}/run/haproxy/haproxy-{number}.sock") for number in (1, 2)]


def agreed(box: FleetBox) -> bool:
    """Return whether both processes remember the same instance of each client: they tell each other a moment later."""
    first, second = (dict(_REMEMBERED.findall(ask(path, "show table echo:sticky"))) for path in sockets(box))
    return bool(first) and first == second


def killed(box: FleetBox, name: str) -> None:
    """Kill an instance, let it be started again once a hundred clients have dialled it, and wait until it serves."""
    victim = pid_of(box, name)
    overseer, before = pid_of(box, "supervisord"), dispatched(box)
    signal(box, overseer, "STOP")
    signal(box, victim, "KILL")
    wait_for("a hundred had to go elsewhere", lambda: dispatched(box) >= before + 100)
    signal(box, overseer, "CONT")
    clients = [client4(number) for number in range(5000, 5030)]
    wait_for("it serves again", lambda: len(set(box.who(clients).values())) == 3)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.full)])
def test_a_killed_instance_refuses_no_client_with_the_watcher_dead(box: FleetBox, kills: int) -> None:
    signal(box, pid_of(box, "portfleet-watch"), "STOP")
    with load(box, held=0, connects=300) as clients:
        for kill in range(kills):
            killed(box, f"echo-blue-{kill % 3 + 1}")
    connects = clients.report["connects"]
    print(f"{kills} kills of an instance, {dispatched(box)} connects dispatched to another: {connects}")
    assert connects["refused"] == 0 and connects["done"] > 100 * kills
    assert connects["reset"] <= 30 * kills  # which the killed process had accepted, or had yet to


@pytest.mark.parametrize(
    ("processes", "held"),
    [
        pytest.param(4, 200, marks=pytest.mark.long),
        pytest.param(2, 2000, marks=pytest.mark.full),
        pytest.param(4, 2000, marks=pytest.mark.full),
    ],
)
def test_one_of_several_killed_takes_its_share_along_and_refuses_no_newcomer(processes: int, held: int) -> None:
    fleet = f"[fleet]\nhaproxy_processes = {processes}\n{THREE}"
    with on_plane("haproxy"), fleet_box(fleet) as box:
        interval = held / 1000
        with load(box, held=held, connects=200, interval=interval) as clients:
            before = haproxies(box)
            first = {pid for pid, words in before.items() if "haproxy-1.cfg" in words}
            signal(box, max(first), "KILL")  # the worker, which its master follows
            wait_event(box, "data-plane-died")
            wait_for("it is there again", lambda: len(haproxies(box)) == 2 * processes)
            wait_for("it takes orders", lambda: box.portfleet("plan", "--check", check=False).returncode == 0)
            assert before.keys() - haproxies(box).keys() == first
            until = time.monotonic() + 2 * interval
            wait_for("each client has asked again", lambda: time.monotonic() > until)
        connects, lost, share = clients.report["connects"], len(clients.lost), held / processes
        print(f"1 of {processes} killed: {lost} of {held} held were lost; connects: {connects}")
        assert abs(lost - share) < 5 * math.sqrt(share * (1 - 1 / processes))  # standard deviations of a fair choice
        assert connects["refused"] == 0 and connects["done"] > 100
        # They were under way, and the killed process had accepted them.
        assert connects["reset"] <= max(10, 200 * connects["slowest"])
        box.settled()


@pytest.mark.long
def test_haproxy_outlives_its_supervisord_and_is_not_started_twice(box: FleetBox) -> None:
    before = haproxies(box)
    wait_for(
        "they are noted",
        lambda: "portfleet-haproxy-2" in box.boxes.host.run("cat", f"{HOME}/lib/processes.json", check=False).stdout,
    )
    with load(box, held=50, connects=100) as clients:
        signal(box, pid_of(box, "supervisord"), "KILL")
        wait_event(box, "supervisord-back")
        wait_for("the fleet is as before", lambda: box.portfleet("plan", "--check", check=False).returncode == 0)
    assert haproxies(box) == before
    assert (clients.refused, clients.lost) == (0, [])


def test_a_new_service_is_a_reload_that_ends_no_connection(box: FleetBox) -> None:
    more = THREE + THREE.replace("echo", "more").replace("7000", "7002").replace("7100-7119", "7120-7139")
    with load(box, held=50, connects=100) as clients:
        box.write(more.replace("[service.more.probe]", "[service.more.probe]\n"))
        box.portfleet("apply")
    assert (clients.refused, clients.lost) == (0, [])
    own = json.loads(box.look("--json").stdout)["data_plane"]
    assert {(one["name"], one["state"]) for one in own} == {(f"portfleet-haproxy-{n}", "ready") for n in (1, 2)}
    assert "portfleet-haproxy-1  pid " in box.look().stdout
    sources = [client4(number) for number in range(50)]
    assert set(box.explain("more", sources).values()) == {f"more-blue-{number}" for number in (1, 2, 3)}


@pytest.mark.long
def test_a_foreign_edit_is_found_and_taken_back(box: FleetBox) -> None:
    service = f"{HOME}/run/haproxy/services/echo"
    for number in range(20):
        command = f"set map {service}.slots {number} echo-blue-1"
        box.boxes.host.run("python3", "-c", TELL, f"{HOME}/run/haproxy/haproxy-2.sock", command)
    wait_event(box, "healed")
    box.settled()


@pytest.mark.long
def test_clients_addresses_reach_handlers_and_probes_speak_for_themselves(box: FleetBox) -> None:
    named = (
        THREE.replace('"support.told:told"', '"support.peers:Peers", "--proxy-protocol"')
        .replace("[service.echo.drain]", "send_proxy = true\n[service.echo.drain]")
        .replace('send = "PING\\n"\nexpect = "PING"', "")
    )
    box.portfleet("down", "--yes")
    box.write(named)
    box.portfleet("up")
    sources = [client4(number) for number in range(20)] + [f"2001:db8:1:{number:x}::1" for number in range(1, 20)]
    for asked in box.ask(sources, port=7000, message="who\n"):
        assert asked.reply is not None and asked.reply.strip() == asked.source, asked
    assert {found["state"] for name, found in box.status().items() if "blue" in name} == {"ready"}


@pytest.mark.long
def test_weights_memory_and_who_may_connect(box: FleetBox) -> None:
    box.write(THREE.replace("[service.echo]", '[service.echo]\nweight = { 1 = 3 }\nsticky = "1h"\n'
                            'allow = ["198.18.0.0/15", "2001:db8:1:4::/64"]', 1))  # fmt: skip
    box.portfleet("apply")
    assert slots(box) == {"echo-blue-1": 2457, "echo-blue-2": 820, "echo-blue-3": 819}
    sources = [client4(number) for number in range(200)] + [f"2001:db8:1:4::{number:x}" for number in range(1, 9)]
    met = box.who(sources)
    assert {source: f"{name}/v1" for source, name in box.explain("echo", sources).items()} == met
    assert [one.reply for one in box.ask(["192.0.2.2", "2001:db8:1:5::1"], port=7000, message="who\n")] == [None, None]
    box.portfleet("drain", "echo/2", "--handoff")
    moved = box.who(sources)
    assert "echo-blue-2/v1" not in moved.values()
    wait_for("processes have told each other", lambda: agreed(box))
    assert {source: at for source, at in moved.items() if met[source] != "echo-blue-2/v1"}.items() <= met.items()
    box.portfleet("undrain", "echo/2")
    assert box.who(sources) == moved, "each stays where it was last"
    found = json.loads(box.portfleet("explain", "echo", "--live", "--json", *sources).stdout)
    assert {one["address"]: f"{one['instance']}/v1" for one in found} == moved


def test_what_cannot_be_is_refused_by_check_with_the_reason(box: FleetBox) -> None:
    for line, words in (
        ('when_empty = "drop"', "needs CAP_NET_ADMIN"),
        ("remote_snat = []", "connections of its own to remote instances"),
        ("max_per_source = 3", "in each of its 2 processes"),
        ('listen = [":700"]', "cannot listen on ports below 1024"),
        ('listen = ["203.0.113.77:7000"]', "no interface of this box has that address"),
    ):
        config = THREE.replace('listen = [":7000"]\n', "") if line.startswith("listen") else THREE
        box.write(config.replace("[service.echo]\n", f"[service.echo]\n{line}\n"))
        done = box.portfleet("check", check=False)
        assert done.returncode == 2 and words in done.stderr, done
    assert json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]
    box.write(THREE)
    refused = box.portfleet("migrate", "echo/2", "another-box", "--live", check=False)
    assert refused.returncode == 2 and "cannot move established connections to another box" in refused.stderr, refused


@pytest.mark.long
def test_another_data_plane_takes_down_and_up(box: FleetBox) -> None:
    text = box.boxes.host.run("cat", f"{HOME}/fleet.toml").stdout
    more = text.replace("[fleet]", "[fleet]\nhaproxy_processes = 3")
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/fleet.toml", text=more)
    before = haproxies(box)
    refused = box.portfleet("apply", check=False)
    assert refused.returncode == 2 and "the fleet is up; nothing was changed" in refused.stderr
    assert haproxies(box) == before
    box.portfleet("down", "--yes")
    assert haproxies(box) == {}
    box.portfleet("up")
    assert len(haproxies(box)) == 6
    assert set(box.who([client4(number) for number in range(60)]).values()) == {f"echo-blue-{n}/v1" for n in (1, 2, 3)}
