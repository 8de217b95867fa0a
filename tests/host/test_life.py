"""What a deployed host lives through: reboots, other services' restarts, its own, and upgrades of portfleet."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import ANSIBLE, Ansible
from nspawn import Host
from support.booted import adopted, ask, load, ready, status
from support.sandbox import wait_for

pytestmark = pytest.mark.host

WHEELS = ANSIBLE.parent / "script/lib/wheels.py"


def test_a_reboot_loads_the_rules_before_the_first_instance(one: Host, measured: Callable[[str], None]) -> None:
    before = status(one)
    began = time.monotonic()
    one.reboot()
    wait_for("the service serves", lambda: ask(one, message="hello\n") == ["v1 hello"], seconds=60)
    measured(f"reboot to the first reply: {time.monotonic() - began:.1f} s")
    wait_for("all are ready", lambda: ready(one))
    after = status(one)
    slots = {i["name"]: i["slots"] for i in before["instances"]}
    assert {i["name"]: i["slots"] for i in after["instances"]} == slots, "clients come back to their instances"
    log = one.run("journalctl -b -u portfleet -o cat").stdout.splitlines()
    rules = next(number for number, line in enumerate(log) if "load the rules of echo" in line)
    opened = next(number for number, line in enumerate(log) if "open :" in line)
    spawned = next(number for number, line in enumerate(log) if "spawned: 'echo-blue-1'" in line)
    assert rules < opened < spawned


def test_nftables_restarted_by_somebody(one: Host, measured: Callable[[str], None]) -> None:
    one.run("printf '#!/usr/sbin/nft -f\\nflush ruleset\\n' >/etc/nftables.conf")
    assert "flush ruleset" in one.run("cat /etc/nftables.conf").stdout
    with load(one) as clients:
        for _ in range(3):
            one.run("systemctl restart nftables")
            wait_for("our table is back", lambda: "service-echo" in one.run("nft list ruleset").stdout)
    measured(f"systemctl restart nftables (flush ruleset), 3 times: {clients}")
    assert clients.failed == 0, clients.report


def test_the_cost_of_restarting_the_unit(one: Host, measured: Callable[[str], None]) -> None:
    """Established connections of the fleet end, new ones are refused for a moment; ssh does not notice."""
    with (
        subprocess.Popen([*one.ssh(), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ssh,
        load(one) as clients,
    ):
        began = time.monotonic()
        one.run("systemctl restart portfleet")
        took = time.monotonic() - began
        wait_for("all are ready", lambda: ready(one))
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        ssh.stdin.write("still here\n")
        ssh.stdin.flush()
        assert ssh.stdout.readline() == "still here\n"
        ssh.stdin.close()
    measured(f"systemctl restart portfleet: {took:.1f} s, {clients}")
    assert len(clients.lost) == len(clients.report["held"]), "docs/deploy.md says that they end"
    assert ask(one, message="hello\n") == ["v1 hello"]


def kill_supervisord(host: Host) -> None:
    """End supervisord as a lack of memory would, and wait until systemd has another one that has adopted all."""
    before = host.run("cat /run/portfleet/supervisord.pid").stdout
    host.run(f"kill -9 {before}")
    wait_for("systemd starts another", lambda: "active" in one_line(host) and before.strip() not in one_line(host))
    wait_for("the instances are adopted", lambda: adopted(host))


def one_line(host: Host) -> str:
    """Return the unit's state and main process."""
    return " ".join(host.run("systemctl show -P ActiveState -P MainPID portfleet").stdout.split())


def left(host: Host) -> str:
    """Return what there is of the fleet: processes, and our tables."""
    look = "pgrep -a -u portfleet; pgrep -af '/opt/[p]ortfleet'; nft list tables | grep portfleet"
    return host.run(look, check=False).stdout


