"""In what order instances that are to have other ports are restarted: each when its new port has been left."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.desired import DesiredInstance, DesiredService


def instances_in_order(changed: Iterable[DesiredInstance]) -> list[DesiredInstance]:
    """Return instances in an order in which each finds its new port free, if there is one."""
    left, found = list(changed), list[DesiredInstance]()
    while left:
        held = {i.rule.port for i in left}
        free = next((i for i in left if not i.moves or i.moves.port not in held), left[0])
        left.remove(free)
        found.append(free)
    return found


def services_in_order(wants: Iterable[DesiredService]) -> list[DesiredService]:
    """Return services in an order in which each finds its new ports left by the others, if there is one."""
    left, found = list(wants), list[DesiredService]()
    while left:
        free = next((want for want in left if not _blocked(want, left)), left[0])
        left.remove(free)
        found.append(free)
    return found


def _blocked(want: DesiredService, others: Iterable[DesiredService]) -> bool:
    """Return whether others run on ports that a service is to have."""
    ports = {i.moves.port for i in want.instances if i.moves}
    return bool(ports) and any(i.rule.port in ports for one in others if one is not want for i in one.instances)
