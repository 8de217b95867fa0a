"""What the plane is set to, on disk: HAProxy's own files, and beside them what those do not say.

HAProxy begins with these files whenever it starts, so they are written before a running process is told; what a process
has otherwise is drift. Without our memory of a service (``NAME.json``) its rules are read back out of HAProxy's files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from portfleet.core import typed
from portfleet.core.access import Access
from portfleet.core.changes import InstanceRule, ServiceRule, SetFleet
from portfleet.core.model import Affinity, Listen
from portfleet.core.slots import Table
from portfleet.dataplane.haproxy import affinity, text
from portfleet.dataplane.haproxy.state import State, Unit
from portfleet.store import atomic, state_file

_SERVICE = re.compile(r"# service \S+ seed=(\d+) slots=(\d+)")
_BIND = re.compile(r"    bind (?:\[(?P<six>[^\]]+)\]|(?P<four>[0-9.]+)):(?P<port>\d+)")
_HOME, _PORTS = re.compile(r" home=(\S*)"), re.compile(r"# ports (.*)")


@dataclass(frozen=True)
class _Kept:
    """What HAProxy's files do not say of a service; its table is the map of slots."""

    rule: ServiceRule | None
    settled: ServiceRule | None
    instances: Mapping[str, InstanceRule]
    diverted: Mapping[str, str]
    pins: Mapping[str, str]
    overflow: tuple[str, ...]
    listens: tuple[tuple[int, str | None, int], ...]
    access: Access


@dataclass(frozen=True)
class _Fleet:
    home: str
    ports: tuple[tuple[int, int], ...]
    by: str


@dataclass(frozen=True)
class Found:
    """The state on disk. ``forgotten``: services ("" for the fleet) that were read out of HAProxy's own files.

    ``current``: this version of the tool wrote it.
    """

    state: State
    forgotten: frozenset[str] = frozenset()
    current: bool = True


