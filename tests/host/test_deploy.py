"""From a bare Debian to a serving fleet by site.yml, and what a second run, a look and a mistake do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy import Ansible, Run
from nspawn import Host
from support.booted import ask, disk, status

pytestmark = pytest.mark.host


def test_a_look_at_a_bare_host_changes_nothing(looked: tuple[Run, dict[str, str], dict[str, str]]) -> None:
    done, before, after = looked
    assert done.code == 0, done.output
    assert before == after
    assert all(done.changed.values()), "it says what it would do"
    assert '+listen = [":7000"]' in done.output


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
    """Give the fleet's config to change; the inventory is as it was afterwards."""
    yield copy.deepcopy(ansible.config)
    ansible.write_inventory()


def test_a_look_at_a_changed_config_shows_the_difference(
    deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]
) -> None:
    config["service"]["echo"]["instances"] = 3
    ansible.write_inventory(portfleet_config=config)
    before = {name: disk(host) for name, host in deployed.items()}
    done = ansible.play("site.yml", "--check", "--diff")
    assert done.code == 0, done.output
    assert "-instances = 2\n" in done.output
    assert "+instances = 3\n" in done.output
    assert {name: disk(host) for name, host in deployed.items()} == before
    assert len([i for i in status(deployed["one"])["instances"] if i["state"] == "ready"]) == 2


def test_a_config_with_a_mistake_stays_outside(
    deployed: dict[str, Host], ansible: Ansible, config: dict[str, Any]
) -> None:
    config["service"]["echo"]["ports"] = "7100-7102"
    ansible.write_inventory(portfleet_config=config)
    before = {name: disk(host) for name, host in deployed.items()}
    done = ansible.play("site.yml")
    assert done.code != 0
    assert "2 instances per colour need 4 ports" in done.output
    assert "PLAY RECAP" in done.output
    assert "two" not in done.changed, "the first mistake ends the run"
    assert {name: disk(host) for name, host in deployed.items()} == before
    assert ask(deployed["one"], message="hello\n") == ["v1 hello"]
