"""From a bare Debian to a serving fleet by site.yml, and what a second run, a look and a mistake do."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from deploy import Ansible, Run
from nspawn import Host
from support.booted import ask, disk, ready, status
from support.sandbox import wait_for

pytestmark = pytest.mark.host

#: supervisord's limit of descriptors, to be shown or set.
LIMIT = "prlimit --pid $(cat /run/portfleet/supervisord.pid) --nofile"


def test_a_look_at_a_bare_host_changes_nothing(looked: tuple[Run, dict[str, str], dict[str, str]]) -> None:
    done, before, after = looked
    assert done.code == 0, done.output
    assert before == after
    assert all(done.changed.values()), "it says what it would do"
    assert '+listen = [":7000"]' not in done.output, "a config may hold secrets"
    assert "skipped, since" not in done.output, "what cannot be known is not shown as what would be written"


def test_a_bare_host_serves_after_one_playbook(
    first: Run, deployed: dict[str, Host], measured: Callable[[str], None]
) -> None:
    measured(f"site.yml on two bare hosts, one after the other: {first.seconds:.1f} s, changed {first.changed}")
    for host in deployed.values():
        assert ask(host, count=20, message="hello\n") == ["v1 hello"] * 20
        assert ask(host, port=6379, count=20, message="PING\r\n") == ["+PONG"] * 20


def test_a_second_run_changes_nothing(
    deployed: dict[str, Host], ansible: Ansible, measured: Callable[[str], None]
) -> None:
    again = ansible.play("site.yml")
    assert again.code == 0, again.output
    assert again.changed == {"one": 0, "two": 0}, again.output
    looked = ansible.play("site.yml", "--check", "--diff")
    assert (looked.code, looked.changed) == (0, {"one": 0, "two": 0}), looked.output
    measured(f"site.yml again: {again.seconds:.1f} s, changed {again.changed}; --check: {looked.seconds:.1f} s")


@pytest.fixture
def config(ansible: Ansible) -> Any:
    """Return the fleet's config to change; the inventory is as it was afterwards."""
    yield copy.deepcopy(ansible.config)
    ansible.write_inventory()


def test_a_look_at_a_changed_config_shows_the_difference(
    deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]
) -> None:
    config["service"]["echo"]["instances"] = 3
    ansible.write_inventory(portfleet_config=config)
    before = {name: disk(host) for name, host in deployed.items()}
    done = ansible.play("site.yml", "--check", "--diff", "--limit", "one")
    assert done.code == 0, done.output
    assert "start echo-blue-3" in done.output, "the plan tells it"
    assert "+instances = 3" not in done.output, "a config may hold secrets"
    assert {name: disk(host) for name, host in deployed.items()} == before
    assert len([i for i in status(deployed["one"])["instances"] if i["state"] == "ready"]) == 2


def test_a_config_with_a_mistake_stays_outside(
    deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]
) -> None:
    config["service"]["echo"]["ports"] = "7100-7102"
    ansible.write_inventory(portfleet_config=config)
    before = {name: disk(host) for name, host in deployed.items()}
    looked = ansible.play("site.yml", "--check", "--limit", "one")
    assert looked.code != 0, "a look finds it too"
    assert "2 instances per colour: 4 ports are needed" in looked.output
    assert deployed["one"].run("ls /tmp/*.toml", check=False).stdout == ""
    done = ansible.play("site.yml")
    assert done.code != 0
    assert "2 instances per colour: 4 ports are needed" in done.output
    assert "PLAY RECAP" in done.output
    assert "two" not in done.changed, "the first mistake ends the run"
    assert {name: disk(host) for name, host in deployed.items()} == before
    assert ask(deployed["one"], message="hello\n") == ["v1 hello"]


def limit(host: Host) -> int:
    """Return how many descriptors supervisord may have, and who it starts."""
    return int(host.run(f"{LIMIT} --output SOFT --raw --noheadings").stdout)


def test_a_fleet_that_grows(deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]) -> None:
    """More connections get their descriptors while the fleet runs; sysctls go up where they are too low, never down."""
    one = deployed["one"]
    pids = [i["pid"] for i in status(one)["instances"]]
    one.run(f"{LIMIT}=4064: && sysctl -q net.core.somaxconn=128 net.ipv4.tcp_max_syn_backlog=65536")
    config["service"]["kv"]["max_connections"] = 15_000
    ansible.write_inventory(portfleet_config=config)
    done = ansible.play("site.yml", "--limit", "one")
    assert done.code == 0, done.output
    assert "portfleet restart SERVICE" in done.output
    assert limit(one) == 15_064
    assert one.run("sysctl -n net.core.somaxconn net.ipv4.tcp_max_syn_backlog").stdout == "4096\n65536\n"
    assert [i["pid"] for i in status(one)["instances"]] == pids


def test_a_limit_that_cannot_be_raised(deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]) -> None:
    one = deployed["one"]
    pids = [i["pid"] for i in status(one)["instances"]]
    one.run(f"{LIMIT}=15064:15064 && sysctl -q net.ipv4.tcp_max_syn_backlog=8192")
    config["service"]["kv"]["max_connections"] = 16_000
    ansible.write_inventory(portfleet_config=config)
    refused = ansible.play("site.yml", "--limit", "one")
    if refused.code:  # with CAP_SYS_RESOURCE it can be
        command = re.search(r"kill -9 \d+", refused.output)
        assert command is not None, refused.output
        one.run(command[0])
        # kv's are told of their new limit by a restart, as soon as the unit runs again
        wait_for(
            "another supervisord has adopted echo's",
            lambda: all(i["adopted"] for i in status(one)["instances"] if i["pid"]),
        )
        wait_for("all are ready", lambda: ready(one))
        wait_for("its pid is in its file", lambda: one.run(LIMIT, check=False).returncode == 0)
    assert limit(one) >= 16_064
    ansible.write_inventory()
    back = ansible.play("site.yml", "--limit", "one")
    assert back.code == 0, back.output
    assert one.run("grep ^net.ipv4.tcp_max /etc/sysctl.d/60-portfleet.conf").stdout.endswith("= 8192\n")
    assert [i["pid"] for i in status(one)["instances"]] == pids
    one.run("portfleet restart echo && portfleet restart kv")