def test_supervisord_dies_and_no_connection_with_it(one: Host, measured: Callable[[str], None]) -> None:
    pids = [i["pid"] for i in status(one)["instances"]]
    with load(one) as clients:
        kill_supervisord(one)
    measured(f"kill -9 of supervisord: {clients}")
    assert clients.failed == 0, clients.report
    assert [i["pid"] for i in status(one)["instances"]] == pids
    with load(one) as clients:
        one.run("portfleet restart echo")
        one.run("portfleet restart kv")
    assert clients.failed == 0, clients.report
    assert not adopted(one), "they are below the new supervisord"


def test_stopping_the_unit_leaves_nothing(one: Host) -> None:
    kill_supervisord(one)
    one.run("systemctl stop portfleet")
    assert left(one) == "", "also of those that were adopted"
    one.run("systemctl start portfleet")
    assert ready(one)


def test_a_stop_that_cannot_take_the_fleet_down(one: Host) -> None:
    """Somebody holds a lock: systemd ends supervisord, which ends its instances; `down` does the rest later."""
    lock = "/run/portfleet/service-echo.lock"
    one.run(f"systemd-run --unit holder flock {lock} sleep 600")
    try:
        wait_for("it is held", lambda: one.run(f"flock -n {lock} true", check=False).returncode != 0)
        one.run("systemctl stop portfleet")
        assert one.run("pgrep -u portfleet", check=False).stdout == ""
        assert "table inet portfleet\n" in one.run("nft list tables").stdout, "new clients wait for instances"
    finally:
        one.run("systemctl stop holder")
    one.run("portfleet down --yes")
    assert left(one) == ""
    one.run("systemctl start portfleet")
    assert ready(one)


def test_down_and_up_by_hand_go_through_systemd(one: Host) -> None:
    one.run("portfleet down --yes")
    wait_for("the unit has ended", lambda: one.run("systemctl is-active portfleet", check=False).stdout == "inactive\n")
    assert one.run("systemctl is-failed portfleet", check=False).returncode != 0
    assert "portfleet" not in one.run("nft list ruleset").stdout
    one.run("portfleet up")
    assert one.run("systemctl is-active portfleet").stdout == "active\n"
    assert ask(one, message="hello\n") == ["v1 hello"]


def test_portfleet_is_upgraded_with_connections_open(
    one: Host, ansible: Ansible, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    house = tmp_path / "wheels"
    house.mkdir()
    for wheel in ansible.wheels.glob("*.whl"):
        (house / wheel.name).symlink_to(wheel)
    (house / "dependencies-of").write_bytes((ansible.wheels / "dependencies-of").read_bytes())
    subprocess.run([sys.executable, str(WHEELS), str(house), "0.1.0.post1"], check=True)
    pids = [i["pid"] for i in status(one)["instances"]]
    watcher = "/opt/portfleet/bin/supervisorctl -c /var/lib/portfleet/supervisord.conf pid portfleet-watch"
    before = one.run(watcher).stdout
    mistaken = {
        "service": {**ansible.config["service"], "echo": {**ansible.config["service"]["echo"], "ports": "7100"}}
    }
    try:
        ansible.write_inventory(portfleet_wheels=str(house), portfleet_config=mistaken)
        assert ansible.play("site.yml", "--limit", "one").code != 0
        assert one.run(watcher).stdout != before, "also where a later task fails, the watcher is the new one"
        ansible.write_inventory(portfleet_wheels=str(house))
        with load(one) as clients:
            done = ansible.play("site.yml", "--limit", "one")
            assert done.code == 0, done.output
            assert one.run("portfleet --version").stdout == "portfleet 0.1.0.post1\n"
    finally:
        ansible.write_inventory()
        back = ansible.play("site.yml", "--limit", "one")
    assert back.code == 0, back.output
    assert one.run("portfleet --version").stdout == "portfleet 0.1.0\n", "and back to the version before"
    measured(f"upgrade of portfleet by site.yml ({done.seconds:.1f} s): {clients}")
    assert clients.failed == 0, clients.report
    assert [i["pid"] for i in status(one)["instances"]] == pids, "no instance was restarted"
