"""Looks at what is: the kernel's table, supervisord's programs, listening sockets, the daemons themselves."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from portfleet.apply.files import Files
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.model import Listen, parse_instance
from portfleet.core.observed import Observed, ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.program import WATCHER
from portfleet.core.slots import Table
from portfleet.core.states import RUNNING
from portfleet.daemons.probe import control_status, exchange, listening_fault, own_listeners
from portfleet.dataplane.interface import DataPlane
from portfleet.linux import processes, sockdiag
from portfleet.store import locks
from portfleet.store.out import read_out
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import ProgramInfo, Supervisor, Unreadable

#: How often, and how many seconds apart, connections of a program that is to be stopped are looked at again.
_LOOKS, _MOMENT = 5, 0.05


def observe(
    desired: Desired, *, plane: DataPlane, supervisor: Supervisor, paths: Paths, probe: bool = True
) -> Observed:
    """Look at everything that a plan or `status` needs. ``probe`` False leaves out the exchange through the ports."""
    running, programs = True, dict[str, ProgramInfo]()
    try:
        programs = supervisor.programs()
    except PortfleetError:
        running = False  # not there, or it is shutting down, which may begin at any moment
    look = Look(programs, paths, probe=probe)
    instances = {
        want.name: look.at(service, want) for service in desired.services.values() for want in service.instances
    }
    for name in programs:
        if name not in instances and parse_instance(name):
            instances[name] = look.at_surplus(name)
    rules = plane.observe()
    for service in desired.services.values():
        instances |= _elsewhere(service, instances, rules.slots.get(service.name, ()), plane, probed=probe)
    return Observed(
        plane=rules,
        supervisor=running,
        instances=instances,
        outdated=_outdated(desired, supervisor, paths, programs) if running and probe else frozenset(),
        strangers=look.strangers(desired),
        out=read_out(paths.out) if locks.held(paths.watch_lock) else {},
        watcher=WATCHER in programs and programs[WATCHER].state in RUNNING,
    )


class Look:
    """One look at the machine: sockets are listed once and shared by all instances."""

    def __init__(self, programs: dict[str, ProgramInfo], paths: Paths, *, probe: bool) -> None:
        self._programs, self._paths, self._probe = programs, paths, probe
        self._listeners = sockdiag.listeners()
        self._adopted = adopted.alive(paths.processes)
        self._established: Counter[int] | None = None

    def at(self, service: DesiredService, want: DesiredInstance) -> ObservedInstance:
        """Look at one wanted instance."""
        if want.rule.remote is not None:
            fault = exchange(want.rule.remote, service.service.probe) if self._probe else ""
            return ObservedInstance(ready=not fault, waiting=fault, connections=None)
        seen = self._process(want.name)
        if seen.pid is None or want.program is None:
            return seen
        own = own_listeners(seen.pid, want.rule.port, self._listeners)
        trouble, waiting = listening_fault(want.rule.port, service.service.families, own)
        control = Path(want.program.control)
        if want.ours:
            answer = control_status(control, seconds=service.service.probe.timeout)
            if isinstance(answer, str):
                return replace(seen, waiting=answer, connections=self._count(want.rule.port))
            seen = replace(seen, connections=int(answer["connections"]))
            if answer["state"] != "ready":
                return replace(seen, waiting=f"says it is {answer['state']}")
        else:
            seen = replace(seen, connections=self._count(want.rule.port))
        if trouble:
            return replace(seen, waiting=trouble) if waiting else replace(seen, fault=trouble)
        if self._probe and (trouble := exchange(_local(want), service.service.probe)):
            return replace(seen, waiting=trouble)
        return replace(seen, ready=seen.program in ("RUNNING", "STARTING"))

    def at_surplus(self, name: str) -> ObservedInstance:
        """Look at a program that nobody wants any more, and for a moment: a probe under way is not a client."""
        seen = self._process(name)
        connections = self._connections_of(name, seen.pid)
        for _ in range(_LOOKS if self._probe else 0):
            if not connections:
                break
            time.sleep(_MOMENT)
            self._established = None
            connections = min(connections, self._connections_of(name, seen.pid))
        return replace(seen, connections=connections)

    def _connections_of(self, name: str, pid: int | None) -> int:
        """Return the connections of a program of which nothing but its name is known."""
        answer = control_status(self._paths.control(name), seconds=0.5)
        if not isinstance(answer, str):
            return int(answer["connections"])
        ports = {
            listener.port
            for listener in self._listeners
            if pid and processes.owned(processes.tree(pid), {listener.inode})
        }
        return sum(self._count(port) for port in ports)

    def strangers(self, desired: Desired) -> dict[str, str]:
        """Give, by instance, who else listens on the port of an instance that is to be started."""
        found: dict[str, str] = {}
        by_port = {listener.port: listener for listener in self._listeners}
        for want in desired.instances():
            listener = by_port.get(want.rule.port)
            if want.program is None or listener is None or self._process(want.name).pid:
                continue
            found[want.name] = f"{listener} is taken by {processes.owner_of(listener.inode)}"
        return found

    def _process(self, name: str) -> ObservedInstance:
        info = self._programs.get(name)
        if (info is None or info.pid is None) and name in self._adopted:
            return ObservedInstance("RUNNING", self._adopted[name], adopted=True)
        if info is None:
            return ObservedInstance()
        fault, waiting = None, ""
        if info.state == "FATAL":  # supervisord keeps no exit status of a process that ended before startsecs
            fault = f"ended within a second of each start{self._last_words(name) or f': {info.error}'}"
        elif info.state == "EXITED":
            waiting = f"ended with exit code {info.exit_status}"
            if info.exit_status == 2:  # any other end is followed by a restart within moments
                fault, waiting = f"{waiting} (broken config)", ""
        since = max(info.started, info.stopped if info.pid is None else 0)
        return ObservedInstance(info.state, info.pid, since, info.exit_status, fault=fault, waiting=waiting)

    def _last_words(self, name: str) -> str:
        """Return the last line of an instance's log, where most daemons say why they end; "" if there is none."""
        try:
            with self._paths.log_of(name).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 500))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"; its last words: {''.join(c if c.isprintable() else '?' for c in last[:200])}" if last else ""

    def _count(self, port: int) -> int:
        if self._established is None:
            self._established = sockdiag.established()
        return self._established[port]


