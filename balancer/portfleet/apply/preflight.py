"""What is looked at before anything is begun: what cannot end well is refused with every reason."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from portfleet.apply.context import Context
from portfleet.apply.files import Files
from portfleet.apply.observe import Look
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.observed import Observed
from portfleet.core.paths import Paths
from portfleet.core.plan import Plan
from portfleet.core.steps import RestartInstance


def refuse_taken(context: Context, desired: Desired, service: str) -> None:
    """Raise PortfleetError if another process has the port of an instance of ``service`` that is to be started."""
    look = Look(context.supervisor.programs(), context.paths, probe=False, ports=desired.local_ports())
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
    context.refuse_other_plane()
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


def file_problems(desired: Desired, paths: Paths) -> list[Problem]:
    """Return what is wrong with the files that instances are given, each once."""
    return list(dict.fromkeys(Files(desired, paths).faults().values()))


def refuse_faulty_files(context: Context, desired: Desired) -> None:
    """Raise PortfleetError (exit 2) if files or secrets of instances are not as they must be."""
    if problems := file_problems(desired, context.paths):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)


def refuse_moved(desired: Desired, observed: Observed) -> None:
    """Raise PortfleetError if instances that run are to have other ports: clients are sent to the new ones at once."""
    rules = observed.plane.instances
    for want in desired.services.values():
        local = [i for i in want.instances if i.program is not None and observed.seen(i.name).pid is not None]
        moved = [i for i in local if (rule := rules.get(i.name)) is not None and rule.port != i.rule.port]
        if moved:
            raise PortfleetError(
                f"ports of {want.name} change while {len(moved)} of its instances run; nothing was changed",
                hint=f"portfleet down {want.name}, then portfleet up; or keep its ports",
            )


def ask(desired: Desired, plan: Plan, *, yes: bool) -> None:
    """Have the operator agree to connections that would be closed by restarts; raises PortfleetError if not.

    Where the config states a ``drain.rate``, or with ``yes``, that has been agreed to.
    """
    agreed = {i.name for want in desired.services.values() if want.service.drain.rate for i in want.instances}
    restarts = [step for step in plan.steps if isinstance(step, RestartInstance)]
    cut = {step.name: step.connections for step in restarts if step.connections and not step.handed}
    if yes or not (cut := {name: count for name, count in cut.items() if name not in agreed}):
        return
    each = ", ".join(f"{name} {count:,}" for name, count in cut.items())
    words = f"{sum(cut.values()):,} connections that cannot be handed off would be closed by restarts ({each})"
    if not sys.stdin.isatty():
        hint = "portfleet apply --yes; or a cutover, which leaves them with the old colour"
        raise PortfleetError(f"{words}; nothing was changed", hint=hint)
    print(f"{words}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PortfleetError("left as it was")
