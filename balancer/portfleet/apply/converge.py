"""load → desired → observe → plan → show → execute: what `apply` and `up` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from portfleet.apply import preflight
from portfleet.apply.busy import refuse_busy
from portfleet.apply.context import Context
from portfleet.apply.execute import Executor
from portfleet.core.derive import learned
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import JournalError
from portfleet.core.observed import Observed
from portfleet.core.plan import Plan, make_plan
from portfleet.screen.output import Steps, paint
from portfleet.store import atomic, locks
from portfleet.store import journal as journal_file
from portfleet.store.directories import make_directories


def look(context: Context) -> tuple[Desired, Observed, Plan]:
    """Read everything and give what shall be, what is, and the plan between them.

    Raises PortfleetError while supervisord shuts down: what runs is not known then.
    """
    context.supervisor.refuse_ending()
    desired = context.desired(context.fleet)
    observed = context.observe(desired)
    desired = learned(desired, observed.instances, context.paths)
    return desired, observed, make_plan(desired, observed, journal_differs=_journal_differs(context, desired))


def converge(context: Context, *, why: str, start: Callable[[], None] | None = None) -> Exit:
    """Make what is into what shall be; gives DONE, or TIMEOUT when some instances did not become ready.

    ``start`` starts supervisord, under the locks: its watcher would else begin to advance operations meanwhile.
    """
    fleet = context.fleet
    make_directories(context.paths)
    context.supervisor.refuse_ending()
    if start is None and not context.supervisor.running():
        raise PortfleetError("supervisord is not running", hint="start it and the fleet with: portfleet up")
    with locks.operations(context.paths.operation_lock, list(fleet.services), why=why):
        _refuse_busy(context, fleet.services)
        if start is not None:
            start()
        with locks.table(context.paths.table_lock):
            pass  # a repair of the watcher's that began before our locks has ended: what we look at now stays so
        desired, observed, plan = look(context)
        preflight.refuse(fleet, observed)
        # Before the first step, so that the watcher's idea of what shall be is the new one while it is being made.
        # The text that was checked: somebody may write the file anew in this moment.
        atomic.write(context.paths.applied, context.config_text)
        executor = Executor(
            desired=desired,
            plane=context.plane,
            supervisor=context.supervisor,
            paths=context.paths,
            say=Steps(len(plan.steps)),
        )
        executor.run(plan.steps)
    for note in (*plan.notes, *executor.notes):
        context.say(note)
    return _report(desired, plan, executor.failed)


def _refuse_busy(context: Context, services: Iterable[str]) -> None:
    """Refuse to change what an operation works on; one without a watcher waits for its return, by `up` too."""
    if locks.held(context.paths.watch_lock):
        for service in services:
            refuse_busy(context, service)


def _journal_differs(context: Context, desired: Desired) -> bool:
    try:
        return journal_file.read(context.paths.journal) != desired.journal
    except JournalError:
        return True


def _report(desired: Desired, plan: Plan, failed: dict[str, str]) -> Exit:
    serving = [want.name for want in desired.instances() if want.takes and want.name not in failed]
    services = ", ".join(desired.services) or "every service is down"
    if failed:
        elsewhere = {want.name for want in desired.instances() if want.rule.remote}
        print(paint(f"{services}: {len(serving)} instances serve, {len(failed)} do not:", "red", file=sys.stdout))
        for name, reason in failed.items():
            see = "status" if name in elsewhere else f"logs {desired_path(name)}"
            print(f"  {name}: {reason}\n    see: portfleet {see}")
        return Exit.TIMEOUT
    done = "is as wanted" if plan.steps else "was as wanted already; nothing was done"
    print(f"{services}: {len(serving)} instances serve; everything {done}. Undo with: portfleet down")
    return Exit.DONE


def desired_path(name: str) -> str:
    """Return an instance the way the command line takes it: SERVICE/INSTANCE."""
    from portfleet.core.model import parse_instance

    instance = parse_instance(name)
    return f"{instance.service}/{name}" if instance else name
