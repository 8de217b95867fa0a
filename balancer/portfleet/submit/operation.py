"""The command's side of an operation: change the desired state, hand the rest to the watcher, follow it if asked to."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from portfleet.apply.busy import refuse_busy, wake
from portfleet.apply.context import Context
from portfleet.apply.pointer import Pointer
from portfleet.apply.unstartable import refuse_taken, refuse_unproven
from portfleet.core.derive import make_desired, settle
from portfleet.core.desired import Desired, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.operations import Operation, Work
from portfleet.core.records import ServiceRecord
from portfleet.core.routing import moved
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.store.out import left_out
from portfleet.submit.follow import ended, say

#: What a command changes in a service's record before its operation begins.
Change = Callable[[ServiceRecord], ServiceRecord]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every operation has."""
    add_change_options(parser)
    add_wait_options(parser)


def add_change_options(parser: argparse.ArgumentParser) -> None:
    """Add --why and --dry-run, for what is done when the command returns."""
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for lock and history")
    add_dry_run(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")


def add_wait_options(parser: argparse.ArgumentParser) -> None:
    """Add --wait and --no-wait."""
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--wait", action="store_true", default=True, help="return when it has ended (default)")
    wait.add_argument("--no-wait", dest="wait", action="store_false", help="return when it is safe to go on")


def submit(
    context: Context,
    want: DesiredService,
    options: argparse.Namespace,
    *,
    work: Work,
    words: str,
    change: Change | None = None,
    becomes: Change | None = None,
    point: bool = True,
    owned: Iterable[str] = (),
    starts: Iterable[str] = (),
    undo: str = "",
) -> Exit:
    """Begin ``work``. With ``point`` its slots have been pointed when this returns; with --wait it is followed.

    ``words`` say what is done, ``undo`` names the command that undoes it. ``change`` is made in the journal at once;
    ``becomes`` is what it will have come to, for --dry-run (default: the same). ``owned`` are the instances that the
    operation starts and stops itself, ``starts`` those that it starts for certain. Raises PortfleetError: locked
    (exit 5), refused by the kernel (then nothing of it is left), an instance that cannot be started.
    """
    if starting := {*starts}:
        then = _then(context, want, becomes or change)
        programs = (program for name, program in then.programs.items() if name in starting)
        refuse_unproven(context.prove(programs))
    if options.dry_run:
        return _dry_run(context, want, verb=work.verb, words=words, change=becomes or change)
    number = begin(
        context, want, work=work, words=words, why=options.why, change=change, becomes=becomes, point=point, owned=owned
    )
    if options.wait:
        return ended(context, number, undo=undo)
    words = f"begun: {words}. Follow it with: portfleet history --follow {number}; undo with: portfleet cancel"
    return say(context, {"number": number, "verb": work.verb, "ok": True, "outcome": "begun"}, f"{words} {want.name}")


def begin(
    context: Context,
    want: DesiredService,
    *,
    work: Work,
    words: str,
    why: str,
    change: Change | None = None,
    becomes: Change | None = None,
    point: bool = True,
    owned: Iterable[str] = (),
) -> int:
    """Begin ``work`` and tell the watcher; return its number. Arguments and errors are those of `submit`."""
    _refuse_moving(want)
    with locks.operation(context.paths.operation_lock(want.name), service=want.name, why=f"{work.verb}: {words}"):
        refuse_busy(context, want.name)
        refuse_taken(context, _then(context, want, becomes or change), want.name)
        wanted = Operation(
            0, want.name, words + (f" ({why})" if why else ""), locks.operator(), now(), work, owned=tuple(owned)
        )
        number = _register(context, want, wanted, change)
        if point:
            try:
                point_slots(context, want.name)
            except PortfleetError:  # nothing was applied, so nothing is to follow
                context.store.update(partial(_withdrawn, want=want, number=number))
                raise
    wake(context)
    return number


def _dry_run(context: Context, want: DesiredService, *, verb: str, words: str, change: Change | None) -> Exit:
    _refuse_moving(want)
    current = context.plane.read_slots(want.name)
    then = _then(context, want, change).services[want.name]
    after = then.table(current, out=frozenset(left_out(context.paths, current)))
    count, total = moved(current, after), want.service.slots
    entry = {"verb": verb, "service": want.name, "dry_run": True, "words": words, "slots_moved": count, "slots": total}
    return say(context, entry, f"would {words}; {count:,} of {total:,} slots would move; nothing was done")


def _refuse_moving(want: DesiredService) -> None:
    if any(i.moves for i in want.instances):
        words = f"ports of {want.name} are being changed: some of its instances run on their old ones"
        raise PortfleetError(words, hint="portfleet apply, then again")


def _then(context: Context, want: DesiredService, change: Change | None) -> Desired:
    """Return what shall be after ``change``."""
    journal = settle(context.applied_fleet, context.journal(context.applied_fleet))
    if change is not None:
        journal = journal.with_service(want.name, change(journal.services[want.name]))
    return make_desired(context.applied_fleet, journal, context.paths)


def point_slots(context: Context, service: str) -> None:
    """Point a service's slots as they shall be now; who is out by the watcher's word gets none."""
    want = context.desired(context.applied_fleet).services[service]
    pointer = Pointer(context.plane, context.paths.table_lock)
    with pointer.hold():
        pointer.point(want, out=lambda slots: frozenset(left_out(context.paths, slots)))


def _register(context: Context, want: DesiredService, wanted: Operation, change: Change | None) -> int:
    """Write ``wanted`` and its change into the journal; return its number.

    Raises PortfleetError (exit 5) if the journal says of the service something else than what ``want`` was made of:
    what the command decided, it decided by that.
    """
    number = 0

    def apply(journal: Journal) -> Journal:
        nonlocal number
        number = journal.next_number()
        if want.name in journal.services:
            journal = settle(context.applied_fleet, journal)
        record = journal.services.get(want.name, want.record)
        if record != want.record:
            raise PortfleetError(
                f"service {want.name} is locked: another command changed it while this one was looking",
                hint="see what it is now (portfleet status, portfleet history), then ask again",
                code=Exit.LOCKED,
            )
        journal = journal.with_service(want.name, change(record) if change else record)
        journal = settle(context.applied_fleet, journal)  # with the numbers and homes of new instances
        return journal.with_operation(replace(wanted, number=number))

    context.store.update(apply)
    return number


def _withdrawn(journal: Journal, *, want: DesiredService, number: int) -> Journal:
    """Return a journal without operation ``number``, and ``want`` as it was before it."""
    return journal.without_operation(number).with_service(want.name, want.record)
