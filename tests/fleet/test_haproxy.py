"""What only a fleet behind HAProxy has: no right of root's at all, processes of its own that end and are reloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box, on_plane
from support.operated import TOLD
from support.sandbox import client4, wait_for
from support.watched import load, pid_of, signal, wait_event

THREE = TOLD.replace("instances = 2", "instances = 3")
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
    rights = (
        'for p in /proc/[0-9]*; do grep -E "^(Uid|Cap(Prm|Eff|Bnd)|NoNewPrivs):" $p/status 2>/dev/null && echo; done'
    )
    found = box.boxes.host.run("sh", "-c", rights).stdout.split("\n\n")
    ordinary = [status for status in found if re.search(r"Uid:\s*65534\s", status)]
    assert len(ordinary) >= 3 + 2 * 2 + 2  # instances, masters with workers, supervisord and the watcher
    for status in ordinary:
        assert re.findall(r"Cap(\w+):\s*(\w+)", status) == [(kind, "0" * 16) for kind in ("Prm", "Eff", "Bnd")]
        assert "NoNewPrivs:\t1" in status
    assert box.boxes.host.run("nft", "list", "ruleset").stdout == ""


def test_a_killed_instance_refuses_no_client_with_the_watcher_dead(box: FleetBox) -> None:
    victim = box.status()["echo-blue-2"]["pid"]
    signal(box, pid_of(box, "portfleet-watch"), "STOP")
    with load(box, held=0, connects=300) as clients:
        signal(box, victim, "KILL")
        wait_for("it is there again", lambda: pid_of(box, "echo-blue-2") not in (0, victim))
    connects = clients.report["connects"]
    assert connects["refused"] == 0 and connects["done"] > 30
    assert connects["reset"] <= 2  # which the killed process had accepted


def test_one_of_two_killed_takes_its_share_along_and_refuses_no_newcomer(box: FleetBox) -> None:
    with load(box, held=100, connects=200) as clients:
        worker = max(pid for pid, words in haproxies(box).items() if "haproxy-1.cfg" in words)
        signal(box, worker, "KILL")
        wait_event(box, "data-plane-died")
        wait_for("it is there again", lambda: len(haproxies(box)) == 4)
        wait_for("it takes orders", lambda: box.portfleet("plan", "--check", check=False).returncode == 0)
    assert clients.refused == 0
    assert 20 < len(clients.lost) < 80  # half of 100: five standard deviations are 25
    box.settled()


def test_haproxy_outlives_its_supervisord_and_is_not_started_twice(box: FleetBox) -> None:
    before = haproxies(box)
    wait_for(
        "they are noted",
        lambda: "portfleet-haproxy-2" in box.boxes.host.run("cat", f"{HOME}/lib/processes.json").stdout,
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


def test_what_cannot_be_is_refused_by_check_with_the_reason(box: FleetBox) -> None:
    for line, words in (
        ('when_empty = "drop"', "needs CAP_NET_ADMIN"),
        ("max_per_source = 3", "in each of its 2 processes"),
        ('listen = [":700"]', "cannot listen on ports below 1024"),
        ('listen = ["203.0.113.77:7000"]', "no interface of this box has that address"),
    ):
        config = THREE.replace('listen = [":7000"]\n', "") if line.startswith("listen") else THREE
        box.write(config.replace("[service.echo]\n", f"[service.echo]\n{line}\n"))
        done = box.portfleet("check", check=False)
        assert done.returncode == 2 and words in done.stderr, done
    assert json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]


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
