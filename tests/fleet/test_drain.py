"""Drain, evict, restart, scale, migrate, rebalance from outside: who is left alone, who moves, who ends, how fast."""

from __future__ import annotations

import json
import re
import time

import pytest

from support.counted import counted, said_at_last
from support.drained import REDIS_TWO, ends, load_redis, per_second
from support.fleet_box import FleetBox
from support.held import dialled
from support.operated import TOLD, history, in_background, operated, phase, slots
from support.sandbox import HOST4, wait_for
from support.watched import load, wait_event

pytestmark = pytest.mark.both_planes


@pytest.mark.kernel_only
def test_drain_has_no_new_connection_from_its_return_on() -> None:
    with operated(TOLD.replace("instances = 2", "instances = 3")) as box:
        port = box.status()["echo-blue-2"]["port"]
        log = "/run/pf/events"
        command = f"echo $$ > {log}.pid; exec conntrack -E -e NEW -o timestamp,id -p tcp > {log}"
        watching = box.boxes.host.popen("sh", "-c", command)
        wait_for("conntrack listens", lambda: "conntrack -E" in " ".join(box.processes().values()))
        try:
            with load(box, held=30, connects=1000) as clients:
                wait_for("connects go on", lambda: f"sport={port}" in box.boxes.host.run("cat", log).stdout)
                box.portfleet("drain", "echo/2", "--handoff")
                returned = time.time()
                until = time.monotonic() + 2
                wait_for("connects have gone on for two seconds", lambda: time.monotonic() > until)
        finally:
            # nsenter, not conntrack, is our child: it ends with it.
            box.boxes.host.run("sh", "-c", f"kill $(cat {log}.pid)")
            watching.communicate(timeout=10)
        said = box.boxes.host.run("cat", log).stdout
        events = [(float(at), int(number)) for at, number in re.findall(r"\[(\d+\.\d+)\s*\].* sport=(\d+)", said)]
        assert [at for at, number in events if number == port and at < returned], said[:500]
        assert [at for at, number in events if number == port and at > returned] == []
        assert sum(at > returned for at, _ in events) > 100  # it went on elsewhere
        assert clients.refused == 0 and clients.lost == []


@pytest.mark.timed
def test_our_daemon_evicts_at_the_rate_asked_for() -> None:
    with operated() as box, ends(box, port=7000, number=600, message="hello\n") as ended:
        box.portfleet("drain", "echo", "--rate", "100/s", "--force")
    check_rate(ended, 100, box)


@pytest.mark.long
@pytest.mark.timed
def test_the_data_plane_evicts_from_others_at_the_rate_asked_for() -> None:
    with operated(REDIS_TWO) as box, ends(box, port=6000, number=600, message="PING\r\n") as ended:
        box.portfleet("drain", "kv", "--rate", "100/s", "--force")
    check_rate(ended, 100, box)


def check_rate(ended: list[float], rate: int, box: FleetBox) -> None:
    """600 ended, on the mean and in all but one window of a second at the rate ± 10 %, in none faster.

    A machine that stands still for a tenth of a second takes as much from one window.
    """
    assert len(ended) == 600
    counts = per_second(ended)
    assert len(counts) >= 5, counts
    assert max(counts) <= 1.1 * rate and sum(counts) >= 0.9 * rate * len(counts), counts
    assert sorted(counts)[1] >= 0.9 * rate, counts


def test_redis_is_cut_over_by_draining() -> None:
    config = REDIS_TWO.replace("[service.kv.probe]", "[service.kv.drain]\nrate = 20\n[service.kv.probe]")
    with operated(config) as box:
        with load_redis(box, held=60, connects=100) as report:
            done = box.portfleet("cutover", "kv", "--force").stdout
        reset = re.search(r"connections of blue: .* (\d+) were reset", done)
        assert reset and int(reset[1]) >= 60, done  # behind HAProxy a connection that has just ended may be among them
        connects = report["connects"]
        # Who dialled just before the switch is blue's, and among those that are closed.
        assert connects["refused"] == 0 and connects["reset"] <= 1, connects
        lost = [held for held in report["held"] if held["lost"]]
        assert len(lost) == 60  # evicted by the policy, and by nothing else: none before the slots had moved
        assert min(held["replies"] for held in lost) >= 1
        assert {name.split("-")[1] for name in slots(box)} == {"green"}


@pytest.mark.long
def test_restart_scale_migrate_and_rebalance_lose_nobody() -> None:
    with operated() as box:
        before = {name: found["pid"] for name, found in box.status().items() if found["pid"]}
        with load(box, held=80, connects=100) as clients:
            assert "restarted" in box.portfleet("restart", "echo").stdout
            assert not set(before.values()) & {found["pid"] for found in box.status().values()}
            two = slots(box)
            assert "portfleet scale echo 2" in box.portfleet("scale", "echo", "4").stdout
            assert slots(box) == {f"echo-blue-{number}": 1024 for number in (1, 2, 3, 4)}
            box.settled()  # marks and the home table are kept too
            box.portfleet("rebalance", "echo", "--limit", "1.1")
            counts = [found["connections"] for found in box.status().values() if found["slots"]]
            assert max(counts) / (sum(counts) / 4) <= 1.25
            box.portfleet("migrate", "echo/1", "2", "--share", "50%")
            assert slots(box)["echo-blue-2"] == pytest.approx(1536, abs=60)
            box.portfleet("migrate", "echo/1", "1")
            box.portfleet("scale", "echo", "2")
            assert slots(box) == two
            assert "echo-blue-3" not in box.status()
        assert clients.lost == []
        assert (clients.refused, clients.report["connects"]["reset"]) == (0, 0)
        box.settled()


