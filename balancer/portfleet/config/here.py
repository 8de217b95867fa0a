"""Checks against this machine: commands, users, directories, limits, ports that outgoing connections take.

They are for a config that is about to be applied. What was applied stays what shall be, whatever the machine is later.
"""

from __future__ import annotations

from collections.abc import Iterator

from portfleet.core.errors import Problem
from portfleet.core.model import Fleet, Machine, Service
from portfleet.core.placeholders import placeholders


def misfits(fleet: Fleet, machine: Machine) -> list[Problem]:
    """Return every problem that a fleet has on this machine."""
    problems: list[Problem] = []
    for service in fleet.services.values():
        path = f"service.{service.name}"
        for check in (_command, _families, _limits, _local_ports):
            problems += check(service, path, machine)
    return [*problems, *_metrics(fleet, machine), *_on_event(fleet, machine)]


def _command(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    command = "".join(service.command[:1])
    # Of a file that is there and cannot be executed linux.executable says why.
    known = placeholders((command,)) or ("/" in command and machine.has_path(command)) or machine.find(command)
    if service.command and not known:
        hint = "install it, or give its absolute path; searched: portfleet's own venv, then /usr/local/bin, /usr/bin, …"
        yield Problem(f"{path}.command", f'"{command}" is not found', hint)
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


def _limits(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    if service.max_connections > machine.descriptors - 64:
        yield Problem(
            f"{path}.max_connections",
            f"max_connections = {service.max_connections} needs {service.max_connections + 64} descriptors a process, "
            f"the hard limit here is {machine.descriptors}",
            f"raise LimitNOFILE (or ulimit -Hn), or set max_connections to {machine.descriptors - 64} or less",
        )


def _metrics(fleet: Fleet, machine: Machine) -> Iterator[Problem]:
    user = fleet.metrics.user
    if user and not machine.has_user(user):
        yield Problem("metrics.user", f'this machine has no user "{user}"', f"useradd --system {user}")
    elif user and not machine.is_root:
        hint = "leave user out, or run as root"
        yield Problem("metrics.user", "only root can run the metrics' process as another user", hint)


def _on_event(fleet: Fleet, machine: Machine) -> Iterator[Problem]:
    if not fleet.on_event:
        return
    path, command = "fleet.on_event", fleet.on_event[0]
    if not machine.find(command):
        hint = "give its absolute path; searched: portfleet's own venv, then PATH"
        yield Problem(path, f'"{command}" is not found', hint)
    if machine.is_root and not (machine.has_user("nobody") and machine.maps_user("nobody")):
        hint = "run the fleet as the machine's root, or enter by: unshare --map-root-user --map-auto (uidmap)"
        yield Problem(path, 'there is no user "nobody" to run it as', hint)


def _local_ports(service: Service, path: str, machine: Machine) -> Iterator[Problem]:
    first, last = machine.local_ports
    for key, (low, high) in service.ranges.items() if service.ports != (0, 0) else ():
        reserved = any(begin <= low and high <= end for begin, end in machine.reserved)
        if low <= last and first <= high and not reserved:
            yield Problem(
                f"{path}.{key}",
                f'"{low}-{high}" lies in net.ipv4.ip_local_port_range ({first}-{last}): '
                "an outgoing connection could take an instance's port",
                f"choose ports below {first}, or reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={low}-{high}",
            )
