"""What is looked at before anything is begun: what cannot end well is refused with every reason."""

from __future__ import annotations

from collections.abc import Mapping

from portfleet.apply.context import Context
from portfleet.apply.observe import Look, ports_of
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.observed import Observed


def refuse_taken(context: Context, desired: Desired, service: str) -> None:
    """Raise PortfleetError if another process has the port of an instance of ``service`` that is to be started."""
    look = Look(context.supervisor.programs(), context.paths, probe=False, ports=ports_of(desired))
    want = desired.services[service]
    starting = {instance.name for instance in want.running if instance.startable}
    _refuse({name: words for name, words in look.strangers(desired).items() if name in starting})


def _refuse(strangers: Mapping[str, str]) -> None:
    if strangers:
        lines = [f"{name}: {words}" for name, words in sorted(strangers.items())]
        raise PortfleetError(
            "ports of instances are taken by others; nothing was changed\n  " + "\n  ".join(lines),
            hint="choose other ports in fleet.toml, or end what listens there if it is not needed",
        )


def refuse(context: Context, observed: Observed) -> None:
    """Raise PortfleetError if ports are taken, or the fleet cannot be on its data plane on this machine."""
    _refuse(observed.strangers)
    if problems := context.plane.problems(context.fleet):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)
    if observed.plane.home is None and (lacks := context.plane.missing()):
        raise PortfleetError(
            f"this machine lacks what {context.plane.traits.name} needs; nothing was changed\n  " + "\n  ".join(lacks),
            hint=f"{context.plane.traits.requires}; portfleet doctor looks again",
            code=Exit.KERNEL,
        )
