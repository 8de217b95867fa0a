"""The nouns of the config: fleet, service, listen address, affinity, instance. Values only.

A key's default stands here, with its field, and nowhere else: config/settings, which has the rest of every key, takes
it from the field.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from sys import intern
from typing import Literal

from portfleet.core.digits import whole
from portfleet.core.policies import Drain, Forward, Probe
from portfleet.core.value import value

Colour = Literal["blue", "green"]
COLOURS: tuple[Colour, Colour] = ("blue", "green")

Overflow = Literal["next", "refuse"]
WhenEmpty = Literal["keep", "refuse", "drop"]
ControlUse = Literal["auto", "off"]
Drift = Literal["repair", "report"]
DataPlaneName = Literal["nftables", "haproxy"]
StopSignal = Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"]
#: What a daemon may be told while it serves; the rest ends or halts a process that does not expect it.
LiveSignal = Literal["HUP", "USR1", "USR2", "WINCH", "INT", "QUIT", "ALRM", "CONT", "TTIN", "TTOU"]


def other(colour: Colour) -> Colour:
    """Return the other colour."""
    return "green" if colour == "blue" else "blue"


@dataclass(frozen=True, order=True)
class Listen:
    """One address clients dial. ``address`` is None for every local address; ``families`` holds 4, 6 or both."""

    port: int
    address: str | None
    families: tuple[Literal[4, 6], ...]

    def __str__(self) -> str:
        if self.address is None:
            wild = "" if len(self.families) == 2 else "0.0.0.0" if 4 in self.families else "[::]"
            return f"{wild}:{self.port}"
        return f"[{self.address}]:{self.port}" if 6 in self.families else f"{self.address}:{self.port}"


@value
class Affinity:
    """How a new connection finds its slot. Prefixes are in bits and count for ``source`` only."""

    kind: Literal["source", "connection", "round-robin", "random"]
    prefix4: int = 32
    prefix6: int = 64

    @property
    def deterministic(self) -> bool:
        """Return whether the same client always meets the same slot."""
        return self.kind in ("source", "connection")

    def __str__(self) -> str:
        if self.kind != "source" or (self.prefix4, self.prefix6) == (32, 64):
            return self.kind
        return f"source/{self.prefix4}" + (f"/{self.prefix6}" if self.prefix6 != 64 else "")


@value
class Launch:
    """How instances are started, but for their release: what two colours of a service can have differently."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str | None
    user: str | None
    releases: str | None
    umask: str = "022"
    stop_signal: StopSignal = "TERM"
    files: Mapping[str, str] = field(default_factory=dict)
    environment_file: str | None = None
    cpus: str | None = None
    memory_max: int | None = None


