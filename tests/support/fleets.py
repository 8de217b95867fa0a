"""Fleets for tests that need no machine: a config's text in, the values of the pipeline out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from portfleet.config.load import load
from portfleet.core.derive import make_desired
from portfleet.core.desired import Desired
from portfleet.core.errors import ConfigError, Problem
from portfleet.core.journal import Journal
from portfleet.core.model import Fleet, Machine
from portfleet.core.paths import Paths

#: A service with nothing but what must be there.
ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7107"
instances = 4
min_ready = "off"
"""

#: One whose two daemons answer each line with itself.
ECHO_TWO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-7107"
instances = 2
min_ready = "off"
"""

PATHS = Paths(Path("/h/fleet.toml"), Path("/h/lib"), Path("/h/run"), Path("/h/log"), home=Path("/h"))


def machine(
    *,
    cpus: int = 2,
    descriptors: int = 20_000,
    local_ports: tuple[int, int] = (32768, 60999),
    reserved: tuple[tuple[int, int], ...] = (),
    commands: Mapping[str, str] | None = None,
    users: tuple[str, ...] = ("nobody",),
    mapped: bool = True,
    paths: tuple[str, ...] = ("/srv", "/srv ;x"),
    is_root: bool = True,
    ipv6: bool = True,
) -> Machine:
    """Return a machine with the stated facts; it has portfleet-daemon and redis-server."""
    known = {"portfleet-daemon": "/venv/bin/portfleet-daemon", "redis-server": "/usr/bin/redis-server"}
    known |= commands or {}
    return Machine(
        cpus=cpus,
        descriptors=descriptors,
        local_ports=local_ports,
        reserved=reserved,
        find=known.get,
        has_user=lambda name: name in users,
        maps_user=lambda _: mapped,
        has_path=lambda path: path in paths,
        is_root=is_root,
        ipv6=ipv6,
    )


def fleet(text: str = ECHO, on: Machine | None = None) -> Fleet:
    """Load ``text`` as fleet.toml on the machine ``on``."""
    return load(text.encode(), on or machine(), source="fleet.toml")


def problems(text: str | bytes, on: Machine | None = None) -> tuple[Problem, ...]:
    """Return what is wrong with ``text``; nothing where it loads."""
    try:
        load(text if isinstance(text, bytes) else text.encode(), on or machine(), source="fleet.toml")
    except ConfigError as error:
        return error.problems
    return ()


def desired(text: str = ECHO, journal: Journal | None = None) -> Desired:
    """Return what shall be by ``text`` and ``journal``."""
    return make_desired(fleet(text), journal or Journal(), PATHS)
