"""desired × observed → plan: the ordered steps that make what is into what shall be. Pure.

The order keeps clients served at every moment: rules first (the guard closes the instance ports), instances up and
ready before slots point at them, slots away before an instance stops, listen addresses opened last and closed first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from portfleet.core import changes as c
from portfleet.core import steps as s
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.model import Listen, parse_instance
from portfleet.core.observed import Observed
from portfleet.core.routing import slot_moves, turn
from portfleet.core.slots import Table
from portfleet.core.states import AT_REST

#: New services whose rules are loaded in one transaction; of 32 libnftables takes 180 MB, of 8 it takes 68.
_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """``steps`` in order; ``notes`` say what the plan leaves for an operator; ``moved`` is {service: (slots, of)}."""

    steps: tuple[s.Step, ...]
    notes: tuple[str, ...]
    moved: dict[str, tuple[int, int]]

    def describe(self) -> list[str]:
        """Return the plan in words, a line each."""
        return [step.describe() for step in self.steps]


def make_plan(desired: Desired, observed: Observed, *, journal_differs: bool = False) -> Plan:
    """Return the steps from ``observed`` to ``desired``."""
    wants = list(desired.services.values())
    steps: list[s.Step] = []
    if journal_differs:
        steps.append(s.WriteJournal("marks and home tables", ()))
    if observed.supervisor and not observed.watcher:
        steps.append(s.StartWatcher())
    steps += _base(desired, observed)
    steps += _rules(wants, observed)
    steps += [step for want in wants for step in _away(want, observed)]
    steps += _starts(desired, observed)
    for want in wants:
        steps += _rolling(want, observed)
        steps += _slots(want, observed)
    steps += _listens(desired, observed)
    gone, notes = _gone(desired, observed)
    steps += gone
    notes += [f"{want.name}: {note}" for want in desired.configured.values() for note in want.notes]
    return Plan(tuple(steps), tuple(notes), {want.name: _moved(want, observed) for want in wants})


def transactions(steps: Iterable[s.Step], desired: Desired, plane: c.PlaneState) -> Iterator[tuple[str, c.Transaction]]:
    """Return each kernel transaction of ``steps`` with its words; slots are followed from one step to the next."""
    current, beside = dict(plane.slots), dict(plane.beside)
    for step in steps:
        match step:
            case s.LoadRules(_, changes) | s.OpenListens(changes, _) | s.DropRules(_, changes):
                yield step.describe(), changes
            case s.RestartInstance(changes=changes) if changes:
                yield step.describe(), changes
            case s.PointSlots(service, out):
                want = desired.services[service]
                turned = turn(want, current.get(service, ()), beside.get(service, c.SideTables()), out=out)
                current[service], beside[service] = turned.table, turned.beside
                yield step.describe(), turned.changes
            case _:
                pass


def _base(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    plane = observed.plane
    changes: list[c.Change] = []
    if plane.home is None or "" in plane.drift | plane.stale:
        changes.append(c.SetBase(desired.home))
    if plane.ports != desired.ports:
        changes.append(c.SetPorts(desired.ports))
    if plane.remotes != desired.remotes:
        changes.append(c.SetRemotes(desired.remotes))
    if changes:
        drifted = " (somebody changed them)" if "" in plane.drift else ""
        yield s.LoadRules(f"the table and its guard{drifted}", tuple(changes))


def _rules(wants: Iterable[DesiredService], observed: Observed) -> Iterator[s.Step]:
    """Set rules that are not as they must be; many new services in one transaction, for each has a price of its own."""
    limits: dict[str, dict[int, str]] = {}
    for mark, name in observed.plane.limits.items():
        limits.setdefault(_service_of(name), {})[mark] = name
    new: list[tuple[str, list[c.Change]]] = []
    for want in wants:
        if not (changes := _rules_of(want, observed, limits.get(want.name, {}))):
            continue
        if want.name not in observed.plane.services:
            new.append((want.name, changes))
            continue
        touched = [change.rule.name for change in changes if isinstance(change, c.SetInstance | c.SetService)]
        drifted = " (somebody changed them)" if any(name in observed.plane.drift for name in touched) else ""
        yield s.LoadRules(f"{want.name}{drifted}", tuple(changes))
    for first in range(0, len(new), _AT_ONCE):
        some = new[first : first + _AT_ONCE]
        words = s.names([name for name, _ in some], "services")
        yield s.LoadRules(words, tuple(change for _, changes in some for change in changes))


def _rules_of(want: DesiredService, observed: Observed, limited: Mapping[int, str]) -> list[c.Change]:
    plane = observed.plane
    changes: list[c.Change] = [
        c.SetInstance(instance.rule)
        for instance in want.instances
        if plane.instances.get(instance.name) != instance.rule and not _with_restart(instance, observed)
    ]
    if plane.services.get(want.name) != want.rule:
        changes.append(c.SetService(want.rule))
    limits = {i.rule.mark: i.name for i in want.instances if i.rule.limit}
    if limits != limited:
        add = {mark: name for mark, name in limits.items() if limited.get(mark) != name}
        changes.append(c.SetLimits(add, frozenset(mark for mark, name in limited.items() if limits.get(mark) != name)))
    return changes


def _with_restart(instance: DesiredInstance, observed: Observed) -> bool:
    """Return whether an instance serves by its old rules until its restart, from which its port may be another."""
    old = instance.name in observed.outdated and observed.seen(instance.name).ready
    return old and instance.name in observed.plane.instances


def _service_of(name: str) -> str:
    instance = parse_instance(name)
    return instance.service if instance else ""


def _down(want: DesiredService, observed: Observed) -> frozenset[str]:
    """Return the serving instances that do not take connections now."""
    return frozenset(w.name for w in want.instances if w.takes and not observed.seen(w.name).ready)


def _current(want: DesiredService, observed: Observed) -> Table:
    return observed.plane.slots.get(want.name, ())


def _away(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    """Clients that are served now go on being served while others start: slots leave instances that are down."""
    current, down = _current(want, observed), _down(want, observed)
    if any(name in down for name in current):
        yield from _point(want, observed, current, out=down | observed.ejected, named=down)


def _left(want: DesiredService, observed: Observed) -> Table:
    """Return where the slots point once they have left the instances that are down."""
    current, down = _current(want, observed), _down(want, observed)
    if not any(name in down for name in current):
        return current
    return want.table(current, out=down | observed.ejected)


def _starts(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    missing, waiting, seconds = [], [], 0.0
    for want in desired.services.values():
        for instance in want.running:
            if not instance.startable:
                continue
            seen = observed.seen(instance.name)
            # One that is not ready and runs another program than is wanted now loses nothing by a restart.
            if (
                seen.program is None
                or seen.program in AT_REST
                or (instance.name in observed.outdated and not seen.ready)
            ):
                missing.append(instance.name)
            if not seen.ready:
                waiting.append(instance.name)
                seconds = max(seconds, want.service.start_timeout)
    if missing:
        yield s.StartInstances(tuple(missing))
    if waiting:
        yield s.WaitReady(tuple(waiting), seconds)
    yield from _elsewhere(desired, observed)


def _elsewhere(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    """Wait for remote instances, and by themselves: nobody starts them here, so a dead one must not hold up others."""
    silent = {
        instance.name: (want.service.probe.fall + want.service.probe.rise) * want.service.probe.interval
        for want in desired.services.values()
        for instance in want.instances
        if instance.rule.remote and instance.takes and not observed.seen(instance.name).ready
    }
    if silent:
        yield s.WaitReady(tuple(silent), max(silent.values()))


def _rolling(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    """Restart changed instances one at a time, each without slots while it is away."""
    changed = [i for i in want.running if _rolls(i, observed)]
    current = _left(want, observed)
    for instance in changed:
        out = frozenset({instance.name})
        yield from _point(want, observed, current, out=observed.ejected | out, named=out)
        rules = () if observed.plane.instances.get(instance.name) == instance.rule else (c.SetInstance(instance.rule),)
        connections, handed = (
            observed.seen(instance.name).connections or 0,
            bool(want.takers(instance.name, observed.said)),
        )
        yield s.RestartInstance(instance.name, connections, rules, handed)
        yield s.WaitReady((instance.name,), want.service.start_timeout)
        current = want.table(current, out=observed.ejected | out)
    if changed:
        yield from _point(want, observed, current, out=observed.ejected)


def _slots(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    current = _left(want, observed)
    if not any(_rolls(i, observed) for i in want.running):
        yield from _point(want, observed, current, out=observed.ejected)


def _rolls(instance: DesiredInstance, observed: Observed) -> bool:
    """Return whether a process serves as it was wanted earlier, and is to be restarted for that."""
    return instance.startable and instance.name in observed.outdated and observed.seen(instance.name).ready


def _point(
    want: DesiredService,
    observed: Observed,
    slots: Table,
    *,
    out: frozenset[str],
    named: frozenset[str] = frozenset(),
) -> Iterator[s.Step]:
    """Point ``slots`` at who is not ``out``; the words name those of them who go out by this."""
    turned = turn(want, slots, observed.plane.beside.get(want.name, c.SideTables()), out=out)
    if turned.changes:
        yield s.PointSlots(want.name, named, turned.moved, want.service.slots)


def _moved(want: DesiredService, observed: Observed) -> tuple[int, int]:
    current = _current(want, observed)
    changed = slot_moves(current, want.table(current, out=observed.ejected)) if any(current) else {}
    return len(changed), want.service.slots


def _listens(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    now = observed.plane.listens
    wanted = {listen: want.name for want in desired.services.values() for listen in want.service.listen}
    add = {listen: name for listen, name in wanted.items() if now.get(listen) != name}
    remove = {listen: name for listen, name in now.items() if wanted.get(listen) != name}
    words = [f"open {_by_service(add)}"] if add else []
    words += [f"close {_by_service(remove)}"] if remove else []
    if words:
        yield s.OpenListens((c.SetListens(add, remove),), "; ".join(words))


def _by_service(listens: dict[Listen, str]) -> str:
    return ", ".join(f"{listen} of {service}" for listen, service in sorted(listens.items(), key=lambda i: i[1]))


def _gone(desired: Desired, observed: Observed) -> tuple[list[s.Step], list[str]]:
    """What nobody wants any more: stopped once its connections have ended, then forgotten."""
    wanted = {want.name for want in desired.instances()}
    running = {want.name for service in desired.services.values() for want in service.running}
    ours = [name for name in observed.instances if parse_instance(name)]
    surplus = sorted(name for name in ours if name not in running and observed.seen(name).program is not None)
    busy = [name for name in surplus if observed.seen(name).connections]
    steps: list[s.Step] = []
    if stop := [name for name in surplus if name not in busy]:
        steps.append(s.StopInstances(tuple(stop)))
    plane = observed.plane
    services = sorted(plane.services.keys() - desired.services.keys())
    left = sorted(name for name in plane.instances.keys() - wanted if name not in busy)
    emptied: list[c.Change] = [
        c.PointSlots(name, {slot: (old, None) for slot, old in enumerate(plane.slots.get(name, ())) if old})
        for name in services
    ]
    if emptied:
        steps.append(s.DropRules(f"the slots of {', '.join(services)}", tuple(emptied)))
    dropped: list[c.Change] = [c.DropService(name) for name in services]
    dropped += [c.DropInstance(name) for name in left]
    if dropped:
        steps.append(s.DropRules(s.names([*services, *left]), tuple(dropped)))
    draining = {instance.service for name in busy if (instance := parse_instance(name))}
    if forgotten := sorted(desired.journal.services.keys() - desired.configured.keys() - draining):
        steps.append(s.WriteJournal(f"without {', '.join(forgotten)}", tuple(forgotten)))
    notes = [
        f"{name} is not wanted any more and drains: {observed.seen(name).connections:,} connections; "
        "apply again when they have ended"
        for name in busy
    ]
    return steps, notes
