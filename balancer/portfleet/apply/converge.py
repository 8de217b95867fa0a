"""load → desired → observe → plan → show → execute: what `apply` and `up` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from portfleet.apply import content, preflight
from portfleet.apply.busy import refuse_busy
from portfleet.apply.context import Context
from portfleet.apply.earlier import Earlier
from portfleet.apply.files import Files
from portfleet.apply.noting import note_done
from portfleet.apply.overseers import await_watcher
from portfleet.core.derive import learned
from portfleet.core.desired import Desired
from portfleet.core.difference import differences
from portfleet.core.errors import ConfigError, Exit, PortfleetError
from portfleet.core.journal import JournalError
from portfleet.core.observed import Observed
from portfleet.core.plan import Plan, make_plan
from portfleet.core.printable import quantity
from portfleet.core.program import WATCHER
from portfleet.core.states import Presence
from portfleet.screen.outcome import outcome
from portfleet.screen.output import Steps, fit, paint, print_json
from portfleet.store import atomic, locks
from portfleet.store.directories import make_directories
from portfleet.store.events import record
from portfleet.supervise.presence import Overseer
from portfleet.supervise.supervisor import ShuttingDown

if TYPE_CHECKING:
    from portfleet.apply.execute import Executor  # not for `plan`

#: Seconds until another look, if restarts would close what may be a probe under way.
_MOMENT = 0.05


def look(context: Context, *, by_word: bool = False) -> tuple[Desired, Observed, Plan]:
    """Read everything and give what shall be, what is, and the plan between them; ``by_word`` as `Context.observe`.

    Raises PortfleetError while supervisord shuts down: what runs is not known then.
    """
    there = context.program_texts()  # once for both: there may be 1,024
    desired = context.desired(context.fleet, applying=True, there=there)
    observed = context.observe(desired, by_word=by_word, there=there)
    if observed.supervisord is Presence.ENDING:
        raise ShuttingDown
    if (after := learned(desired, observed.instances, context.paths)) is not desired:
        desired = after.standing(context.ports(there))
    plan = make_plan(
        desired,
        observed,
        journal_differs=_journal_differs(context, desired),
        services_at_once=context.plane.traits.services_at_once,
    )
    notes = [f"{path}: {why}; apply writes it anew or sets it aside" for path, why in observed.damaged.items()]
    found = (content.changed(want, observed, context.paths) for want in desired.services.values())
    notes += [changed.words() for changed in found if changed]
    notes += dict.fromkeys(problem.message for problem in Files(desired, context.paths).faults().values())
    return desired, observed, replace(plan, notes=(*plan.notes, *notes))


def converge(
    context: Context,
    *,
    why: str,
    start: Callable[[], None] | None = None,
    done: Sequence[str] = (),
    undo: str | None = None,
    yes: bool = False,
    returns: bool = False,
) -> Exit:
    """Bring the fleet to its desired state; return DONE, or TIMEOUT if something is not ready in time or was left out.

    ``start`` starts supervisord, under the locks: its watcher would else begin to advance operations meanwhile.
    ``yes``: connections may be closed by restarts; ``returns``: to an earlier config. ``done`` are steps that the verb
    has done itself, or does by ``start``; ``undo`` undoes them and what is done here.
    """
    fleet = context.fleet
    make_directories(context.paths)
    context.supervisor.refuse_ending()
    if start is None and not context.supervisor.running():
        raise PortfleetError("supervisord is not running", hint="start it and the fleet with: portfleet up")
    with locks.operations(context.paths.operation_lock, list(fleet.services), why=why):
        _refuse_busy(context, fleet.services)
        done = [*done, *context.put_right()]  # before anything reads them
        if start is not None:
            start()
        with locks.table(context.paths.table_lock):
            pass  # a repair of the watcher's that began before our locks has ended: what we look at now stays so
        desired, observed, plan = look(context)
        if not yes and preflight.cut(plan):
            time.sleep(_MOMENT)
            desired, observed, plan = look(context)
        preflight.refuse(context, observed)
        preflight.refuse_faulty_files(context, desired)
        preflight.refuse_blocked(context, desired)
        preflight.prove(context, desired, plan)
        preflight.ask(plan, yes=yes)
        # Before the first step, so that the watcher's idea of what shall be is the new one while it is being made.
        # The text that was checked: the file may be written anew at this moment.
        changed = _differences(context)
        if changed and not returns and context.paths.applied.exists():
            Earlier(context.paths).keep(context.applied_text)
            undo = None if done else "portfleet apply --undo"
        atomic.write(context.paths.applied, context.config_text)
        executor = context.executor(desired, say=Steps(len(plan.steps)))
        for note in plan.notes:
            context.say(note)
        with _told(context, why, plan):
            executor.run(plan.steps)
        serving = [want.name for want in desired.instances() if want.takes and want.name not in executor.failed]
        if changed or plan.steps or done:
            words = "; ".join(changed) or "no change of the config"
            outcome_words = _served(serving, executor.ended) + _left_out(executor)
            words = f"return to the config before: {words}" if returns else words
            note_done(context, why, words, outcome_words, ok=executor.complete)
    notes = (*plan.notes, *executor.notes)
    for note in executor.notes:
        context.say(note)
    steps, failed = [*done, *plan.describe()], executor.failed
    _tell_end(context, why, plan, executor, serving=len(serving))
    watcher = await_watcher(context)
    code = Exit.DONE if watcher.works and executor.complete else Exit.TIMEOUT
    if context.json:
        notes += () if watcher.works else (watcher.trouble.words,)
        print_json(
            outcome(code, steps=steps, serving=serving, failed=failed, notes=notes, undo=undo, ended=executor.ended)
        )
    else:
        served = _served(serving, executor.ended)
        _report(desired, served, failed, watcher, changed=bool(plan.steps), left=bool(executor.notes), undo=undo)
    return code


def _differences(context: Context) -> list[str]:
    """Return in words what is applied anew; nothing of a config that was damaged can be told."""
    if context.unchanged:
        return []
    try:
        return differences(context.read_applied(), context.fleet) or ["comments"]
    except ConfigError:
        return ["the first config"]


def _served(serving: Sequence[str], ended: int) -> str:
    closed = f", {quantity(ended, 'connection', 'was')} closed by restarts" if ended else ""
    return f"{quantity(len(serving), 'instance')} serving{closed}"


def _left_out(executor: Executor) -> str:
    return "".join(f"; {words}" for words in executor.undone())


@contextmanager
def _told(context: Context, verb: str, plan: Plan) -> Iterator[None]:
    """Have it be an event that steps are done, and that they could not be."""
    if plan.steps:
        record(context.paths.events, "apply-begun", verb=verb, changes=len(plan.steps))
    try:
        yield
    except PortfleetError as error:
        record(context.paths.events, "apply-failed", verb=verb, reason=error.message.splitlines()[0])
        raise


def _tell_end(context: Context, verb: str, plan: Plan, executor: Executor, *, serving: int) -> None:
    if undone := executor.undone():
        record(context.paths.events, "apply-failed", verb=verb, reason="; ".join(undone))
    elif plan.steps:
        record(context.paths.events, "applied", verb=verb, serving=serving)


def _refuse_busy(context: Context, services: Iterable[str]) -> None:
    """Refuse to change what an operation works on; one without a watcher waits for its return, by `up` too."""
    if locks.held(context.paths.watch_lock):
        for service in services:
            refuse_busy(context, service)


def _journal_differs(context: Context, desired: Desired) -> bool:
    try:
        return context.store.read() != desired.journal
    except JournalError:
        return True


def _report(
    desired: Desired, served: str, failed: dict[str, str], watcher: Overseer, *,
    changed: bool, left: bool, undo: str | None,
) -> None:  # fmt: skip
    services = ", ".join(desired.services) or "every service is down"
    if not watcher.works:
        print(f"{paint(fit(watcher.trouble.words), 'red')}\n  see: portfleet logs {WATCHER}")
    if failed:
        elsewhere = {want.name for want in desired.instances() if want.rule.remote}
        print(paint(fit(f"{services}: {served}, {len(failed)} not:"), "red"))
        for name, reason in failed.items():
            see = "status" if name in elsewhere else f"logs {desired_path(name)}"
            print(f"{fit(f'  {name}: {reason}')}\n    see: portfleet {see}")
        return
    done = "the fleet matches the config." if changed else "already up to date."
    if left:
        done = "not everything is done, see above."
    if not watcher.works:
        done = "without a watcher."
    undoing = f" Undo with: {undo}" if undo else ""
    print(fit(f"{services}: {served}; {done}{undoing}"))


def desired_path(name: str) -> str:
    """Return an instance the way the command line takes it: SERVICE/INSTANCE."""
    from portfleet.core.model import parse_instance

    instance = parse_instance(name)
    return f"{instance.service}/{name}" if instance else name
