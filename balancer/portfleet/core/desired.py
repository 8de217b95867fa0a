"""What shall be, as values: instances, services, the fleet. Pure; `desired` makes them of config and journal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Literal

from portfleet.core.access import Access, access
from portfleet.core.changes import InstanceRule, ServiceRule
from portfleet.core.journal import Journal
from portfleet.core.model import Colour, Instance, Service, member_instance, other
from portfleet.core.program import Program
from portfleet.core.records import Moved, ServiceRecord
from portfleet.core.slots import Table, effective, turn
from portfleet.core.states import Wanted
from portfleet.core.status import Status
from portfleet.core.value import value


@value
class DesiredInstance:
    """One instance as it shall be. ``program`` is None for one on another box and for a colour that runs nothing.

    ``moves``: it runs on an earlier port, which ``rule`` has, and this is its rule from its next start on.
    ``asked``: its control socket may be used. ``inside``: it is reached over 127.0.0.1 only. ``extra_ports``: what it
    listens on beside its port, by name.
    """

    instance: Instance
    wanted: Wanted
    weight: int
    rule: InstanceRule
    program: Program | None
    asked: bool = True
    inside: bool = False
    moves: InstanceRule | None = None
    extra_ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def next_rule(self) -> InstanceRule:
        """Return the rule that it has once it was started anew."""
        return self.moves or self.rule

    @property
    def control(self) -> str | None:
        """Where its control socket is, if it has one; None for an instance that must not be asked, or not here."""
        return self.program.control if self.program is not None and self.asked else None

    def families(self, service: Service) -> frozenset[Literal[4, 6]]:
        """Return the address families that it must take connections by."""
        return frozenset({4}) if self.inside else service.families

    @property
    def ports(self) -> list[int]:
        """Every port that it listens on here; none for an instance on another box."""
        return [self.rule.port, *self.extra_ports.values()] if self.program is not None else []

    @property
    def takes(self) -> bool:
        """Return whether it shall take new connections."""
        return self.wanted is Wanted.SERVING and self.weight > 0

    @property
    def startable(self) -> bool:
        """Return whether its process is started by itself; one in maintenance waits for its operator."""
        return self.program is not None and self.wanted is not Wanted.MAINTENANCE


@value
class DesiredService:
    """One service as it shall be. ``instances`` are those of both colours and the remote ones.

    ``pins`` are {network: instance of the live colour}; the networks do not overlap. ``denied``: {network: end (Unix
    time), None for never}, by config and operators. ``down``: by whom it was taken down and since when; then nothing of
    it shall be there. ``record`` is what of the journal this was made of.
    """

    service: Service
    live: Colour
    home: Table
    rule: ServiceRule
    instances: tuple[DesiredInstance, ...]
    record: ServiceRecord
    release: str | None
    notes: tuple[str, ...] = ()
    canary: int = 0
    moved: Mapping[str, Moved] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    denied: Mapping[str, int | None] = field(default_factory=dict)
    down: str = ""

    @property
    def name(self) -> str:
        return self.service.name

    def access(self, now: float) -> Access:
        """Return who may connect at the Unix time ``now``."""
        return access(self.service.allow, self.denied, now=now)

    def of(self, colour: Colour) -> tuple[DesiredInstance, ...]:
        """The instances of one colour."""
        return tuple(want for want in self.instances if want.instance.colour == colour)

    def takers(self, name: str, said: Mapping[str, Status]) -> tuple[DesiredInstance, ...]:
        """The instances that can take over the connections of ``name``, by what each said of itself."""
        sender, others = said.get(name), [i for i in self.instances if i.takes and i.name in said and i.name != name]
        return tuple(i for i in others if sender is not None and sender.hands_off_to(said[i.name]))

    @property
    def running(self) -> tuple[DesiredInstance, ...]:
        """The instances that shall have a process (or are remote)."""
        return tuple(want for want in self.instances if want.wanted is not Wanted.STOPPED)

    def table(self, current: Table, *, out: frozenset[str] = frozenset()) -> Table:
        """Return the instance each slot shall point to while the instances named in ``out`` cannot serve.

        ``current`` is what the kernel has (instances per slot, empty for nothing yet). With nobody left to serve the
        result is ``current``: the last state is kept; but where nobody is even to serve, the slots point nowhere.
        """
        serving = {w.name for w in self.instances if w.takes and w.name not in out}
        members = {w.instance.member: w for w in self.instances if w.instance.colour in (self.live, None)}
        able = [
            m for m, w in members.items() if w.weight and (w.name in serving or self._stand_in(w.instance, serving))
        ]
        if not able:
            return current if any(w.takes for w in self.instances) else (None,) * len(current)
        if not (self.canary or self.moved) and (len(able) == len(members) or self._members_at_home.issubset(able)):
            return self._at_home  # nearly always
        weights = {member: w.weight for member, w in members.items()}
        table = effective(self.home, weights, able, self.record.before)
        if self.canary or self.moved:
            return tuple(self._owner(slot, member, serving) if member else None for slot, member in enumerate(table))
        return self._named(table)

    @cached_property
    def _members_at_home(self) -> frozenset[str]:
        return frozenset(member for member in set(self.home) if member)

    @cached_property
    def _at_home(self) -> Table:
        """The table while no member is out."""
        return self._named(self.home)

    def _named(self, table: Table) -> Table:
        """Return the live instances of a table of members; the watcher computes it while clients wait."""
        members = (member for member in set(table) if member)
        names: dict[str | None, str] = {one: member_instance(self.name, one, self.live).name for one in members}
        return tuple(map(names.get, table))

    def _owner(self, slot: int, member: str, serving: set[str]) -> str:
        """Return the instance that serves ``member``'s ``slot``: of the other colour in a canary, or a stand-in."""
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
        """Return the serving instance to which this one's share was migrated."""
        moved = self.moved.get(instance.member)
        name = member_instance(self.name, moved.to, self.live).name if moved else None
        return name if name in serving else None


