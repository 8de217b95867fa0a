"""What is looked at before anything is begun: what cannot end well is refused with every reason."""

from __future__ import annotations

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.observed import Observed


def refuse(context: Context, observed: Observed) -> None:
    """Raise PortfleetError if ports are taken, or the fleet cannot be on its data plane on this machine."""
    context.refuse_other_plane()
    if observed.strangers:
        lines = [f"{name}: {words}" for name, words in sorted(observed.strangers.items())]
        raise PortfleetError(
            "ports of instances are taken by others; nothing was changed\n  " + "\n  ".join(lines),
            hint="end that process, or choose other ports in fleet.toml",
        )
    if problems := context.plane.problems(context.fleet):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)
    if observed.plane.home is None and (lacks := context.plane.missing()):
        raise PortfleetError(
            f"this machine lacks what {context.plane.traits.name} needs; nothing was changed\n  " + "\n  ".join(lacks),
            hint=f"{context.plane.traits.requires}; portfleet doctor looks again",
            code=Exit.KERNEL,
        )