def test_the_deadline_and_what_comes_then() -> None:
    with operated() as box:
        with load(box, held=40, connects=20) as clients:
            box.portfleet("drain", "echo/1", "--deadline", "1s", "--then", "kill")
            assert box.status()["echo-blue-1"]["state"] == "drained"
            box.portfleet("undrain", "echo/1")
            box.portfleet("drain", "echo/2", "--deadline", "1s", "--then", "wait", "--no-wait")
            wait_event(box, "deadline", then="wait")
            # An undrain while it drains ends that.
            assert "cancelled" in box.portfleet("undrain", "echo/2").stdout
        assert clients.lost and clients.refused == 0
        box.settled()


def test_two_operators_at_once() -> None:
    with operated() as box:
        with load(box, held=10, connects=10):
            box.portfleet("drain", "echo/1", "--no-wait", "--why", "a new disk")
            for words in (("cutover", "echo", "--release", "v2"), ("restart", "echo"), ("apply",)):
                refused = box.portfleet(*words, check=False)
                assert refused.returncode == 5, refused
                for told in (box.operator, "since 20", "drain echo-blue-1 (a new disk)", "portfleet cancel echo"):
                    assert told in refused.stderr, refused
            assert re.search(
                rf"echo: {box.operator} since 20\S+ drain: drain echo-blue-1 \(a new disk\)",
                box.portfleet("lock").stdout,
            )
            operation = json.loads(box.look("--json").stdout)["services"][0]["operation"]
            assert operation["verb"] == "drain" and phase(box)
            two = [in_background(box, "undrain", "echo"), in_background(box, "cancel", "echo")]
            codes = [(process.communicate(), process.returncode) for process in two]
            assert all(code in (0, 5) for _, code in codes), codes
        assert box.portfleet("lock").stdout == "echo: free\n"


def test_already_and_dry_runs_change_nothing() -> None:
    with operated() as box:
        box.calm()
        before = box.snapshot()
        for words in (
            ("cutover", "echo", "--release", "v2"), ("drain", "echo/1"), ("maint", "echo/1"), ("restart", "echo"),
            ("migrate", "echo/1", "2"), ("scale", "echo", "3"),
        ):  # fmt: skip
            assert "would " in (said := box.portfleet(*words, "--dry-run").stdout) and "nothing was done" in said
            assert json.loads(box.portfleet(*words, "--dry-run", "--json").stdout)["dry_run"] is True
        for words in (("undrain", "echo/1"), ("migrate", "echo/1", "1"), ("scale", "echo", "2"), ("cancel", "echo"),
                      ("rebalance", "echo"), ("cutover", "echo")):  # fmt: skip
            assert json.loads(box.portfleet(*words, "--json").stdout)["outcome"] == "already", words
        assert box.snapshot() == before and history(box) == []
        last = box.portfleet("drain", "echo", check=False)
        assert last.returncode == 1 and "with no serving instance" in last.stderr and "--force" in last.stderr


def test_a_dry_run_says_what_becomes_of_how_many_connections() -> None:
    sources = [f"198.18.0.{number + 1}" for number in range(12)]
    config = TOLD.replace("rate = 5", 'deadline = "90s"\nthen = "evict"')
    with operated(config) as box, dialled(box.boxes.clients, (HOST4, 7000), sources):
        first = counted(box, 12)["echo-blue-1"]
        drain = ("drain", "echo/1", "--dry-run")
        said_at_last(box, f"{first} connections: they may finish for 90 s, then those left are closed", *drain)
        stay = f"{first} connections: they stay until they end; none is closed"
        said_at_last(box, stay, *drain, "--then", "wait")
        handed = "12 connections are handed off to green; none is closed"
        said_at_last(box, handed, "cutover", "echo", "--release", "v2", "--dry-run")
        box.portfleet("drain", "echo/1", "--no-wait")
        said = box.portfleet("cancel", "echo", "--dry-run").stdout
        assert "echo-blue-1 then as before it" in said and "none is closed" in said, said
        said = box.portfleet("undrain", "echo/1", "--dry-run").stderr
        assert "drain, would be cancelled" in said, said


def test_apply_hands_connections_over_before_it_restarts_an_instance() -> None:
    with operated() as box:
        with load(box, held=40, connects=50) as clients:
            box.write(TOLD.replace("environment = {", 'environment = { TURN = "2",'))
            said = box.portfleet("apply").stderr
            assert re.search(r"restart echo-blue-1 .*[1-9]\d* connections go to its siblings", said), said
        assert clients.lost == []
        assert (clients.refused, clients.report["connects"]["reset"]) == (0, 0)
        box.settled()
