"""Two booted hosts for the whole run of pytest, deployed by site.yml; see script/hosts and script/lib/nspawn.py.

Tests share the hosts, as whole runs of a playbook take their time; each leaves them serving what they served before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nspawn
from deploy import Ansible, Run
from nspawn import Host
from support.booted import disk

_MEASURED: list[str] = []


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Note a measurement; all are printed at the end, whether tests passed or not."""
    return _MEASURED.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _MEASURED:
        terminalreporter.section("measured")
        for line in _MEASURED:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def hosts() -> Iterator[dict[str, Host]]:
    """Return two booted hosts with nothing of ours on them."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"])) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def ansible(hosts: dict[str, Host], tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """Return Ansible with the hosts in its inventory."""
    return Ansible(tmp_path_factory.mktemp("ansible"), hosts, Path(os.environ["PORTFLEET_WHEELS"]))


@pytest.fixture(scope="session")
def looked(hosts: dict[str, Host], ansible: Ansible) -> tuple[Run, dict[str, str], dict[str, str]]:
    """Give `site.yml --check --diff` on the bare hosts, and what was on their disks before and after."""
    before = {name: disk(host) for name, host in hosts.items()}
    done = ansible.play("site.yml", "--check", "--diff")
    return done, before, {name: disk(host) for name, host in hosts.items()}


@pytest.fixture(scope="session")
def first(looked: object, ansible: Ansible) -> Run:
    """Return the first run of site.yml."""
    return ansible.play("site.yml")


@pytest.fixture(scope="session")
def deployed(first: Run, hosts: dict[str, Host]) -> dict[str, Host]:
    """Return the hosts with a serving fleet."""
    assert first.code == 0, first.output
    return hosts


@pytest.fixture
def one(deployed: dict[str, Host]) -> Host:
    """Return the first host, serving."""
    return deployed["one"]