def _within(slot: int, percent: int) -> bool:
    """Return whether ``slot`` is among the first ``percent`` of the slots, ordered by `turn`."""
    return turn(slot) < percent * (1 << 32) // 100


@value
class Desired:
    """The whole fleet as it shall be, and the journal that goes with it. ``configured`` is every service by name.

    ``own`` are the data plane's own programs, ``metrics`` is the one that tells of the fleet (None: there is none).
    """

    configured: Mapping[str, DesiredService]
    journal: Journal
    home: str
    own: Mapping[str, Program] = field(default_factory=dict)
    metrics: Program | None = None

    @cached_property
    def services(self) -> Mapping[str, DesiredService]:
        """The services that are not down."""
        return {name: want for name, want in self.configured.items() if not want.down}

    @property
    def beside(self) -> dict[str, Program]:
        """The programs that are no instances, by name, but for the watcher."""
        return {**self.own} | ({self.metrics.name: self.metrics} if self.metrics else {})

    @cached_property
    def programs(self) -> Mapping[str, Program]:
        """Every program supervisord shall have, by name."""
        return self.beside | {
            want.name: want.program
            for service in self.services.values()
            for want in service.running
            if want.program is not None
        }

    @property
    def ports(self) -> frozenset[tuple[int, int]]:
        """Every range of instance ports to guard; of a service that is down too, for its last process may live yet."""
        earlier = {want.rule.port for want in self.instances() if want.moves}
        return self.next_ports | {(p, p) for p in earlier if not any(low <= p <= high for low, high in self.next_ports)}

    @property
    def next_ports(self) -> frozenset[tuple[int, int]]:
        """The ranges to guard once every instance runs on the port that it is to have."""
        return frozenset(want.service.ports for want in self.configured.values())

    def standing(self, ports: Mapping[str, int]) -> Desired:
        """Return what shall be while instances run on ``ports`` ({instance: port}) and others than they are to have."""
        return self._with(lambda want: _standing(want, ports.get(want.name)))

    def moved(self, names: Collection[str]) -> Desired:
        """Return what shall be when ``names`` were started anew, on the ports that they are to have."""
        return self._with(lambda want: replace(want, rule=want.next_rule, moves=None) if want.name in names else want)

    def _with(self, change: Callable[[DesiredInstance], DesiredInstance]) -> Desired:
        found = {}
        for name, want in self.configured.items():
            instances = tuple(map(change, want.instances))
            found[name] = want if instances == want.instances else replace(want, instances=instances)
        return replace(self, configured=found)

    def local_ports(self) -> dict[int, str]:
        """Return {port: instance} of those on this box."""
        return {want.rule.port: want.name for want in self.instances() if want.program is not None}

    def instances(self) -> Iterator[DesiredInstance]:
        """Return every instance of every service that is not down."""
        return itertools.chain.from_iterable(service.instances for service in self.services.values())


def _standing(want: DesiredInstance, port: int | None) -> DesiredInstance:
    if want.program is None or port in (None, want.next_rule.port):
        return want
    return replace(want, rule=replace(want.rule, port=port), moves=want.next_rule)
