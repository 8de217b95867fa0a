"""Checks that need more than one key: ports against ports, placeholders, commands, users, remote addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from portfleet.config import own
from portfleet.config.reader import key_text, nearest
from portfleet.core import program
from portfleet.core.errors import Problem
from portfleet.core.model import Fleet, Listen, Machine, Service
from portfleet.core.placeholders import known, placeholders


def cross_check(fleet: Fleet, machine: Machine, *, broken: set[str]) -> list[Problem]:
    """Return every problem that shows only when keys are seen together; ``broken`` are paths already reported."""
    problems: list[Problem] = []
    for service in fleet.services.values():
        path = f"service.{service.name}"
        for check in (_room, _placeholders, _writable, _command, own.files, _families, _remote, _weights, _limits):
            problems += check(service, path, machine)
    problems += own.ports(fleet, machine)
    problems += _listens(fleet)
    return [p for p in problems if p.path.split("[")[0] not in broken]


def _room(service: Service, path: str, _: Machine) -> Iterator[Problem]:
    low, high = service.ports
    have, need = high - low + 1, 2 * service.instances
    if (low, high) != (0, 0) and have < need:
        yield Problem(
            f"{path}.ports",
            f'{service.instances} instances per colour need {need} ports, "{low}-{high}" has {have}',
            f'widen ports to "{low}-{low + need - 1}"',
        )
    if service.instances > service.slots:
        yield Problem(
            f"{path}.slots",
            f"{service.slots} slots cannot be shared by {service.instances} instances",
            f"set slots to {1 << (service.instances - 1).bit_length()} or more",
        )


def _placeholders(service: Service, path: str, _: Machine) -> Iterator[Problem]:
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


def _writable(service: Service, path: str, _: Machine) -> Iterator[Problem]:
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


def _command(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    if service.command and not placeholders(service.command[:1]) and not machine.find(service.command[0]):
        hint = "install it, or give its absolute path; searched: portfleet's own venv, then /usr/local/bin, /usr/bin, …"
        yield Problem(f"{path}.command", f'"{service.command[0]}" is not found', hint)
    probe = service.probe.exec
    if probe and not placeholders(probe[:1]) and not machine.find(probe[0]):
        yield Problem(f"{path}.probe.exec", f'"{probe[0]}" is not found', "install it, or give its absolute path")
    if service.user and not machine.has_user(service.user):
        hint = f"useradd --system {service.user}"
        yield Problem(f"{path}.user", f'this machine has no user "{service.user}"', hint)
    elif service.user and not machine.is_root:
        yield Problem(f"{path}.user", "only root can run instances as another user", "leave user out, or run as root")
    elif service.user and not machine.maps_user(service.user):
        hint = "leave user out, run as the machine's root, or enter by: unshare --map-root-user --map-auto (uidmap)"
        yield Problem(f"{path}.user", f'this user namespace has no user "{service.user}" (/proc/self/uid_map)', hint)
    if service.directory and not placeholders((service.directory,)) and not machine.has_path(service.directory):
        yield Problem(f"{path}.directory", f"{service.directory} does not exist", f"mkdir -p {service.directory}")


def _families(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    for key, listens in (("listen", service.listen), ("remote", service.remote)):
        for number, listen in enumerate(listens):
            if listen.families == (6,) and not machine.ipv6:
                yield Problem(
                    f"{path}.{key}[{number}]",
                    f'"{listen}" is IPv6, which this kernel does not have (ipv6.disable=1, or no module ipv6)',
                    f'write "0.0.0.0:{listen.port}"' if key == "listen" else "write the box's IPv4 address",
                )


def _remote(service: Service, path: str, _: Machine) -> Iterator[Problem]:
    for number, listen in enumerate(service.listen):
        if service.remote and _is_loopback(listen):
            yield Problem(
                f"{path}.listen[{number}]",
                f'"{listen}" is dialed by clients on this box only, and those get local instances only: '
                "no connection would ever go to remote",
                f'listen on ":{listen.port}", or leave remote out',
            )
    for number, remote in enumerate(service.remote):
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


def _weights(service: Service, path: str, _: Machine) -> Iterator[Problem]:
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


def _limits(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    if service.max_connections > machine.descriptors - 64:
        yield Problem(
            f"{path}.max_connections",
            f"{service.max_connections} connections need {service.max_connections + 64} descriptors per process, "
            f"the hard limit here is {machine.descriptors}",
            f"raise LimitNOFILE (or ulimit -Hn), or set max_connections to {machine.descriptors - 64} or less",
        )


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
