"""Two boxes and clients on one network segment, each box with a fleet of its own; connections move between them.

clients  192.0.2.2, 2001:db8::2      a bridge with both boxes as its ports
one      192.0.2.1, 2001:db8::1      also has the service's address 192.0.2.100, 2001:db8::100
two      192.0.2.3, 2001:db8::3
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fleet_box import HOME, PORTFLEET
from support.reachable import show_checkout
from support.sandbox import Box, make_box

SERVICE4, SERVICE6 = "192.0.2.100", "2001:db8::100"
ONE, TWO = "192.0.2.1", "192.0.2.3"
_SHELL = Path(__file__).with_name("far_shell.py")
FAULT, CUT = "/run/fault", "/run/cut"
WAYS = {"PORTFLEET_SSH": f"/usr/bin/python3 {_SHELL} call 2222"}
_CUTTER = Path(__file__).with_name("cut_stream.py")
_TALKERS = Path(__file__).with_name("talkers.py")


@dataclass(frozen=True)
class Pair:
    """The boxes. What stands for ssh between them runs commands where it is called, by address."""

    clients: Box
    one: Box
    two: Box

    def portfleet(
        self, box: Box, *words: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb on ``box``."""
        return box.run(PORTFLEET, "--home", HOME, *words, check=check, env={**WAYS, **(env or {})}, timeout=120)

    def cut_at(self, moment: str) -> Mapping[str, str]:
        """Return the environment in which the next stream from box one is cut at ``moment`` (see `cut_stream`)."""
        self.one.path(CUT).write_text(moment)
        return {"PORTFLEET_SSH": f"/usr/bin/python3 {_CUTTER} {CUT} {WAYS['PORTFLEET_SSH']}"}

    def kill_at(self, box: Box, point: str) -> None:
        """Have the next process of ``box`` that passes the fault ``point`` killed there."""
        box.path(FAULT).write_text(point)

    def connections(self, box: Box) -> dict[str, int]:
        """Return how many connections each instance has on ``box``."""
        said = self.portfleet(box, "status", "--json", check=False).stdout
        return {one["name"]: one["connections"] for one in json.loads(said)["services"][0]["instances"]}


class Talkers:
    """Clients that talk all the time, by numbered requests whose replies are compared byte for byte."""

    def __init__(self, box: Box, **job: Any) -> None:
        self._process = box.popen("/usr/bin/python3", str(_TALKERS))
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said == "connected\n", said + (self._process.stderr.read() if self._process.stderr else "")

    def stop(self) -> dict[str, Any]:
        """Have them end, each with its replies; return what they met."""
        out, err = self._process.communicate("stop\n", timeout=60)
        assert self._process.returncode == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def close(self) -> None:
        """End them in any case, which the end of their input does."""
        if self._process.poll() is None:
            self._process.communicate(timeout=60)


@contextmanager
def pair(config: str, *, other: str = "") -> Iterator[Pair]:
    """Return two boxes with the fleet ``config`` up on both, or ``other`` on the second.

    A process of either box is killed at the fault point that `kill_at` names.
    """
    made: list[Box] = []
    servers: list[subprocess.Popen[str]] = []
    try:
        for name in ("clients", "one", "two"):
            made.append(make_box(name))
        clients, one, two = made
        clients.ip("link add br0 type bridge", "addr add 192.0.2.2/24 dev br0", "addr add 2001:db8::2/64 dev br0 nodad")
        for box, last in ((one, 1), (two, 3)):
            clients.ip(f"link add to-{box.name} type veth peer name eth0 netns {box.pid}")
            clients.ip(f"link set to-{box.name} master br0", f"link set to-{box.name} up")
            box.ip(f"addr add 192.0.2.{last}/24 dev eth0", f"addr add 2001:db8::{last}/64 dev eth0 nodad")
            box.ip("link set eth0 up")
        clients.ip("link set br0 up", "route add local 198.18.0.0/15 dev lo", "route add local 2001:db8:1::/48 dev lo")
        clients.sysctl("net.ipv6.ip_nonlocal_bind", "1")
        one.ip(f"addr add {SERVICE4}/24 dev eth0", f"addr add {SERVICE6}/64 dev eth0 nodad")
        for box in (one, two):
            show_checkout(box)
            box.ip("route add 198.18.0.0/15 via 192.0.2.2", "route add 2001:db8:1::/48 via 2001:db8::2")
            text = other if other and box is two else config
            box.run("sh", "-c", f"mkdir -p {HOME} && cat > {HOME}/fleet.toml", text=text)
            path = f"{Path(PORTFLEET).parent}:{os.environ['PATH']}"
            env = {"PATH": path, "PORTFLEET_HOME": HOME, "PORTFLEET_FAULT_ONCE": FAULT}
            server = box.popen("/usr/bin/python3", str(_SHELL), "serve", "2222", env=env)
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            servers.append(server)
            box.run(PORTFLEET, "--home", HOME, "up", timeout=120, env=env)
        yield Pair(clients, one, two)
    finally:
        for box in made:
            box.close()
        for server in servers:
            server.communicate()


def sources(count: int) -> Sequence[tuple[str, str]]:
    """Return (service address, client address) of ``count`` clients, IPv4 and IPv6 in turns."""
    four = [(SERVICE4, f"198.18.{number // 250}.{number % 250 + 1}") for number in range(count // 2)]
    six = [(SERVICE6, f"2001:db8:1:{number:x}::1") for number in range(count - count // 2)]
    return [*four, *six]
