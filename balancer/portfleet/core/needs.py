"""What a fleet asks of its machine: numbers derived from the config. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from portfleet.core.model import Fleet, Listen
from portfleet.core.value import value

#: Descriptors of an instance that are not connections: its listeners, logs, epoll set, control socket.
OWN_DESCRIPTORS = 64


@value
class Needs:
    """What is needed.

    ``ports`` are those that clients are sent to, ``extra_ports`` what instances listen on beside them.
    ``connections`` is the fleet's peak, ``stated`` whether every service has ``max_connections`` (else the limit of
    descriptors bounds it);
    ``most`` the largest ``max_connections``; ``users`` whether instances run as other users; ``keepalive`` how long
    (seconds) a connection can be silent until the daemons' keepalive has spoken for the last time, or None if they do
    not say, so that the system's tcp_keepalive_time counts.
    """

    connections: int
    stated: bool
    most: int
    users: bool
    remote: bool
    keepalive: int | None
    listens: Mapping[Listen, str] = field(default_factory=dict)
    ports: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extra_ports: tuple[tuple[str, tuple[int, int]], ...] = ()

    @property
    def ranges(self) -> list[tuple[str, tuple[int, int]]]:
        """Every range of ports that instances listen on, with the service."""
        return [*self.ports.items(), *self.extra_ports]


def needs_of(fleet: Fleet, *, descriptors: int, keepalive: int | None) -> Needs:
    """Derive what ``fleet`` needs if a process may have ``descriptors``; ``keepalive`` is what the daemons say."""
    services = fleet.services.values()
    bound = descriptors - OWN_DESCRIPTORS
    return Needs(
        connections=sum((service.max_connections or bound) * service.instances for service in services),
        stated=all(service.max_connections for service in services),
        most=max((service.max_connections for service in services), default=0),
        users=any(service.user for service in services),
        remote=any(service.remote for service in services),
        keepalive=keepalive,
        listens={listen: service.name for service in services for listen in service.listen},
        ports={service.name: service.ports for service in services},
        extra_ports=tuple((s.name, span) for s in services for key, span in s.ranges.items() if key != "ports"),
    )
