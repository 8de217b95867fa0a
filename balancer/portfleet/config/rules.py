"""Checks that need more than one key: ports against ports, placeholders, remote addresses. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from portfleet.config import boxes, own
from portfleet.config.reader import key_text, nearest
from portfleet.core import program
from portfleet.core.errors import Problem
from portfleet.core.model import Fleet, Listen, Service, family_of
from portfleet.core.placeholders import known, placeholders
from portfleet.core.printable import quantity


def cross_check(fleet: Fleet) -> list[Problem]:
    """Return every problem that shows only when keys are seen together."""
    problems: list[Problem] = []
    for service in fleet.services.values():
        path = f"service.{service.name}"
        for check in (_room, _placeholders, _writable, own.files, _remote, _weights):
            problems += check(service, path)
    problems += [*own.ports(fleet), *_listens(fleet), *_sources(fleet), *_metrics(fleet), *_page(fleet)]
    return [*problems, *boxes.check(fleet)]


def _room(service: Service, path: str) -> Iterator[Problem]:
    low, high = service.ports
    have, need = high - low + 1, 2 * service.instances
    if (low, high) != (0, 0) and have < need:
        yield Problem(
            f"{path}.ports",
            f'{quantity(service.instances, "instance")} per colour: {need} ports are needed, "{low}-{high}" has {have}',
            f'widen ports to "{low}-{low + need - 1}"',
        )
    if service.instances > service.slots:
        yield Problem(
            f"{path}.slots",
            f"{quantity(service.slots, 'slot')} cannot be shared by {quantity(service.instances, 'instance')}",
            f"set slots to {1 << (service.instances - 1).bit_length()} or more",
        )


def _placeholders(service: Service, path: str) -> Iterator[Problem]:
    places = {"command": service.command, "directory": (service.directory or "",)}
    places["environment_file"] = (service.environment_file or "",)
    places["probe.exec"] = service.probe.exec
    places |= {f"environment.{name}": (value,) for name, value in service.environment.items()}
    places |= {f"files.{key_text(target)}": (target, template) for target, template in service.files.items()}
    words = known(service.extra_ports)
    for key, texts in places.items():
        for word in sorted(placeholders(texts)):
            if word not in words:
                near = nearest(word, words)
                hint = f"did you mean {{{near}}}?" if near else f"known: {', '.join(f'{{{one}}}' for one in words)}"
                yield Problem(f"{path}.{key}", f"unknown placeholder {{{word}}}", hint)
            elif word == "release" and service.release is None:
                yield Problem(
                    f"{path}.{key}",
                    "{release} is used but no release is set",
                    f'set release in [service.{service.name}], for example release = "/srv/{service.name}/v1"',
                )
    told = {"port"} & placeholders((*service.command, *service.environment.values()))
    if service.command and not told and not service.files:  # what is in a template is seen where that is read
        yield Problem(
            f"{path}.command",
            "command and environment never use {port}, so instances cannot learn their port",
            'for example command = ["redis-server", "--port", "{port}"]',
        )


def _writable(service: Service, path: str) -> Iterator[Problem]:
    texts = program.texts_of(service, service.command)
    if not service.command or placeholders(texts) - set(known(service.extra_ports)):
        return  # which has been said
    if trouble := program.unwritable(service.releases or ""):
        yield Problem(f"{path}.releases", trouble, "choose another directory")
        return
    for place, trouble in program.troubles(service, release=service.release, command=service.command).items():
        key, *name = place.split(".")
        where = ".".join([path, key, *map(key_text, name)])
        yield Problem(where, trouble, "put it into a file that the daemon reads, or a script of your own")


def _remote(service: Service, path: str) -> Iterator[Problem]:
    for number, listen in enumerate(service.listen):
        if service.remote and _is_loopback(listen):
            yield Problem(
                f"{path}.listen[{number}]",
                f'"{listen}" is dialed by clients on this box only, and those get local instances only: '
                "no connection would ever go to remote",
                f'listen on ":{listen.port}", or leave remote out',
            )
    for number, remote in enumerate(service.remote):
        if service.remote_snat and not {*remote.families} <= set(map(family_of, service.remote_snat)):
            yield Problem(
                f"{path}.remote_snat",
                f'has no IPv{remote.families[0]} address, which remote "{remote}" would have to see',
                "give one of each family that remote has, or leave remote_snat out",
            )
        if _is_loopback(remote):
            yield Problem(
                f"{path}.remote[{number}]",
                f'"{remote}" is this box itself',
                "instances on this box are what command, ports and instances say; remote names another box",
            )
        for listen in service.listen:
            for family in listen.families:
                if family not in remote.families:
                    kind = {4: "IPv4", 6: "IPv6"}
                    hint = f'listen on "0.0.0.0:{listen.port}"' if family == 6 else f'listen on "[::]:{listen.port}"'
                    yield Problem(
                        f"{path}.remote[{number}]",
                        f'"{remote}" takes {kind[remote.families[0]]} only, '
                        f'but listen "{listen}" lets {kind[family]} clients in',
                        hint,
                    )


def _is_loopback(listen: Listen) -> bool:
    return listen.address is not None and ipaddress.ip_address(listen.address).is_loopback


def _weights(service: Service, path: str) -> Iterator[Problem]:
    members = [str(number + 1) for number in range(service.instances)]
    members += [f"remote-{number + 1}" for number in range(len(service.remote))]
    for member in service.weight:
        if member not in members:
            yield Problem(
                f"{path}.weight.{key_text(member)}",
                f'there is no instance "{member}"',
                f"members are {members[0]} … {members[-1]}",
            )
    if all(service.weight.get(member, 1) == 0 for member in members):
        hint = "leave at least one instance its weight; to stop a service: portfleet down SERVICE"
        yield Problem(f"{path}.weight", "every instance has weight 0, so none would serve", hint)


def _listens(fleet: Fleet) -> Iterator[Problem]:
    seen: dict[tuple[int, str | None, int], tuple[str, Listen]] = {}
    for service in fleet.services.values():
        for number, listen in enumerate(service.listen):
            for family in listen.families:
                key = (listen.port, listen.address, family)
                if key in seen and seen[key][0] != service.name:
                    yield Problem(
                        f"service.{service.name}.listen[{number}]",
                        f'"{listen}" is taken by service {seen[key][0]} ("{seen[key][1]}")',
                        "give each service its own port or address",
                    )
                    break
                seen[key] = (service.name, listen)


def _sources(fleet: Fleet) -> Iterator[Problem]:
    seen: dict[Listen, Service] = {}
    for service in fleet.services.values():
        for remote in service.remote:
            first = seen.setdefault(remote, service)
            if first.remote_snat != service.remote_snat:
                yield Problem(
                    f"service.{service.name}.remote_snat",
                    f'is not that of service {first.name}, which has the instance "{remote}" too',
                    "write the same in both",
                )


def _metrics(fleet: Fleet) -> Iterator[Problem]:
    listen = fleet.metrics.listen
    if listen is None:
        return
    for service in fleet.services.values():
        low, high = service.ports
        if low <= listen.port <= high or any(listen.port == other.port for other in service.listen):
            words = f"port {listen.port} is one of service {service.name}"
            yield Problem("metrics.listen", words, "give it a port of its own")


def _page(fleet: Fleet) -> Iterator[Problem]:
    if fleet.page.token_file is not None and fleet.metrics.listen is None:
        words = "there is no page: [metrics] listen is not set"
        yield Problem("page.token_file", words, 'set listen in [metrics], for example listen = "127.0.0.1:9797"')
