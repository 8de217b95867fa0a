"""HAProxy as the data plane: processes of an ordinary user, told what their files say.

A transaction is checked as a value, written to the files, and then told to each process that runs: by maps, weights and
servers, or by a reload if the rules themselves differ. It is not one moment for all processes: for some milliseconds a
client's slot may depend on which one takes its connection, and each order of changes keeps every slot led somewhere.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Affinity, Fleet
from portfleet.core.needs import Needs
from portfleet.core.observed import OwnProcess
from portfleet.core.program import Program
from portfleet.core.slots import Table
from portfleet.dataplane.haproxy import running, text
from portfleet.dataplane.haproxy.affinity import slot_for, source_of
from portfleet.dataplane.haproxy.client import ask, program_of
from portfleet.dataplane.haproxy.connections import HaproxyConnections
from portfleet.dataplane.haproxy.difference import difference
from portfleet.dataplane.haproxy.files import Files
from portfleet.dataplane.haproxy.machine import binary
from portfleet.dataplane.haproxy.state import State, Unit, after, listens, service_of
from portfleet.dataplane.haproxy.text import Place
from portfleet.dataplane.interface import Address, Guardian, Traits
from portfleet.doctor.finding import Finding

TRAITS = Traits(
    name="haproxy",
    words="HAProxy's files",
    requires="Debian 12 and later have it: apt-get install haproxy (2.6 or later; its own service need not run)",
    place="this home's directory run/haproxy",
    listen="loopback",
    families=frozenset({4}),
    sees_clients=False,
    guards_ports=False,
    survives=False,
    own_clients_apart=False,
    services_at_once=1000,
    slots_at_once=65536,
    slots_unnoticed=65536,
)


class HaproxyPlane:
    """See `DataPlane`. Its files and sockets are in ``folder``; ``processes``: how many HAProxies share the clients."""

    traits = TRAITS

    def __init__(self, folder: Path, *, log: Path, processes: int) -> None:
        self._place, self._log = Place(folder, processes), log
        self._files = Files(self._place)
        self._printed: State | None = None
        self.connections = HaproxyConnections(self._place)

    def slot_of(self, affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
        return slot_for(affinity, address, port, seed=seed, slots=slots)

    def table_for_own_clients(self, table: Table, local: Collection[str]) -> Table:
        return tuple(name if name in local else None for name in table)

    def version(self) -> None:
        return None

    def observe(self) -> c.PlaneState:
        found = self._files.read()
        state = found.state
        if state.fleet is None:
            return c.PlaneState()
        drift = set(found.forgotten)
        for name in found.forgotten & state.units.keys():
            drift |= state.units[name].instances.keys()
        if found.current and not drift:
            drift |= self._files.differs(state)
            for client in running.clients(self._place):
                drift.update(running.drift(client, state, self._place))
        unsure = drift if found.current else state.units.keys() | drift
        instances = {name: rule for unit in state.units.values() for name, rule in unit.instances.items()}
        diverted = {name for unit in state.units.values() for name in unit.diverted}
        drift |= diverted
        return c.PlaneState(
            fleet=state.fleet,
            stale=frozenset() if found.current else frozenset({""}),
            services={name: None if name in unsure else rule for name, rule, _ in state.services()},
            instances={name: None if name in drift else rule for name, rule in instances.items()},
            slots={name: unit.slots for name, _, unit in state.services()},
            pins={name: unit.pins for name, unit in state.units.items() if unit.pins},
            unsettled=frozenset(name for name, rule, unit in state.services() if not _settled(rule, unit)),
            access={name: unit.access for name, rule, unit in state.services() if rule.filters and unit.access != _ALL},
            listens=listens(state),
            drift=frozenset(drift),
        )

    def read_slots(self, service: str) -> Table:
        return self._files.unit(service).slots

    def remembered(self, rule: c.ServiceRule, address: Address) -> str | None:
        if rule.sticky is None:
            return None
        source = source_of(rule.affinity, address)
        key = f"::ffff:{source}" if source.version == 4 else str(source)
        unit = self._files.unit(rule.name)
        numbers = {str(one.number): name for name, one in unit.instances.items()}
        for client in running.clients(self._place):
            answer = ask(client.socket, f"show table {rule.name}:sticky key {key}")
            mark = answer.rpartition("gpt0=")[2].strip()
            if mark in numbers:
                return numbers[mark]
        return None

    def home(self) -> str | None:
        fleet = self._files.read().state.fleet
        return fleet.home if fleet is not None else None

    def recover(self) -> c.PlaneState:
        state = self._files.read().state
        if state.fleet is None:
            return c.PlaneState()
        bare = {
            name: c.ServiceRule(name, Affinity("source"), rule.seed, rule.slots) for name, rule, _ in state.services()
        }
        rules = {name: rule for unit in state.units.values() for name, rule in unit.instances.items()}
        return replace(self.observe(), services=bare, instances=rules)

    def check(self, transaction: c.Transaction) -> None:
        before = self._files.read().state
        now = after(before, transaction)
        if self._reloads(before, now, transaction):
            self._refuse_broken(now)

    def run(self, transaction: c.Transaction) -> None:
        before = self._files.read().state
        now = after(before, transaction)
        reloads = self._reloads(before, now, transaction)
        if reloads:
            self._refuse_broken(now)
        anew = _set(transaction)
        self._files.write(before, now, anew=anew)
        if reloads:
            self._files.write_process(now)
        touched = [name for name, unit in now.units.items() if name in anew or before.units.get(name) is not unit]
        for client in running.clients(self._place):
            running.reload(client, self._place)
            running.bring(client, now, touched, self._place)

    def text(self, transaction: c.Transaction) -> str:
        before = self._printed or self._files.read().state
        self._printed = now = after(before, transaction)
        return difference(before, now, self._place)

    def missing(self) -> list[str]:
        from portfleet.dataplane.haproxy import machine  # not for `status`

        return machine.missing()

    def problems(self, fleet: Fleet) -> list[Problem]:
        from portfleet.dataplane.haproxy import machine

        return machine.problems(fleet)

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:  # noqa: ARG002 (as many as it was made for)
        from portfleet.dataplane.haproxy import machine

        return machine.programs(self._place, self._log)

    def processes(self) -> Mapping[str, OwnProcess]:
        return {program_of(client.socket): client.process() for client in running.clients(self._place)}

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        from portfleet.dataplane.haproxy import machine

        return list(machine.findings(fleet, needs))

    def relocation(self) -> None:
        return None  # its clients' connections end at its own processes

    def guardian(self) -> Guardian:
        from portfleet.dataplane.haproxy.guardian import HaproxyGuardian

        return HaproxyGuardian(self._place)

    def _reloads(self, before: State, now: State, transaction: c.Transaction) -> bool:
        """Return whether a transaction changes what only a reload changes, or asks for the fixed part to be right."""
        if before.fleet != now.fleet or any(isinstance(change, c.SetFleet) for change in transaction):
            return True
        names = [name for name in before.units.keys() | now.units.keys() if before.unit(name) is not now.unit(name)]
        return any(self._structure(before, name) != self._structure(now, name) for name in names)

    def _structure(self, state: State, name: str) -> str:
        return text.structure(name, state.unit(name), self._place)

    def _refuse_broken(self, state: State) -> None:
        """Raise PortfleetError (exit 3) if HAProxy would not take the files of ``state``."""
        with tempfile.TemporaryDirectory(prefix="portfleet-") as folder:
            place = replace(self._place, folder=Path(folder))
            files = Files(place)
            files.write(State(), state)
            files.write_process(state)
            command = [binary(), "-c", "-f", str(place.config(1)), "-f", str(place.services)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "[ALERT]" in line]
            raise PortfleetError(
                "HAProxy would not take its configuration; nothing was applied\n  " + "\n  ".join(said[:3]),
                hint="portfleet doctor",
                code=Exit.KERNEL,
            )


_ALL = Unit().access


def _settled(rule: c.ServiceRule, unit: Unit) -> bool:
    return rule.plain or unit.settled == rule


def _set(transaction: c.Transaction) -> frozenset[str]:
    """Return the services whose rules are to be right after ``transaction``, whatever they were before."""
    found = [change.rule.name for change in transaction if isinstance(change, c.SetService)]
    return frozenset(
        found + [service_of(change.rule.name) for change in transaction if isinstance(change, c.SetInstance)]
    )
