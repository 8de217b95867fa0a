"""What this machine must have for HAProxy, what of a fleet cannot be behind it, and the programs that run it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Fleet, Listen, Service
from portfleet.core.needs import Needs
from portfleet.core.printable import quantity
from portfleet.core.program import Program
from portfleet.dataplane.haproxy.client import program_of
from portfleet.dataplane.haproxy.text import Place
from portfleet.doctor.finding import Finding, broken, fine, warning
from portfleet.linux.machine import descriptor_limit, read_machine

#: The first version that adds servers at run time without calling that an experiment.
_OLDEST = (2, 6)
#: Where distributions put it; an ordinary user's PATH need not have it.
_SBIN = "/usr/local/sbin:/usr/sbin"
#: Descriptors that are not connections' (HAProxy 2.6 itself takes 22 to 26).
_OWN = 64
_INSTALL = "apt-get install haproxy (as root, once; its own service need not run), or have haproxy in PATH"
_NET_BIND_SERVICE = 10


def binary() -> str:
    """Return the program's path; raise PortfleetError (exit 3) if there is none."""
    found = shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), _SBIN]))
    if found is None:
        raise PortfleetError("haproxy is not found in PATH or /usr/sbin", hint=_INSTALL, code=Exit.KERNEL)
    return found


@cache
def version(path: str) -> tuple[int, int]:
    """Return the version of the program at ``path``; (0, 0) if it does not say."""
    try:
        said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False, timeout=10).stdout
    except OSError:
        return 0, 0
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def missing() -> list[str]:
    """Return what this machine lacks, a line each."""
    try:
        path = binary()
    except PortfleetError as error:
        return [error.message]
    found = version(path)
    if found < _OLDEST:
        return [f"{path} is version {found[0]}.{found[1]}; {_OLDEST[0]}.{_OLDEST[1]} or later is needed"]
    return []


def problems(fleet: Fleet) -> list[Problem]:
    """Return what of ``fleet`` cannot be behind HAProxy, or not as this user on this machine."""
    found = [Problem("fleet.dataplane", words, _INSTALL) for words in missing()]
    for service in fleet.services.values():
        path = f"service.{service.name}"
        found += _unsupported(service, path, fleet.haproxy_processes)
        for number, listen in enumerate(service.listen):
            found += _unbindable(listen, f"{path}.listen[{number}]")
    return found


def _unsupported(service: Service, path: str, processes: int) -> Iterator[Problem]:
    if service.when_empty == "drop":
        yield Problem(
            f"{path}.when_empty",
            '"drop" needs CAP_NET_ADMIN: HAProxy accepts a connection before it can leave it unanswered',
            'write "refuse" (HAProxy closes the connection) or "keep"',
        )
    if service.remote_snat is not None:
        yield Problem(
            f"{path}.remote_snat",
            "HAProxy makes connections of its own to remote instances, from this box's address",
            "leave it out",
        )
    if service.max_per_source and processes > 1:
        yield Problem(
            f"{path}.max_per_source",
            f"HAProxy counts a source's connections in each of its {processes} processes by itself",
            "set haproxy_processes = 1 in [fleet], or leave max_per_source out",
        )
    if service.max_connections and service.max_connections < processes:
        yield Problem(
            f"{path}.max_connections",
            f"is less than haproxy_processes ({processes}), each of which counts for its share",
            "set haproxy_processes = 1 in [fleet]",
        )


def _unbindable(listen: Listen, path: str) -> Iterator[Problem]:
    """HAProxy does not start at all if it cannot bind one of its addresses, and serves no service then."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if listen.port < first and not _may_bind_any():
        yield Problem(
            path,
            f'"{listen}": an ordinary user cannot listen on ports below {first}',
            f"choose a port from {first} on, or as root: sysctl -w net.ipv4.ip_unprivileged_port_start={listen.port}",
        )
    if listen.address is not None and not _is_here(listen.address):
        yield Problem(
            path,
            f'"{listen}": no interface of this box has that address, and HAProxy could not start',
            f'listen on ":{listen.port}", or give an interface the address first',
        )


def _may_bind_any() -> bool:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> _NET_BIND_SERVICE & 1)


def _is_here(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def programs(place: Place, log: Path) -> Mapping[str, Program]:
    """Return the HAProxy processes that supervisord is to run: each a master with a worker, which it can reload."""
    found = {}
    for number in place.numbers:
        name = program_of(place.config(number))
        found[name] = Program(
            name=name,
            command=(
                binary(), "-W", "-S", f"{place.master(number)},mode,600",
                "-f", str(place.config(number)), "-f", str(place.services),
            ),
            environment={},
            log=str(log / f"{name}.log"),
            control="",
            stop_seconds=10,
        )  # fmt: skip
    return found


def findings(fleet: Fleet, needs: Needs) -> Iterator[Finding]:
    """Return what the machine lacks for the fleet behind HAProxy, with what makes it so."""
    lacks = missing()
    for words in lacks:
        yield broken("haproxy", words, why="no client could be let in", mend=_INSTALL)
    if not lacks:
        path = binary()
        yield fine("haproxy", f"{path} is version {'.'.join(map(str, version(path)))}")
    for problem in problems(fleet):
        if problem.path != "fleet.dataplane":
            yield broken(problem.path, problem.message, why="portfleet up refuses this", mend=problem.hint)
    yield _descriptors(fleet.haproxy_processes, needs)
    yield from _ports(fleet)


def _descriptors(processes: int, needs: Needs) -> Finding:
    hard = descriptor_limit()
    most = (hard - _OWN) // 2
    each = needs.connections // processes
    words = f"{hard:,} descriptors, {quantity(most, 'connection')} in each of {quantity(processes, 'HAProxy process')}"
    if not needs.stated or each <= most:
        return fine("haproxy descriptors", words)
    return warning(
        "haproxy descriptors",
        f"{words}; the fleet may have {needs.connections:,}",
        why="each connection takes two descriptors; what is over it waits in the backlog without a word",
        mend=f"ulimit -Hn {2 * each + _OWN} (LimitNOFILE= or /etc/security/limits.conf), or more haproxy_processes",
    )


def _ports(fleet: Fleet) -> Iterator[Finding]:
    low, high = read_machine().local_ports
    each = (high - low + 1) * fleet.haproxy_processes
    for service in fleet.services.values():
        if service.max_connections > each:
            yield warning(
                f"haproxy ports of {service.name}",
                f"max_connections = {service.max_connections}, HAProxy has {each:,} ports to an instance",
                why="each process connects from one address, by net.ipv4.ip_local_port_range; more clients are closed",
                mend=f"haproxy_processes = {-(-service.max_connections // (high - low + 1))} in [fleet]",
            )
