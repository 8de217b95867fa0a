"""Where a service's new connections go, as one change of the data plane: slots and all that goes with them.

Every part that moves slots does it by `route`: slots alone would leave sticky and pinned clients on an instance that
is out.
"""

from __future__ import annotations

from operator import ne

from portfleet.core.changes import PlaneState, Route
from portfleet.core.desired import DesiredService
from portfleet.core.slots import Table


def route(
    service: DesiredService,
    slots: Table,
    *,
    out: frozenset[str] = frozenset(),
    basis: Table = (),
    probed_out: bool = False,
) -> Route:
    """Return the change that points ``slots`` (as the data plane has them) at the instances that serve.

    ``out``: instances that do not serve now. ``basis``: the table to deal from if the data plane has lost its own.
    ``probed_out``: the instances that are out failed their probes, so that a service without any left does what its
    ``when_empty`` says; otherwise the last state is kept.
    """
    table = service.table(basis or slots, out=out)
    serving = {instance.name for instance in service.instances if instance.takes} - out
    if probed_out and not serving and service.rule.empty != "keep":
        table = (None,) * len(slots)
    return Route(service.rule, table, service.pins if service.rule.pins else {})


def moved(before: Table, after: Table) -> int:
    """Return how many slots differ between two tables, which may differ in length (the rest points nowhere)."""
    if before == after:
        return 0
    pad = (None,) * max(len(before), len(after))
    return sum(map(ne, (before + pad)[: len(pad)], (after + pad)[: len(pad)]))


def settled(change: Route, state: PlaneState) -> bool:
    """Return whether everything but the slots is as ``change`` asks for."""
    rule = change.rule
    if rule.plain:
        return True
    if state.services.get(rule.name) != rule or rule.name in state.unsettled:
        return False
    return not rule.pins or state.pins.get(rule.name, {}) == change.pins