def _elsewhere(
    service: DesiredService, instances: Mapping[str, ObservedInstance], slots: Table, plane: DataPlane, *, probed: bool
) -> dict[str, ObservedInstance]:
    """Return what is known here of a service's remote instances: their connections, by the data plane's word.

    Without a probe who shall serve and was never given slots has not answered the watcher's probes yet.
    """
    found = {}
    remote = [want for want in service.instances if want.rule.remote is not None]
    counts = plane.connections.count(want.rule for want in remote)
    for want in remote:
        seen = replace(instances[want.name], connections=counts[want.name])
        share = want.takes and want.instance.member not in service.moved
        if not probed and share and any(slots) and want.name not in slots:
            seen = replace(seen, ready=False, waiting="has not answered the watcher's probes yet")
        found[want.name] = seen
    return found


def _local(want: DesiredInstance) -> Listen:
    return Listen(want.rule.port, None, (4, 6))


def _outdated(
    desired: Desired, supervisor: Supervisor, paths: Paths, programs: dict[str, ProgramInfo]
) -> frozenset[str]:
    """Return the programs that run otherwise than wanted: another file is wanted, or supervisord runs an older one."""
    try:
        _, changed, _ = supervisor.reload()
    except Unreadable:
        changed = set()  # `apply` puts the files right before it looks; `plan` says what it will do
    files = Files(desired, paths)
    changed |= {name for name in desired.programs if files.outdated(name, known=name in programs)}
    return frozenset(changed & desired.programs.keys())
