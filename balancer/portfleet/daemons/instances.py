"""Instances asked by name: which have a process, what they say of themselves, and how many connections they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Service
from portfleet.core.paths import Paths
from portfleet.daemons.answers import read_status
from portfleet.daemons.capability import Heard
from portfleet.daemons.control import Ask, request
from portfleet.daemons.exchange import Control
from portfleet.daemons.talk import carry_out
from portfleet.linux.established import Established
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import Supervisor

#: Seconds an instance has for its answer to an operation, which is in no hurry.
PATIENCE = 2.0


def running(supervisor: Supervisor, paths: Paths) -> dict[str, int]:
    """Return {instance: pid} of every instance that has a process, supervisord's own and adopted ones.

    Raises PortfleetError if supervisord does not answer.
    """
    programs = supervisor.programs()
    return adopted.alive(paths) | {name: info.pid for name, info in programs.items() if info.pid is not None}


def control_of(want: DesiredInstance, pids: Mapping[str, int]) -> Control | None:
    """Return where an instance is asked; None if it has no process on this box, or must not be asked."""
    pid = pids.get(want.name)
    return Control(want.control, pid) if want.control is not None and pid is not None else None


def hear(
    instances: Iterable[DesiredInstance], pids: Mapping[str, int], *, seconds: float = PATIENCE
) -> dict[str, Heard]:
    """Ask ``instances`` for their status, side by side; ``pids`` are all processes by instance."""
    wanted = list(instances)
    places = {want.name: place for want in wanted if (place := control_of(want, pids)) is not None}
    unasked = {want.name: Heard(None, _unasked(want, pids), speaks=False) for want in wanted if want.name not in places}
    return unasked | hear_at(places, seconds=seconds)


def hear_at(places: Mapping[str, Control], *, seconds: float) -> dict[str, Heard]:
    """Return what the instances at these control sockets say of themselves; all are asked side by side."""
    asked = {name: Ask(place, request("status"), read_status) for name, place in places.items()}
    troubles = carry_out([(one, seconds) for one in asked.values()])
    return {
        name: Heard(one.answer, "it has no control socket" if one.absent else trouble, speaks=not one.absent)
        for (name, one), trouble in zip(asked.items(), troubles, strict=True)
    }


def _unasked(want: DesiredInstance, pids: Mapping[str, int]) -> str:
    return 'control = "off": it is never asked' if want.name in pids and not want.asked else "it does not run"


def connections(service: Service, instances: Iterable[DesiredInstance], pids: Mapping[str, int]) -> dict[str, int]:
    """Return how many established connections each instance has: by its own word, otherwise by its sockets."""
    wanted = list(instances)
    heard = hear(wanted, pids)
    established = Established({want.rule.port for want in wanted if heard[want.name].status is None})

    def count(want: DesiredInstance) -> int:
        status, pid = heard[want.name].status, pids.get(want.name)
        if status is not None:
            return status.connections
        return established.of(pid, want.rule.port, service.ports) if pid is not None else 0

    return {want.name: count(want) for want in wanted}
