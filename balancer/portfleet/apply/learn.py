"""Who keeps to ``max_connections`` itself: learned from instances as soon as they are ready (docs/decisions/0017)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from portfleet.apply.programs import Programs
from portfleet.core.changes import Change, PlaneState, SetInstance, SetService, Transaction
from portfleet.core.derive import learned
from portfleet.core.desired import Desired, DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import parse_instance
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.dataplane.interface import DataPlane
from portfleet.store import locks
from portfleet.store.journal import JournalStore


def learn_from(programs: Programs, names: Iterable[str], *, plane: DataPlane, store: JournalStore) -> None:
    """Take in what the services of instances that were waited for say of ``max_connections``; it blocks."""
    services = {instance.service for name in names if (instance := parse_instance(name))}
    limited = [w for w in programs.desired.services.values() if w.name in services and w.service.max_connections]
    if limited:
        seen = programs.seen((want, one) for want in limited for one in want.running)
        programs.desired = learn(programs.desired, seen, plane=plane, store=store, paths=programs.paths)


def learn(
    desired: Desired, seen: Mapping[str, ObservedInstance], *, plane: DataPlane, store: JournalStore, paths: Paths
) -> Desired:
    """Take into journal and rules what the instances that were looked at say; return what shall be by that."""
    after = learned(desired, seen, paths)
    changed = [want for name, want in after.services.items() if want is not desired.services[name]]
    if changed:
        store.update(lambda journal: noted(journal, changed))
        with locks.table(paths.table_lock):
            state = plane.observe()
            for want in changed:
                if changes := limit_changes(want, state):
                    plane.run(changes)
    return after


def noted(journal: Journal, wants: Iterable[DesiredService]) -> Journal:
    """Return ``journal`` with what was learned of the services ``wants``."""
    for want in wants:
        record = replace(journal.services.get(want.name, want.record), counts=want.record.counts)
        journal = journal.with_service(want.name, record)
    return journal


def limit_changes(want: DesiredService, state: PlaneState) -> Transaction:
    """Return what has the data plane keep the limits of a service as it shall; all else of its rules stays as it is.

    An instance that is to be restarted later still serves by its old rules.
    """
    changes: list[Change] = []
    for instance in want.instances:
        rule, now = instance.rule, state.instances.get(instance.name)
        if now is not None and (now.limit, now.spills) != (rule.limit, rule.spills):
            changes.append(SetInstance(replace(now, limit=rule.limit, spills=rule.spills)))
    service = state.services.get(want.name)
    if service is not None and (service.limited, service.tries) != (want.rule.limited, want.rule.tries):
        changes.append(SetService(replace(service, limited=want.rule.limited, tries=want.rule.tries)))
    return tuple(changes)
