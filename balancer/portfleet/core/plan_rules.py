"""Which rules a plan sets, and in which transactions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from portfleet.core import changes as c
from portfleet.core import steps as s
from portfleet.core.access import Access
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.observed import Observed
from portfleet.core.printable import names


def rule_steps(wants: Iterable[DesiredService], observed: Observed, at_once: int) -> Iterator[s.Step]:
    """Set rules that are not as they must be; many new services in one transaction, for each has a price of its own."""
    new: list[tuple[str, list[c.Change]]] = []
    for want in wants:
        if not (changes := _rules_of(want, observed)):
            continue
        if want.name not in observed.plane.services:
            new.append((want.name, changes))
            continue
        touched = [change.rule.name for change in changes if isinstance(change, c.SetInstance | c.SetService)]
        drifted = " (another program changed them)" if any(name in observed.plane.drift for name in touched) else ""
        yield s.LoadRules(f"{want.name}{drifted}", tuple(changes))
    for first in range(0, len(new), at_once):
        some = new[first : first + at_once]
        words = names([name for name, _ in some], "services")
        yield s.LoadRules(words, tuple(change for _, changes in some for change in changes))


def _rules_of(want: DesiredService, observed: Observed) -> list[c.Change]:
    plane = observed.plane
    changes: list[c.Change] = [
        c.SetInstance(rule)
        for instance in want.instances
        if plane.instances.get(instance.name) != (rule := _rule(instance, observed))
        and not _with_restart(instance, observed)
    ]
    if plane.services.get(want.name) != want.rule:
        changes.append(c.SetService(want.rule))
    access = want.access(observed.at)
    if plane.access.get(want.name, Access()) != access:
        changes.append(c.SetAccess(want.name, access))
    return changes


def _rule(instance: DesiredInstance, observed: Observed) -> c.InstanceRule:
    """Return the rule that an instance has before it is restarted; one that does not serve is started anew first."""
    return instance.rule if observed.seen(instance.name).ready else instance.next_rule


def _with_restart(instance: DesiredInstance, observed: Observed) -> bool:
    """Return whether an instance serves by its old rules until its restart, from which its port may be another."""
    old = instance.name in observed.outdated and observed.seen(instance.name).ready
    return old and instance.name in observed.plane.instances
