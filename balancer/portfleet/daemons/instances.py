"""Instances asked by name: which have a process, and how many connections they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portfleet.core.desired import DesiredInstance
from portfleet.core.paths import Paths
from portfleet.daemons.control import ControlError, ask
from portfleet.linux import sockdiag
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import Supervisor

#: Seconds an instance has for its answer to an operation, which is in no hurry.
PATIENCE = 2.0


def running(supervisor: Supervisor, paths: Paths) -> dict[str, int]:
    """Return {instance: pid} of every instance that has a process, supervisord's own and adopted ones.

    Raises PortfleetError if supervisord does not answer.
    """
    programs = supervisor.programs()
    return adopted.alive(paths.processes) | {name: info.pid for name, info in programs.items() if info.pid is not None}


def connections(instances: Iterable[DesiredInstance], pids: Mapping[str, int]) -> dict[str, int]:
    """Return how many established connections each instance has; one without a process has none.

    One with a control socket that does not answer counts as having one: it is never taken for empty.
    """
    found = list(instances)
    by_port = sockdiag.established() if any(not want.ours for want in found) else {}
    return {
        want.name: 0 if want.name not in pids else _asked(want) if want.ours else by_port.get(want.rule.port, 0)
        for want in found
    }


def _asked(want: DesiredInstance) -> int:
    try:
        return int(ask(want.control, "status", seconds=PATIENCE)["connections"])
    except ControlError:
        return 1
