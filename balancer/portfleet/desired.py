"""What shall be: the config and the journal together. Pure: the journal comes in, a newer one comes out."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from portfleet.journal import MARK_LIMIT, ColourRecord, Journal, Moved, ServiceRecord
from portfleet.kernel.changes import InstanceRule, ServiceRule, Sticky
from portfleet.model import (
    COLOURS,
    Colour,
    Fleet,
    Instance,
    Service,
    is_our_daemon,
    member_instance,
    other,
    parse_instance,
)
from portfleet.paths import Paths
from portfleet.pins import flatten
from portfleet.program import Program, make_program
from portfleet.slots import Table, assign, effective
from portfleet.states import Wanted


@dataclass(frozen=True)
class InstanceWant:
    """One instance as it shall be. ``program`` is None for one on another box and for a colour that runs nothing."""

    instance: Instance
    wanted: Wanted
    weight: int
    rule: InstanceRule
    program: Program | None

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def control(self) -> Path:
        """The control socket of its process; raises ValueError for an instance without a process of ours."""
        if self.program is None:
            raise ValueError(f"{self.name} has no process on this box")
        return Path(self.program.control)

    @property
    def ours(self) -> bool:
        """True where its process is our own daemon, with a control socket."""
        return self.program is not None and is_our_daemon(self.program.command)

    @property
    def takes(self) -> bool:
        """True where it shall take new connections."""
        return self.wanted is Wanted.SERVING and self.weight > 0


@dataclass(frozen=True)
class ServiceWant:
    """One service as it shall be. ``instances`` are those of both colours and the remote ones.

    ``pins`` are {network: instance of the live colour}; the networks do not overlap.
    """

    service: Service
    live: Colour
    home: Table
    rule: ServiceRule
    instances: tuple[InstanceWant, ...]
    release: str | None
    notes: tuple[str, ...] = ()
    canary: int = 0
    moved: Mapping[str, Moved] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.service.name

    def of(self, colour: Colour) -> tuple[InstanceWant, ...]:
        """The instances of one colour."""
        return tuple(want for want in self.instances if want.instance.colour == colour)

    def takers(self, name: str) -> tuple[InstanceWant, ...]:
        """The instances that can take over the connections of the instance ``name``; none where it cannot hand off."""
        able = [want for want in self.instances if want.ours]
        return tuple(i for i in able if i.takes and i.name != name) if any(i.name == name for i in able) else ()

    @property
    def running(self) -> tuple[InstanceWant, ...]:
        """The instances that shall have a process (or are remote)."""
        return tuple(want for want in self.instances if want.wanted is not Wanted.STOPPED)

    def table(self, current: Table, *, out: frozenset[str] = frozenset()) -> Table:
        """Give the instance each slot shall point to while the instances named in ``out`` cannot serve.

        ``current`` is what the kernel has (instances per slot, empty for nothing yet). With nobody left to serve the
        result is ``current``: the last state is kept.
        """
        serving = {w.name for w in self.instances if w.takes and w.name not in out}
        weights = {
            w.instance.member: w.weight
            for w in self.instances
            if w.instance.colour in (self.live, None) and (w.name in serving or self._stand_in(w.instance, serving))
        }
        if not weights:
            return current
        members = {name: _member(name) for name in set(current)}
        before = [members[name] for name in current[: len(self.home)]]
        before += [None] * (len(self.home) - len(before))
        table = effective(before if any(before) else (), self.home, weights)
        if self.canary or self.moved:
            return tuple(self._owner(slot, member, serving) if member else None for slot, member in enumerate(table))
        # Nearly always; the watcher computes it while clients wait, so not by an instance's name per slot.
        names = {member: member_instance(self.name, member, self.live).name for member in weights}
        return tuple(names[member] if member else None for member in table)

    def _owner(self, slot: int, member: str, serving: set[str]) -> str:
        """Give the instance that stands for ``member`` at ``slot``: of the other colour in a canary, or a stand-in."""
        instance = member_instance(self.name, member, self.live)
        if _within(slot, self.canary):
            canary = member_instance(self.name, member, other(self.live)).name
            if canary in serving:
                return canary
        stand_in = self._stand_in(instance, serving)
        if stand_in and (_within(slot, self.moved[member].percent) or instance.name not in serving):
            return stand_in
        return instance.name

    def _stand_in(self, instance: Instance, serving: set[str]) -> str | None:
        """Give the serving instance to which this one's share was migrated."""
        moved = self.moved.get(instance.member)
        name = member_instance(self.name, moved.to, self.live).name if moved else None
        return name if name in serving else None


def _within(slot: int, percent: int) -> bool:
    """Tell whether ``slot`` is among the first ``percent`` of the slots in a fixed order that is spread evenly.

    The order steps by the golden section: the slots of every member are hit alike, and the same ones every time.
    """
    return slot * 0x9E3779B1 % (1 << 32) < percent * (1 << 32) // 100


@dataclass(frozen=True)
class Desired:
    """The whole fleet as it shall be, and the journal that goes with it."""

    services: Mapping[str, ServiceWant]
    journal: Journal
    home: str

    @property
    def programs(self) -> dict[str, Program]:
        """Every program supervisord shall have, by name."""
        return {
            want.name: want.program
            for service in self.services.values()
            for want in service.running
            if want.program is not None
        }

    @property
    def remotes(self) -> frozenset[int]:
        """The marks of the instances on other boxes."""
        return frozenset(want.rule.mark for want in self.instances() if want.rule.remote is not None)

    @property
    def ports(self) -> frozenset[tuple[int, int]]:
        """Every range of instance ports to guard."""
        return frozenset(want.service.ports for want in self.services.values())

    def instances(self) -> Iterator[InstanceWant]:
        """Give every instance of every service."""
        return itertools.chain.from_iterable(service.instances for service in self.services.values())


