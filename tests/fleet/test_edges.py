"""Privileged ports by unprivileged daemons, and other people's tables."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.fleet_box import ECHO, HOME, PORTFLEET, REDIS, FleetBox, fleet_box
from support.forms import forms
from support.reachable import show_checkout
from support.rights import needs_another_user
from support.sandbox import HOST4, client4, client6, wait_for
from support.watched import pid_of, signal, wait_event

SOME = [client4(number) for number in range(20)]

#: What an operator's firewall and Docker have there already.
FOREIGN = """
table inet firewall {
  set blocked {
    type ipv4_addr
    flags interval
    elements = { 203.0.113.0/28, 198.51.100.7 }
  }
  chain input {
    type filter hook input priority 0; policy accept
    ct state established,related accept
    ip saddr @blocked counter drop comment "by hand"
  }
}
table ip nat {
  chain DOCKER {
    tcp dport 8080 counter dnat to 172.17.0.2:80
  }
  chain PREROUTING {
    type nat hook prerouting priority -100; policy accept
    fib daddr type local counter jump DOCKER
  }
  chain POSTROUTING {
    type nat hook postrouting priority 100; policy accept
    ip saddr 172.17.0.0/16 counter masquerade
  }
}
"""


@pytest.fixture
def empty() -> Iterator[FleetBox]:
    with fleet_box() as fleet:
        yield fleet


@needs_another_user
def test_a_port_below_1024_is_served_by_a_daemon_without_any_right(empty: FleetBox) -> None:
    show_checkout(empty.boxes.host)
    empty.write(ECHO.replace("7000", "443").replace("instances = 4", 'instances = 2\nuser = "nobody"'))
    empty.portfleet("up")

    met = empty.who([client4(number) for number in range(50)] + [client6(number) for number in range(50)], port=443)

    assert set(met.values()) == {"echo-blue-1", "echo-blue-2"}
    for name in set(met.values()):
        pid = empty.status()[name]["pid"]
        facts = empty.boxes.host.run("grep", "-E", "^(Uid|CapEff)", f"/proc/{pid}/status").stdout.split()
        assert facts == ["Uid:", *["65534"] * 4, "CapEff:", "0000000000000000"]
    assert empty.boxes.host.run("ss", "-Htln", "sport = :443").stdout == "", "nobody listens on 443 itself"
    empty.calm()
    before = empty.snapshot()
    empty.portfleet("apply")
    assert empty.snapshot() == before
    empty.portfleet("down", "--yes")


def test_a_service_by_ipv6_alone_is_probed_by_ipv6(empty: FleetBox) -> None:
    config = REDIS.replace(":6000", "[::]:6000").replace('"--save"', '"--bind", "::", "--save"')
    empty.write(config.replace("instances = 4", "instances = 2"))
    empty.portfleet("up")

    assert {i["state"]: i["slots"] for i in empty.status().values() if i["pid"]} == {"ready": 2048}
    assert set(empty.redis_ports([client6(number) for number in range(40)]).values()) == {6100, 6101}
    empty.settled()


@pytest.mark.long
def test_others_tables_are_untouched_byte_for_byte(empty: FleetBox) -> None:
    host = empty.boxes.host
    host.run("nft", "-f", "-", text=FOREIGN)

    def listed() -> str:
        return "".join(host.run("nft", "-s", "-a", "list", "table", *name.split()).stdout for name in TABLES)

    TABLES = ("inet firewall", "ip nat")
    before, ruleset = listed(), empty.rules()

    empty.write(ECHO)
    empty.portfleet("up")
    assert listed() == before
    empty.write(ECHO.replace("instances = 4", "instances = 2").replace("7000", "7001"))
    empty.portfleet("apply")
    assert listed() == before
    assert len(set(empty.who([client4(number) for number in range(50)], port=7001).values())) == 2
    assert empty.ask([client4(0)], port=7000, message="who\n")[0].error, "the old address is closed"
    empty.portfleet("down", "--yes")
    assert (listed(), empty.rules()) == (before, ruleset)


def test_down_leaves_nothing_but_the_journal_and_logs_and_up_gives_the_same_table(empty: FleetBox) -> None:
    processes = empty.processes()
    empty.write(ECHO)
    empty.portfleet("up")
    clients = [client4(number) for number in range(200)]
    met, status = empty.who(clients), empty.status()

    said = empty.portfleet("down", "--yes")

    assert "down" in said.stdout and "portfleet up" in said.stdout
    assert (empty.rules(), empty.processes()) == ("", processes)
    assert empty.ask([client4(0)], port=7000, message="who\n")[0].error
    assert empty.portfleet("down").returncode == 0, "already down is done"
    assert {i["state"] for i in empty.status().values()} == {"stopped"}
    empty.portfleet("up")
    assert empty.who(clients) == met
    assert {n: i["slots"] for n, i in empty.status().items()} == {n: i["slots"] for n, i in status.items()}


def test_down_says_how_many_connections_end_and_asks(empty: FleetBox) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 1"))
    empty.portfleet("up")
    script = f"import socket; s=socket.create_connection(('{HOST4}', 7000)); print('up', flush=True); print(s.recv(9))"
    with empty.boxes.clients.popen("python3", "-c", script) as client:
        assert client.stdout is not None and client.stdout.readline() == "up\n"
        empty.calm()
        before = empty.snapshot()

        refused = empty.portfleet("down", check=False)

        assert (refused.returncode, empty.snapshot()) == (1, before)
        assert "1 established connection will end; nothing was done" in refused.stderr
        assert "--yes" in refused.stderr
        said = empty.portfleet("down", "--yes")
        assert "1 established connection ended" in said.stdout
        assert client.stdout.readline() == "b''\n"
    assert empty.rules() == ""


@pytest.mark.long
def test_one_service_goes_down_alone_and_stays_down(empty: FleetBox) -> None:
    two = ECHO.replace("instances = 4", "instances = 1")
    empty.write(two + two.replace("echo", "also").replace("7000", "6000").replace("710", "610"))
    empty.portfleet("up")

    marks = empty.rules("chain", "inet", "portfleet", "also-blue-1")
    assert empty.portfleet("down", "also", "--yes").stdout.startswith("also: down; 0 established connections ended")

    for verb in ("apply", "plan"):  # neither they nor the watcher, which looks at all of it now, bring it back
        told = empty.portfleet(verb)
        assert "also: down by root@" in told.stdout + told.stderr
        empty.boxes.host.run("nft", "add", "rule", "inet", "portfleet", "service-echo", "counter")
        wait_event(empty, "healed", count=1 if verb == "apply" else 2)
        assert empty.who([client4(0)]) == {client4(0): "echo-blue-1"}
        assert empty.ask([client4(0)], port=6000, message="who\n")[0].error
        assert "also" not in empty.rules()
        assert empty.portfleet("plan", "--check").returncode == 0
    assert "also  down by root@" in empty.look().stdout
    assert {one["state"] for name, one in empty.status().items() if name.startswith("also")} == {"stopped"}
    assert empty.portfleet("down", "also").stdout.startswith("also: already down by root@")
    for words in (("drain", "also"), ("explain", "also", client4(0)), ("pin", "also", client4(0), "1")):
        refused = empty.portfleet(*words, check=False)
        assert refused.returncode == 1 and "also is down by root@" in refused.stderr, words

    empty.portfleet("up")
    assert empty.who([client4(0)], port=6000) == {client4(0): "also-blue-1"}
    assert empty.rules("chain", "inet", "portfleet", "also-blue-1").split("#")[0] == marks.split("#")[0]
    empty.settled()


def test_a_second_home_is_refused_and_the_first_left_alone(empty: FleetBox) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 1"))
    empty.portfleet("up")
    empty.calm()
    before = empty.snapshot()
    host = empty.boxes.host
    copy = "mkdir /run/other && sed s/710/720/g /run/pf/fleet.toml > /run/other/fleet.toml"
    host.run("sh", "-c", copy)

    for verb in ("plan", "up", "status"):
        refused = empty.portfleet("--home", "/run/other", verb, check=False)
        assert refused.returncode == 5, verb
        assert "another home" in refused.stderr and "one home per network namespace" in refused.stderr
    assert empty.snapshot() == before
    assert host.run("ls", "/run/other").stdout == "fleet.toml\n", "nothing half done"


@pytest.mark.parametrize("damage", forms(["truncate -s 100", "rm"]))
def test_a_lost_or_damaged_journal_is_rebuilt_from_what_runs(empty: FleetBox, damage: str) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 3"))
    empty.portfleet("up")
    clients = [client4(number) for number in range(100)]
    empty.calm()
    met, rules, processes = empty.who(clients), empty.rules(), empty.processes()
    empty.boxes.host.run("sh", "-c", f"{damage} /run/pf/lib/journal.json")
    for verb in ("status", "lock", "history"):
        assert "Traceback" not in empty.portfleet(verb, check=False).stderr, verb

    said = empty.portfleet("apply")

    assert "rebuilt from the kernel's table and supervisord" in said.stderr
    assert ("the journal is lost" if damage == "rm" else "the journal is damaged (") in said.stderr
    kept = empty.boxes.host.run("sh", "-c", "ls /run/pf/lib | grep damaged", check=False).stdout
    assert kept == ("" if damage == "rm" else "journal.json.damaged-1\n")
    assert (empty.who(clients), empty.rules(), empty.processes()) == (met, rules, processes), "nobody was moved"
    assert empty.portfleet("apply").stderr == ""


@pytest.mark.long
def test_down_counts_the_connections_of_those_that_are_not_wanted_any_more(empty: FleetBox) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 2"))
    empty.portfleet("up")
    source = next(s for s, name in empty.explain("echo", SOME).items() if name == "echo-blue-2")
    script = (
        f"import socket; s=socket.create_connection(('{HOST4}', 7000), source_address=('{source}', 0)); "
        "print('up', flush=True); s.recv(9)"
    )
    with empty.boxes.clients.popen("python3", "-c", script) as client:
        assert client.stdout is not None and client.stdout.readline() == "up\n"
        empty.write(ECHO.replace("instances = 4", "instances = 1"))
        for words in ((), ("echo",)):
            refused = empty.portfleet("down", *words, check=False)
            assert refused.returncode == 1 and "1 established connection will end" in refused.stderr, refused
        assert "1 established connection ended" in empty.portfleet("down", "echo", "--yes").stdout
        assert client.wait(10) == 0
    assert [words for words in empty.processes().values() if "portfleet-daemon" in words] == []
    assert "echo" not in empty.rules("table", "inet", "portfleet")


@pytest.mark.full
@pytest.mark.parametrize("words", [(), ("echo",)])
def test_down_ends_what_hangs_within_seconds(empty: FleetBox, words: tuple[str, ...]) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 2"))
    empty.portfleet("up")
    hung = empty.status()["echo-blue-2"]["pid"]
    signal(empty, hung, "STOP")
    began = time.monotonic()

    empty.portfleet("down", *words, "--yes")

    assert time.monotonic() - began < 20  # ten of them until SIGKILL; supervisord's own would come after ten minutes
    assert hung not in empty.processes()


def test_while_supervisord_shuts_down_each_verb_says_so(empty: FleetBox) -> None:
    empty.write(ECHO.replace("instances = 4", "instances = 1"))
    empty.portfleet("up")
    hung = empty.status()["echo-blue-1"]["pid"]
    noted = ("grep", "-q", "echo-blue-1", f"{HOME}/lib/processes.json")
    wait_for("the watcher knows it", lambda: empty.boxes.host.run(*noted, check=False).returncode == 0)
    signal(empty, hung, "STOP")  # so that the shutdown lasts
    signal(empty, pid_of(empty, "supervisord"), "TERM")
    wait_for("it shuts down", lambda: "is shutting down" in empty.look().stdout)

    assert empty.status()["echo-blue-1"]["pid"] == hung, "what can be seen without supervisord is shown"
    for verb in ("plan", "apply", "up"):
        refused = empty.portfleet(verb, check=False)
        assert refused.returncode == 1 and "is shutting down" in refused.stderr.splitlines()[0], refused
    for verb in ("lock", "history", "doctor"):
        assert "Traceback" not in empty.portfleet(verb, check=False).stderr, verb

    signal(empty, hung, "CONT")
    wait_for("it has ended", lambda: hung not in empty.processes())
    empty.portfleet("down", "--yes")
    assert empty.rules() == ""


def test_a_service_manager_starts_it_in_the_foreground(empty: FleetBox) -> None:
    """As portfleet.service does at boot: rules first, then the program becomes supervisord."""
    empty.write(ECHO)
    manager = empty.boxes.host.popen(PORTFLEET, "--home", HOME, "up", "--foreground")
    try:
        wait_for("all serve", lambda: empty.look("-q").returncode == 0)
        assert empty.processes()[pid_of(empty, "supervisord")]
    finally:
        empty.portfleet("down", "--yes")
        manager.communicate(timeout=30)
    assert manager.returncode == 0
