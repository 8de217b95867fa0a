"""What is looked at before anything is begun: what cannot end well is refused with every reason."""

from __future__ import annotations

import sys

from portfleet.apply import secrets
from portfleet.apply.context import Context
from portfleet.apply.files import Files
from portfleet.apply.look import Look
from portfleet.apply.unstartable import refuse_strangers, refuse_unproven
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Fleet
from portfleet.core.observed import Observed
from portfleet.core.paths import Paths
from portfleet.core.plan import Plan
from portfleet.core.plan_order import instances_in_order, services_in_order
from portfleet.core.printable import quantity
from portfleet.core.steps import RestartInstance, StartInstances

#: Instances that are named with what becomes of their connections.
_NAMED = 4


def refuse(context: Context, observed: Observed) -> None:
    """Raise PortfleetError if ports are taken, or the fleet cannot be on its data plane on this machine."""
    context.refuse_other_plane()
    refuse_strangers(observed.strangers)
    if problems := context.plane.problems(context.fleet):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)
    if observed.plane.home is None and (lacks := context.plane.missing()):
        raise PortfleetError(
            f"this machine lacks what {context.plane.traits.name} needs; nothing was changed\n  " + "\n  ".join(lacks),
            hint=f"{context.plane.traits.requires}; portfleet doctor looks again",
            code=Exit.KERNEL,
        )


def prove(context: Context, desired: Desired, plan: Plan) -> None:
    """Raise PortfleetError if the plan would end an instance whose successor, or start one, that cannot be executed.

    Of a config that was applied before only restarts are refused: what else cannot be started is left out, as at boot.
    """
    names: list[str] = []
    for step in plan.steps:
        if isinstance(step, RestartInstance):
            names.append(step.name)
        elif isinstance(step, StartInstances) and not context.unchanged:
            names += step.names
    refuse_unproven(context.prove(desired.programs[name] for name in names if name in desired.programs))


def file_problems(desired: Desired, paths: Paths) -> list[Problem]:
    """Return what is wrong with the files that instances are given, each once."""
    return list(dict.fromkeys(Files(desired, paths).faults().values()))


def page_problems(fleet: Fleet, paths: Paths) -> list[Problem]:
    """Return what is wrong with the file of the page's token."""
    if fleet.page.token_file is None:
        return []
    try:
        secrets.token(paths.config.parent / fleet.page.token_file)
    except PortfleetError as error:
        return [Problem("page.token_file", error.message, error.hint)]
    return []


def refuse_faulty_files(context: Context, desired: Desired) -> None:
    """Raise PortfleetError (exit 2) if files or secrets of instances are not as they must be."""
    if problems := file_problems(desired, context.paths):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)


def refuse_blocked(context: Context, desired: Desired) -> None:
    """Raise PortfleetError if an instance that is to have another port would find it taken when its turn comes."""
    look = Look(context.supervisor.programs(), context.paths, probe=False, ports=desired.local_ports())
    left: set[int] = set()
    for want in services_in_order(desired.services.values()):
        for instance in instances_in_order(i for i in want.instances if i.program is not None):
            port = instance.next_rule.port
            if instance.moves and port not in left and (holder := look.holder(port)):
                raise PortfleetError(
                    f"{instance.name} cannot move to port {port}, on which {holder} listens; nothing was changed",
                    hint=f"choose ports for {want.name} that are free now; another apply can move it once more",
                )
            if instance.moves:
                left.add(instance.rule.port)


def cut(plan: Plan) -> list[RestartInstance]:
    """Return the restarts that close connections for which no ``drain.rate`` is stated."""
    restarts = (step for step in plan.steps if isinstance(step, RestartInstance))
    return [step for step in restarts if step.connections and not step.handed and not step.rate]


def ask(plan: Plan, *, yes: bool) -> None:
    """Have the operator agree to connections that would be closed by restarts; raises PortfleetError if not.

    That has been agreed to with ``yes``, and by a config that states a ``drain.rate``, at which they are closed then.
    """
    closing = cut(plan)
    if yes or not closing:
        return
    each = [f"{step.name}: {step.connections:,} {step.becomes(step.connections)}" for step in closing[:_NAMED]]
    each += [f"and {quantity(len(closing) - _NAMED, 'instance')} more"] * (len(closing) > _NAMED)
    there = quantity(sum(step.connections for step in closing), "connection")
    words = (
        f"{there} that cannot be handed off would be closed by restarts, "
        f"one instance after the other, and who connects again may meet one whose turn comes ({'; '.join(each)})"
    )
    if not sys.stdin.isatty():
        hint = (
            "portfleet apply --yes; or drain.rate in the config, to close so many a second; or a cutover, which leaves "
            "them with the old colour"
        )
        raise PortfleetError(f"{words}; nothing was changed", hint=hint)
    print(f"{words}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PortfleetError("left as it was")
