"""Runs the project's playbooks against test hosts: writes the inventory, gives what a run changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nspawn

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"

#: The fleet of the test hosts: our daemon and one that is not ours. Limits fit a container's 20,000 descriptors.
CONFIG: dict[str, Any] = {
    "service": {
        "echo": {
            "listen": [":7000"],
            "command": ["portfleet-daemon", "--port", "{port}", "--handler", "answer:respond"],
            "release": "v1",
            "releases": "/srv/echo",
            "environment": {"PYTHONPATH": "{release}"},
            "user": "portfleet",
            "instances": 2,
            "ports": "7100-7107",
            "max_connections": 4000,
        },
        "kv": {
            "listen": [":6379"],
            "command": ["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"],
            "user": "portfleet",
            "instances": 2,
            "ports": "7200-7207",
            "max_connections": 4000,
        },
    }
}


@dataclass(frozen=True)
class Run:
    """What one run of a playbook did: its exit code, all it printed, how long it took (seconds)."""

    code: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """The number of changed tasks by host."""
        return {name: int(number) for name, number in re.findall(r"^(\S+)\s+: ok=.*changed=(\d+)", self.output, re.M)}


class Ansible:
    """Ansible with an inventory of ``hosts`` in ``folder``."""

    def __init__(self, folder: Path, hosts: Mapping[str, nspawn.Host], wheels: Path) -> None:
        self.wheels = wheels
        self.inventory = folder / "inventory.json"
        self._releases = folder / "releases"
        self.config = CONFIG
        self.own: dict[str, dict[str, Any]] = {}
        self._hosts = hosts
        self.write_release("v1")
        self.write_inventory()

    def write_release(self, name: str, *, broken: bool = False) -> Path:
        """Write a release of the echo service, whose replies name it, and give its folder."""
        folder = self._releases / name
        folder.mkdir(parents=True, exist_ok=True)
        body = "raise SystemExit(7)\n" if broken else f'def respond(request):\n    return b"{name} " + request\n'
        (folder / "answer.py").write_text(body)
        return folder

    def write_inventory(self, **variables: Any) -> None:
        """Write the inventory, with ``variables`` over the usual ones, and over those each host's ``own``."""
        shared = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(next(iter(self._hosts.values())).key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "ansible_python_interpreter": "/usr/bin/python3",
            "portfleet_wheels": str(self.wheels),
            "portfleet_extra_packages": ["redis-server"],
            "portfleet_config": self.config,
            "portfleet_releases": [{"service": "echo", "name": "v1", "src": str(self._releases / "v1")}],
        }
        hosts = {name: {"ansible_host": host.address, **self.own.get(name, {})} for name, host in self._hosts.items()}
        content = {"boxes": {"hosts": hosts, "vars": shared | variables}}
        self.inventory.write_text(json.dumps(content, indent=2))

    def environment(self) -> dict[str, str]:
        """Return the environment for Ansible's commands."""
        own = {"ANSIBLE_INVENTORY": str(self.inventory), "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg")}
        own |= {"ANSIBLE_HOME": str(self.inventory.parent / "ansible"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
        return os.environ | own | {"PATH": f"{os.environ['PORTFLEET_HOSTS_BIN']}:{os.environ['PATH']}"}

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin a run of ``playbook``; its output comes through a pipe."""
        return subprocess.Popen(
            ["ansible-playbook", playbook, *arguments],
            cwd=ANSIBLE,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def play(self, playbook: str, *arguments: str, timeout: float = 600) -> Run:
        """Run ``playbook`` to its end."""
        began = time.monotonic()
        with self.start(playbook, *arguments) as process:
            output, _ = process.communicate(timeout=timeout)
        return Run(process.returncode, output, time.monotonic() - began)