@dataclass
class Files:
    """Reads and writes the files at ``place``; what did not change since it was read is not read again."""

    place: text.Place
    _units: dict[str, tuple[object, Unit]] = field(default_factory=dict)

    def read(self) -> Found:
        """Return the whole state."""
        names = {path.stem for path in self.place.services.glob("*.instances")}
        names |= {path.stem for path in self.place.services.glob("*.json")}
        forgotten = {name for name in names if not self._memory(name).exists()}
        units = {name: self.unit(name) for name in sorted(names)}
        kept = self._fleet()
        if kept is None:
            fleet = _fleet_of(_read(self.place.config(1)))
            return Found(State(fleet, units), frozenset(forgotten | {""} if fleet else forgotten))
        fleet = SetFleet(kept.home, frozenset(kept.ports))
        return Found(State(fleet, units), frozenset(forgotten), kept.by == writer())

    def unit(self, name: str) -> Unit:
        """Return one service's part of the state."""
        stamp = (atomic.version(self._memory(name)), atomic.version(self.place.map(name, "slots")))
        if name not in self._units or self._units[name][0] != stamp:
            self._units[name] = (stamp, self._unit(name))
        return self._units[name][1]

    def write(self, before: State, now: State, *, anew: Collection[str] = ()) -> None:
        """Make the files say ``now``: what differs from ``before``, and the services ``anew`` in any case."""
        self._make_folders()
        for name, unit in now.units.items():
            if name in anew or before.units.get(name) is not unit:
                self._write_unit(name, unit)
        for name in before.units.keys() - now.units.keys():
            for path in list(self.place.services.glob(f"{name}.*")):
                path.unlink(missing_ok=True)
        self._write_fleet(now)

    def write_process(self, state: State) -> None:
        """Make the processes' own files go with ``state``."""
        self._make_folders()
        for number in self.place.numbers:
            _write(self.place.config(number), text.process_text(state, self.place, number))

    def _make_folders(self) -> None:
        """Make the folders, for this user alone, also those of an earlier version."""
        for folder in (self.place.folder, self.place.services):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)

    def differs(self, state: State) -> frozenset[str]:
        """Return the services and instances whose files are not as they were written, "" for the processes' own."""
        found = {name for name, unit in state.units.items() if self._differs(name, unit)}
        own = all(_read(self.place.config(n)) == text.process_text(state, self.place, n) for n in self.place.numbers)
        return frozenset(found | ({""} if not own else set()))

    def _differs(self, name: str, unit: Unit) -> bool:
        kept = {kind: text.map_text(found) for kind, found in text.maps(unit, self.place).items()}
        written = all(_read(self.place.map(name, kind)) == found for kind, found in kept.items())
        return not written or _read(self.place.services / f"{name}.cfg") != text.service_text(name, unit, self.place)

    def _write_unit(self, name: str, unit: Unit) -> None:
        for kind, entries in text.maps(unit, self.place).items():
            _write(self.place.map(name, kind), text.map_text(entries))
        if config := text.service_text(name, unit, self.place):
            _write(self.place.services / f"{name}.cfg", config)
        else:
            (self.place.services / f"{name}.cfg").unlink(missing_ok=True)
        listens = tuple(sorted(unit.listens, key=str))
        kept = _Kept(unit.rule, unit.settled, unit.instances, unit.diverted, unit.pins, unit.overflow, listens,
                     unit.access)  # fmt: skip
        _write(self._memory(name), json.dumps(typed.write(kept)))

    def _write_fleet(self, now: State) -> None:
        path = self.place.folder / "fleet.json"
        if now.fleet is None:
            path.unlink(missing_ok=True)
            return
        kept = _Fleet(now.fleet.home, tuple(sorted(now.fleet.ports)), writer())
        if kept != self._fleet():
            _write(path, json.dumps(typed.write(kept)))

    def _fleet(self) -> _Fleet | None:
        try:
            return typed.read(_Fleet, state_file.parse(_read(self.place.folder / "fleet.json")), where="fleet.json")
        except ValueError:
            return None

    def _memory(self, name: str) -> Path:
        return self.place.services / f"{name}.json"

    def _unit(self, name: str) -> Unit:
        table = _table(self._map(name, "slots"))
        try:
            kept = typed.read(_Kept, state_file.parse(_read(self._memory(name))), where=f"{name}.json")
        except ValueError:
            return replace(self._recovered(name), table=table)
        return Unit(
            kept.rule, kept.settled, kept.instances, kept.diverted, table, kept.pins, kept.overflow,
            frozenset(kept.listens), kept.access,
        )  # fmt: skip

    def _recovered(self, name: str) -> Unit:
        """Return what HAProxy's own files say of a service; affinities are not read."""
        config, marks = _read(self.place.services / f"{name}.cfg"), self._map(name, "marks")
        rule = _SERVICE.match(config)
        instances = {one: _instance(one, marks.get(one, "0"), at) for one, at in self._map(name, "instances").items()}
        return Unit(
            ServiceRule(name, Affinity("source"), int(rule[1]), int(rule[2])) if rule else None,
            instances={one: found for one, found in instances.items() if found},
            listens=frozenset(_listens(config)),
        )

    def _map(self, name: str, kind: str) -> dict[str, str]:
        words = (line.split(" ", 1) for line in _read(self.place.map(name, kind)).splitlines())
        return {found[0]: found[1] for found in words if len(found) == 2}


@cache
def writer() -> str:
    """Return what tells one version of what makes the files from another."""
    made = "".join(Path(str(module.__file__)).read_text() for module in (text, affinity))
    return hashlib.sha256(made.encode()).hexdigest()[:16]


def _table(slots: Mapping[str, str]) -> Table:
    found = {int(slot): name for slot, name in slots.items() if slot.isdigit()}
    return tuple(found.get(slot) for slot in range(max(found, default=-1) + 1))


def _instance(name: str, number: str, server: str) -> InstanceRule | None:
    """Return the rule of an instance by the name of its server: pPORT, or rADDRESS-PORT on another box."""
    address, _, port = server[1:].rpartition("-")
    if not port.isdigit() or not number.isdigit():
        return None
    remote = Listen(int(port), address, (6 if ":" in address else 4,)) if address else None
    return InstanceRule(name, int(number), int(port), remote)


def _listens(config: str) -> Iterator[tuple[int, str | None, int]]:
    for found in _BIND.finditer(config):
        address = found["six"] or found["four"]
        yield (6 if found["six"] else 4), None if address in ("::", "0.0.0.0") else address, int(found["port"])


def _fleet_of(config: str) -> SetFleet | None:
    home, ports = _HOME.search(config), _PORTS.search(config)
    if home is None or ports is None or not home[1]:
        return None
    ranges = (one.partition("-") for one in ports[1].split(",") if one)
    return SetFleet(home[1], frozenset((int(low), int(high)) for low, _, high in ranges))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _write(path: Path, content: str) -> None:
    atomic.write(path, content.encode(), mode=0o600, durable=False)
