"""desired × observed → plan: the ordered steps that make what is into what shall be. Pure.

The order keeps clients served at every moment: rules first (the guard closes the instance ports), instances up and
ready before slots point at them, slots away before an instance stops, listen addresses opened last and closed first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from portfleet.core import changes as c
from portfleet.core import steps as s
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.model import Listen, parse_instance
from portfleet.core.observed import Observed
from portfleet.core.plan_order import instances_in_order, services_in_order
from portfleet.core.plan_rules import rule_steps
from portfleet.core.printable import names, quantity
from portfleet.core.routing import moved, route, settled
from portfleet.core.slots import Table
from portfleet.core.states import AT_REST
from portfleet.core.value import value


@value
class Plan:
    """``steps`` in order; ``notes`` say what the plan leaves for an operator; ``moved`` is {service: (slots, of)}."""

    steps: tuple[s.Step, ...]
    notes: tuple[str, ...]
    moved: dict[str, tuple[int, int]]

    def describe(self) -> list[str]:
        """Return the plan in words, a line each."""
        return [step.describe() for step in self.steps]


def make_plan(
    desired: Desired, observed: Observed, *, journal_differs: bool = False, services_at_once: int = 8
) -> Plan:
    """Return the steps from ``observed`` to ``desired``.

    ``services_at_once``: rules of at most so many new services are loaded in one transaction (`Traits`).
    """
    wants = list(desired.services.values())
    steps: list[s.Step] = []
    if journal_differs:
        steps.append(s.WriteJournal("numbers and home tables", ()))
    if observed.supervisor and not observed.watcher:
        steps.append(s.StartWatcher())
    steps += _base(desired, observed)
    steps += rule_steps(wants, observed, services_at_once)
    steps += [step for want in wants for step in _away(want, observed)]
    steps += _starts(desired, observed)
    for want in services_in_order(wants):
        steps += _rolling(want, observed)
        steps += _slots(want, observed)
    if observed.supervisor and (absent := sorted(desired.own.keys() - observed.own.keys())):
        steps.append(s.StartDataPlane(tuple(absent)))
    steps += _listens(desired, observed)
    steps += _metrics(desired, observed)
    gone, notes = _gone(desired, observed)
    steps += gone
    if desired.ports != desired.next_ports:
        steps.append(s.LoadRules("the guard without the old ports", (c.SetFleet(desired.home, desired.next_ports),)))
    steps += _lives(desired, [name for step in steps if isinstance(step, s.StartInstances) for name in step.names])
    notes += [*observed.claims]
    notes += [f"{want.name}: {note}" for want in desired.configured.values() for note in want.notes]
    return Plan(tuple(steps), tuple(notes), {want.name: _moved(want, observed) for want in wants})


def transactions(steps: Iterable[s.Step], desired: Desired, plane: c.PlaneState) -> Iterator[tuple[str, c.Transaction]]:
    """Return each transaction of ``steps`` with its words; slots are followed from one step to the next."""
    current = dict(plane.slots)
    for step in steps:
        match step:
            case s.LoadRules(_, changes) | s.OpenListens(changes, _) | s.DropRules(_, changes):
                yield step.describe(), changes
            case s.RestartInstance(changes=changes) if changes:
                yield step.describe(), changes
            case s.PointSlots(service, out):
                change = route(desired.services[service], current.get(service, ()), out=out)
                current[service] = change.table
                yield step.describe(), (change,)
            case _:
                pass


def _metrics(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    if not observed.supervisor:
        return
    if desired.metrics is None:
        yield from [s.StopMetrics()] if observed.metrics else []
    elif not observed.metrics or desired.metrics.name in observed.outdated:
        yield s.StartMetrics()


def _base(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    plane, fixed = observed.plane, c.SetFleet(desired.home, desired.ports)
    if plane.fleet != fixed or "" in plane.drift | plane.stale:
        drifted = " (another program changed them)" if "" in plane.drift else ""
        yield s.LoadRules(f"the table and its guard{drifted}", (fixed,))


def _down(want: DesiredService, observed: Observed) -> frozenset[str]:
    """Return the serving instances that do not take connections now."""
    return frozenset(w.name for w in want.instances if w.takes and not observed.seen(w.name).ready)


def _current(want: DesiredService, observed: Observed) -> Table:
    return observed.plane.slots.get(want.name, ())


def _away(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    """Clients that are served now go on being served while others start: slots leave instances that are down."""
    current, down = _current(want, observed), _down(want, observed)
    if down and not down.isdisjoint(current):
        yield from _point(want, observed, current, out=down | observed.ejected, named=down)


def _left(want: DesiredService, observed: Observed) -> Table:
    """Return where the slots point once they have left the instances that are down."""
    current, down = _current(want, observed), _down(want, observed)
    if not down or down.isdisjoint(current):
        return current
    return want.table(current, out=down | observed.ejected)


def _awaited(want: DesiredService, observed: Observed) -> frozenset[str]:
    """Return the ejected that the plan waits for: they are to serve, and one that is to stop does so instead of them.

    Without supervisord nothing stops, so none is waited for.
    """
    out = observed.ejected.intersection(i.name for i in want.instances if i.takes) if observed.ejected else frozenset()
    if not out or not observed.supervisor:
        return frozenset()
    serving = {*want.table(_current(want, observed), out=observed.ejected)} - {None}
    return out if serving - {i.name for i in want.running} else frozenset()


def _out(want: DesiredService, observed: Observed) -> frozenset[str]:
    """Return who is left out when all have been waited for."""
    return observed.ejected - _awaited(want, observed)


def _starts(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    missing, waiting, seconds = [], [], 0.0
    for want in desired.services.values():
        awaited = _awaited(want, observed)
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
            if not seen.ready or (instance.name in awaited and not _rolls(instance, observed)):
                waiting.append(instance.name)
                seconds = max(seconds, want.service.start_timeout)
    if missing:
        yield s.StartInstances(tuple(missing))
    if waiting:
        yield s.WaitReady(tuple(waiting), seconds)
    yield from _elsewhere(desired, observed)


def _elsewhere(desired: Desired, observed: Observed) -> Iterator[s.Step]:
    """Wait for remote instances by themselves: they are not started here, so a dead one must not hold up others."""
    silent = {
        instance.name: (want.service.probe.fall + want.service.probe.rise) * want.service.probe.interval
        for want in desired.services.values()
        for awaited in [_awaited(want, observed)]
        for instance in want.instances
        if instance.rule.remote and instance.takes
        if not observed.seen(instance.name).ready or instance.name in awaited
    }
    if silent:
        yield s.WaitReady(tuple(silent), max(silent.values()))


def _rolling(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    """Restart changed instances one at a time, each without slots while it is away."""
    changed = instances_in_order([i for i in want.running if _rolls(i, observed)])
    current, left_out = _left(want, observed), _out(want, observed)
    for instance in changed:
        out = frozenset({instance.name})
        yield from _point(want, observed, current, out=left_out | out, named=out.intersection(current))
        rule = instance.next_rule
        rules = () if observed.plane.instances.get(instance.name) == rule else (c.SetInstance(rule),)
        yield _restart(want, instance, observed, rules)
        yield s.WaitReady((instance.name,), want.service.start_timeout)
        # The next one is restarted for the same config only if this one lives on.
        yield from [s.LiveOn((instance.name,), want.service.min_ready)] if want.service.min_ready else []
        current = want.table(current, out=left_out | out)
    if changed:
        yield from _point(want, observed, current, out=left_out)


def _restart(
    want: DesiredService, instance: DesiredInstance, observed: Observed, rules: c.Transaction
) -> s.RestartInstance:
    seen, handed = observed.seen(instance.name), bool(want.takers(instance.name, observed.said))
    speaks, drain = seen.status is not None, want.service.drain
    return s.RestartInstance(
        instance.name,
        seen.connections or 0,
        rules,
        handed=handed,
        rate=None if handed else drain.rate,
        grace=drain.deadline if speaks and not handed else None,
        port=instance.next_rule.port if instance.moves else None,
    )


def _lives(desired: Desired, names: Collection[str]) -> Iterator[s.Step]:
    """See that instances that were started live on, when everything else is done."""
    lives = {i.name: want.service.min_ready for want in desired.services.values() for i in want.instances}
    if watched := {name: seconds for name in names if (seconds := lives[name])}:
        yield s.LiveOn(tuple(watched), max(watched.values()))


def _slots(want: DesiredService, observed: Observed) -> Iterator[s.Step]:
    current = _left(want, observed)
    if not any(_rolls(i, observed) for i in want.running):
        yield from _point(want, observed, current, out=_out(want, observed))


def _rolls(instance: DesiredInstance, observed: Observed) -> bool:
    """Return whether a process serves as it was desired earlier, and is to be restarted for that."""
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
    change, plane = route(want, slots, out=out), observed.plane
    count = moved(slots, change.table)
    if count or (slots == plane.slots.get(want.name, ()) and any(slots) and not settled(change, plane)):
        yield s.PointSlots(want.name, named, count, want.service.slots)


def _moved(want: DesiredService, observed: Observed) -> tuple[int, int]:
    current = _current(want, observed)
    changed = moved(current, want.table(current, out=_out(want, observed))) if any(current) else 0
    return changed, want.service.slots


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
    """What is no longer desired: stopped once its connections have ended, then forgotten."""
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
    dropped: list[c.Change] = [c.DropService(name) for name in services]
    dropped += [c.DropInstance(name) for name in left]
    if dropped:
        steps.append(s.DropRules(names([*services, *left]), tuple(dropped)))
    draining = {instance.service for name in busy if (instance := parse_instance(name))}
    if forgotten := sorted(desired.journal.services.keys() - desired.configured.keys() - draining):
        steps.append(s.WriteJournal(f"without {', '.join(forgotten)}", tuple(forgotten)))
    left_to = {name: quantity(observed.seen(name).connections or 0, "connection", "is") for name in busy}
    notes = [
        f"{name} is no longer in the config; {there} draining. Run apply again when they have closed"
        for name, there in left_to.items()
    ]
    return steps, notes