@value
class Service:
    """One service of fleet.toml, validated. Durations are in seconds, ``ports`` is inclusive, ``umask`` octal digits.

    ``extra_ports`` are {name: the first instance's port}; ``files`` are {path: template}, both with placeholders.
    ``memory_max`` is in bytes.

    ``control``: instances that answer on their control sockets are asked there ("auto"), or none ever is ("off").
    """

    name: str
    listen: tuple[Listen, ...]
    command: tuple[str, ...]
    ports: tuple[int, int]
    instances: int
    release: str | None = None
    releases: str | None = None
    directory: str | None = None
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    control: ControlUse = "auto"
    slots: int = 4096
    affinity: Affinity = field(default_factory=lambda: Affinity("source"))
    sticky: float | None = None
    sticky_size: int = 300_000
    weight: Mapping[str, int] = field(default_factory=dict)
    max_connections: int = 0
    max_per_source: int = 0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    overflow: Overflow = "next"
    when_empty: WhenEmpty = "keep"
    send_proxy: bool = False
    remote: tuple[Listen, ...] = ()
    remote_snat: tuple[str, ...] | None = None
    start_timeout: float = 30.0
    min_ready: float | None = 5.0
    keep_releases: int = 3
    stop_signal: StopSignal = "TERM"
    stop_timeout: float = 10.0
    reload_signal: LiveSignal | None = None
    umask: str = "022"
    extra_ports: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    environment_file: str | None = None
    cpus: str | None = None
    memory_max: int | None = None
    probe: Probe = field(default_factory=Probe)
    drain: Drain = field(default_factory=Drain)

    @property
    def families(self) -> frozenset[Literal[4, 6]]:
        """The address families clients come by."""
        return frozenset(family for listen in self.listen for family in listen.families)

    @property
    def most_instances(self) -> int:
        """How many instances a colour can have: its half of the ports."""
        return (self.ports[1] - self.ports[0] + 1) // 2

    def port_of(self, colour: Colour, number: int) -> int:
        """Return the port of instance ``number`` (from 1): blue takes the lower half of ``ports``, green the upper."""
        low, high = self.ports
        return low + (number - 1) + (0 if colour == "blue" else (high - low + 1) // 2)

    @property
    def ranges(self) -> Mapping[str, tuple[int, int]]:
        """Every range of ports that instances listen on, by key; both ends belong to it."""
        low, high = self.ports
        return {"ports": self.ports} | {
            f"extra_ports.{name}": (first, first + high - low) for name, first in self.extra_ports.items()
        }

    def extra_of(self, port: int) -> dict[str, int]:
        """Return the other ports of the instance that listens on ``port``, by name."""
        return {name: first + port - self.ports[0] for name, first in self.extra_ports.items()}

    @property
    def launch(self) -> Launch:
        """How its instances are started."""
        return Launch(**{key.name: getattr(self, key.name) for key in fields(Launch)})

    def launched(self, launch: Launch | None) -> Service:
        """Return the service with instances that are started by ``launch``; None: as they are."""
        return self if launch is None else replace(self, **vars(launch))


@value
class Metrics:
    """The process of the metrics and the page: where it listens (None: there is none) and who it runs as.

    ``user`` None: an unprivileged one if the fleet is root's, otherwise the fleet's own.
    """

    listen: Listen | None = None
    user: str | None = None


@value
class Page:
    """The page that the metrics' process serves. ``token_file`` None: it is read-only."""

    token_file: str | None = None


@value
class Fleet:
    """The whole fleet.toml."""

    services: Mapping[str, Service]
    drift: Drift = "repair"
    dataplane: DataPlaneName = "nftables"
    haproxy_processes: int = 2
    metrics: Metrics = field(default_factory=Metrics)
    page: Page = field(default_factory=Page)
    forward: Forward = field(default_factory=Forward)
    on_event: tuple[str, ...] = ()

    @property
    def inside(self) -> bool:
        """Return whether instances are reached over 127.0.0.1 only, and not by what clients dial."""
        return self.dataplane == "haproxy"


@dataclass(frozen=True, order=True)
class Instance:
    """The identity of an instance. ``colour`` is None for one on another box."""

    service: str
    colour: Colour | None
    number: int

    @cached_property
    def name(self) -> str:
        """The one name it has everywhere: CLI, log, data plane, supervisor program."""
        # Tables of 4,096 names are compared all the time, which is quick for names that are the same object.
        return intern(f"{self.service}-{self.colour or 'remote'}-{self.number}")

    @property
    def member(self) -> str:
        """Its name in a home table, the same for both colours, so that green mirrors blue."""
        return str(self.number) if self.colour else f"remote-{self.number}"


def differing(one: Service | Launch, another: Service | Launch) -> tuple[str, ...]:
    """Return the keys in which two services differ, or how two are started."""
    return tuple(f.name for f in fields(one) if getattr(one, f.name) != getattr(another, f.name))


def seed_of(service: str) -> int:
    """Return a new service's seed: by its name, so that a standby box with the same config renders the same table."""
    return zlib.crc32(service.encode()) & 0x7FFFFFFF


def family_of(address: str) -> Literal[4, 6]:
    """Return the family of an IP address."""
    return 6 if ":" in address else 4


def parse_instance(name: str) -> Instance | None:
    """Read an instance's name back; None when it is not one."""
    head, _, number = name.rpartition("-")
    service, _, colour = head.rpartition("-")
    if not service or colour not in ("blue", "green", "remote"):
        return None
    kind: Colour | None = "blue" if colour == "blue" else "green" if colour == "green" else None
    try:
        return Instance(service, kind, whole(number))
    except ValueError:
        return None


def member_instance(service: str, member: str, live: Colour) -> Instance:
    """Return the instance that a member of a home table stands for while ``live`` is the live colour."""
    if member.startswith("remote-"):
        return Instance(service, None, int(member.removeprefix("remote-")))
    return Instance(service, live, int(member))


@value
class Machine:
    """What the config's checks need to know of this machine, read once by the caller.

    ``find`` gives a command's absolute path or None; ``has_user`` and ``has_path`` tell whether one exists;
    ``real`` gives a path without symbolic links;
    ``maps_user`` tells of a user that exists whether processes of this user namespace can become it;
    ``local_ports`` is net.ipv4.ip_local_port_range, ``reserved`` net.ipv4.ip_local_reserved_ports, both inclusive;
    ``descriptors`` is the hard limit of RLIMIT_NOFILE; ``ipv6``: its kernel has IPv6, if only switched off by sysctl.
    """

    cpus: int
    descriptors: int
    local_ports: tuple[int, int]
    reserved: tuple[tuple[int, int], ...]
    find: Callable[[str], str | None]
    has_user: Callable[[str], bool]
    maps_user: Callable[[str], bool]
    has_path: Callable[[str], bool]
    is_root: bool
    ipv6: bool = True
    real: Callable[[str], str] = str