def make_desired(fleet: Fleet, journal: Journal, paths: Paths) -> Desired:
    """Join config and journal: new services get a seed, marks and a home table, changed ones keep what they can."""
    services = {}
    for configured in fleet.services.values():
        record, notes = _record(configured, journal)
        service = _scaled(configured, record)
        marks = dict(record.marks)
        free = _free_marks(journal.marks_in_use())
        for instance in _instances(service, record):
            if instance.name not in marks:
                marks[instance.name] = next(free)
        record = replace(record, marks=marks, home=_home(service, record.home))
        journal = journal.with_service(service.name, record)
        services[service.name] = _want(service, record, paths, notes)
    return Desired(services, journal, paths.identity)


def _free_marks(taken: set[int]) -> Iterator[int]:
    return (mark for mark in range(1, MARK_LIMIT) if mark not in taken)


def _record(service: Service, journal: Journal) -> tuple[ServiceRecord, tuple[str, ...]]:
    """Give the service's record, made anew where there is none, and what the plan has to say about it."""
    record = journal.services.get(service.name)
    if record is None:
        # By name, so that a standby box with the same config renders the same table.
        seed = zlib.crc32(service.name.encode()) & 0x7FFFFFFF
        first = ColourRecord(release=service.release)
        return ServiceRecord("blue", seed, (), colours={"blue": first}, config_release=service.release), ()
    running = record.colours.get(record.live, ColourRecord()).release
    if service.release not in (record.config_release, running):
        return record, (f"release differs: {running} runs, {service.release} is configured: cutover needed",)
    return record, ()


def _scaled(service: Service, record: ServiceRecord) -> Service:
    """Give the service with the number of instances that `scale` asked for, until the config's own number changes."""
    if record.instances is None or record.config_instances != service.instances:
        return service
    return replace(service, instances=min(record.instances, service.most_instances))


def _home(service: Service, home: Table) -> Table:
    weights = {instance.member: service.weight.get(instance.member, 1) for instance in _members(service)}
    previous = home if len(home) == service.slots else (None,) * service.slots
    return assign(previous, weights)


def _members(service: Service, colour: Colour = "blue") -> Iterator[Instance]:
    yield from (Instance(service.name, colour, number + 1) for number in range(service.instances))
    yield from (Instance(service.name, None, number + 1) for number in range(len(service.remote)))


def _instances(service: Service, record: ServiceRecord) -> Iterator[Instance]:
    """Give the instances of both colours, with those that are leaving, then the remote ones."""
    for colour in COLOURS:
        yield from (
            Instance(service.name, colour, number + 1) for number in range(max(service.instances, record.leaving))
        )
    yield from (Instance(service.name, None, number + 1) for number in range(len(service.remote)))


def _want(service: Service, record: ServiceRecord, paths: Paths, notes: tuple[str, ...]) -> ServiceWant:
    wants = tuple(_instance_want(service, instance, record, paths) for instance in _instances(service, record))
    running = record.colours.get(record.live, ColourRecord())
    limited = [want for want in wants if want.rule.limit]
    rule = ServiceRule(
        service.name,
        service.affinity,
        record.seed,
        service.slots,
        sticky=_sticky(service),
        pins=bool(record.pins),
        remote=bool(service.remote),
        limited=bool(limited),
        tries=len(limited) if service.overflow == "next" else 0,
        empty=service.when_empty,
    )
    names = {want.name for want in wants}
    pins = {
        network: name
        for network, member in flatten(record.pins).items()
        if (name := member_instance(service.name, member, record.live).name) in names
    }
    return ServiceWant(
        service, record.live, record.home, rule, wants, running.release, notes, record.canary, record.moved, pins
    )


def _sticky(service: Service) -> Sticky | None:
    # The kernel counts in milliseconds, nft text in whole seconds.
    return Sticky(max(1, math.ceil(service.sticky)), service.sticky_size) if service.sticky else None


def _instance_want(service: Service, instance: Instance, record: ServiceRecord, paths: Paths) -> InstanceWant:
    name, mark = instance.name, record.marks[instance.name]
    weight = service.weight.get(instance.member, 1)
    asked = record.asked.get(name)
    serving = Wanted(asked.wanted) if asked else Wanted.SERVING
    sticky = _sticky(service)
    rule = InstanceRule(name, mark, 0, sticky=sticky, key=service.affinity if sticky else None)
    if instance.colour is None:
        remote = service.remote[instance.number - 1]
        return InstanceWant(instance, serving, weight, replace(rule, port=remote.port, remote=remote), None)
    if instance.number > service.instances:
        serving = Wanted.DRAINED
    port = service.port_of(instance.colour, instance.number)
    # Our own daemon counts for itself: a connection it was handed keeps the mark and port it came by.
    limit = 0 if service.ours else service.max_connections
    rule = replace(rule, port=port, limit=limit, spills=not limit or service.overflow == "next")
    colour = record.colours.get(instance.colour)
    if colour is None or colour.stopped:
        return InstanceWant(instance, Wanted.STOPPED, weight, rule, None)
    program = make_program(
        service,
        name=name,
        colour=instance.colour,
        port=port,
        release=colour.release,
        command=colour.command or service.command,
        control=str(paths.control(name, user=service.user)),
        log=str(paths.log_of(name)),
    )
    wanted = serving if instance.colour == record.live or record.canary else Wanted.IDLE
    return InstanceWant(instance, wanted, weight, rule, program)


def _member(name: str | None) -> str | None:
    instance = parse_instance(name) if name else None
    return instance.member if instance else None
