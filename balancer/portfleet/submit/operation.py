"""The command's side of an operation: change what is wanted, hand the rest to the watcher, follow it if asked to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from portfleet.apply.context import Context
from portfleet.apply.execute import Executor
from portfleet.core.desired import make_desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import HistoryEntry, Journal, JournalError, Operation, ServiceRecord
from portfleet.core.model import parse_instance
from portfleet.core.routing import slot_moves
from portfleet.core.wants import InstanceWant, ServiceWant
from portfleet.daemons import control
from portfleet.screen.bar import Bar
from portfleet.store import journal as journal_file
from portfleet.store import locks
from portfleet.store import out as outset
from portfleet.store.clock import now

#: What a command changes in a service's record before its operation begins.
Change = Callable[[ServiceRecord], ServiceRecord]
#: Seconds without a watcher after which who waits for an operation is told.
_NO_WATCHER = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every operation has."""
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for lock and history")
    add_wait_options(parser)


def add_wait_options(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, --wait and --no-wait."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--wait", action="store_true", default=True, help="return when it has ended (default)")
    wait.add_argument("--no-wait", dest="wait", action="store_false", help="return when it is safe to go on")


def service_want(context: Context, name: str) -> ServiceWant:
    """Give a service as it shall be by the config that was applied last; raises PortfleetError."""
    return context.service_up(context.applied_fleet, name)


def record_of(context: Context, service: str) -> ServiceRecord:
    """Give a service's record in the journal."""
    return context.desired(context.applied_fleet).journal.services[service]


def targets(context: Context, text: str) -> tuple[ServiceWant, list[InstanceWant]]:
    """Read SERVICE or SERVICE/INSTANCE; gives the service and the instances meant (all of the live colour).

    Raises PortfleetError (exit 2) for what does not exist.
    """
    service, _, name = text.partition("/")
    if not name and (instance := parse_instance(service)):
        service, name = instance.service, service
    want = service_want(context, service)
    live = [i for i in want.instances if i.instance.colour in (want.live, None)]
    if not name:
        return want, [i for i in live if i.instance.colour is not None]
    full = name if parse_instance(name) else f"{service}-{want.live}-{name}"
    found = [i for i in want.instances if i.name == full]
    if not found:
        raise PortfleetError(
            f"service {service} has no instance {name!r}",
            hint=f"instances are: {', '.join(i.name for i in live)}",
            code=Exit.USAGE,
        )
    return want, found


def serving(context: Context, want: ServiceWant) -> list[InstanceWant]:
    """Give the instances that serve now: they shall take connections and are not out by the watcher's word."""
    out = outset.left_out(context.paths, context.kernel.read_slots(want.name))
    return [i for i in want.instances if i.takes and i.name not in out]


def submit(
    context: Context,
    want: ServiceWant,
    options: argparse.Namespace,
    *,
    verb: str,
    words: str,
    arguments: Mapping[str, Any],
    change: Change | None = None,
    becomes: Change | None = None,
    point: bool = True,
    owned: Iterable[str] = (),
    undo: str = "",
) -> Exit:
    """Begin an operation. With ``point`` its slots have been pointed when this returns; with --wait it is followed.

    ``words`` say what is done, ``undo`` names the command that undoes it. ``change`` is made in the journal at once;
    ``becomes`` is what it will have come to, for --dry-run (default: the same). ``owned`` are the instances that the
    operation starts itself. Raises PortfleetError: locked (exit 5), no watcher, refused by the kernel (then nothing of
    it is left).
    """
    if options.dry_run:
        return _dry_run(context, want, verb=verb, words=words, change=becomes or change)
    with locks.operation(context.paths.operation_lock(want.name), service=want.name, why=f"{verb}: {words}"):
        refuse_busy(context, want.name)
        require_watcher(context)
        reason = f" ({options.why})" if options.why else ""
        who, since = locks.operator(), now()
        wanted = Operation(0, want.name, verb, words + reason, who, since, arguments=arguments, owned=tuple(owned))
        number = _register(context, want, wanted, change)
        if point:
            try:
                _point(context, want.name)
            except PortfleetError:  # nothing was applied, so nothing is to follow
                journal_file.update(context.paths.journal, partial(_withdrawn, want=want, number=number))
                raise
    wake(context)
    if options.wait:
        return ended(context, number, undo=undo)
    words = f"begun: {words}. Follow it with: portfleet history --follow {number}; undo with: portfleet cancel"
    return say(context, {"number": number, "verb": verb, "ok": True, "outcome": "begun"}, f"{words} {want.name}")


def ended(context: Context, number: int, *, undo: str = "") -> Exit:
    """Wait for the end of an operation, say what holds and what undoes it; gives the exit code."""
    entry = follow(context, number)
    undoing = f". Undo with: {undo}" if entry.ok and undo else ". There is nothing to undo" if entry.ok else ""
    if entry.ok:
        return say(context, asdict(entry) | {"undo": undo or None}, entry.outcome + undoing)
    if context.json:
        say(context, asdict(entry), "")
    else:
        print(f"portfleet: {entry.verb} {entry.service}: {entry.outcome}", file=sys.stderr)
    return Exit(entry.code)


def say(context: Context, entry: Mapping[str, Any], words: str) -> Exit:
    """Print what holds now: ``words``, or ``entry`` where JSON was asked for."""
    print(json.dumps(entry) if context.json else words)
    return Exit.DONE


def already(context: Context, verb: str, service: str, words: str) -> Exit:
    """Say that nothing was to be done."""
    entry = {"verb": verb, "service": service, "ok": True, "outcome": "already", "words": words}
    return say(context, entry, words)


def _dry_run(context: Context, want: ServiceWant, *, verb: str, words: str, change: Change | None) -> Exit:
    current = context.kernel.read_slots(want.name)
    journal = context.desired(context.applied_fleet).journal
    if change is not None:
        journal = journal.with_service(want.name, change(journal.services[want.name]))
    then = make_desired(context.applied_fleet, journal, context.paths).services[want.name]
    after = then.table(current, out=frozenset(outset.left_out(context.paths, current)))
    moved, total = len(slot_moves(current, after)), want.service.slots
    entry = {"verb": verb, "service": want.name, "dry_run": True, "words": words, "slots_moved": moved, "slots": total}
    return say(context, entry, f"would {words}; {moved:,} of {total:,} slots would move; nothing was done")


def refuse_busy(context: Context, service: str) -> None:
    """Raise PortfleetError (exit 5) where an operation runs on ``service``, saying who, since when and why."""
    try:
        journal = journal_file.read(context.paths.journal)
    except JournalError:
        return  # what ran is not known any more; whoever comes next rebuilds the journal
    running = journal.running(service) if journal else None
    if running is not None:
        raise PortfleetError(
            f"service {service} is locked by {running.who} since {running.since}: {running.verb}: {running.words}",
            hint=f"wait for it (portfleet history --follow {running.number}) or: portfleet cancel {service}",
            code=Exit.LOCKED,
        )


def require_watcher(context: Context) -> None:
    """Raise PortfleetError where no watcher runs to advance an operation."""
    if not locks.held(context.paths.watch_lock):
        raise PortfleetError("the watcher is not running, it advances operations", hint="portfleet up")


def wake(context: Context) -> None:
    """Tell the watcher to look now; it does so within half a second anyway."""
    try:
        control.ask(context.paths.watch_socket, "reload")
    except control.ControlError:
        return


def _point(context: Context, service: str) -> None:
    desired = context.desired(context.applied_fleet)
    executor = Executor(desired, context.kernel, context.supervisor, context.paths, say=lambda _: None)
    executor.point(service, frozenset())


def _register(context: Context, want: ServiceWant, wanted: Operation, change: Change | None) -> int:
    """Write ``wanted`` and its change into the journal; gives its number.

    Raises PortfleetError (exit 5) where the journal says of the service something else than what ``want`` was made of:
    what the command decided, it decided by that.
    """
    number = 0

    def apply(journal: Journal) -> Journal:
        nonlocal number
        number = journal.next_number()
        if want.name in journal.services:
            journal = make_desired(context.applied_fleet, journal, context.paths).journal
        record = journal.services.get(want.name, want.record)
        if record != want.record:
            raise PortfleetError(
                f"service {want.name} is locked: somebody changed it while this command was looking",
                hint="see what it is now (portfleet status, portfleet history), then ask again",
                code=Exit.LOCKED,
            )
        journal = journal.with_service(want.name, change(record) if change else record)
        journal = make_desired(context.applied_fleet, journal, context.paths).journal  # marks and home of new instances
        return journal.with_operation(replace(wanted, number=number))

    journal_file.update(context.paths.journal, apply)
    return number


def _withdrawn(journal: Journal, *, want: ServiceWant, number: int) -> Journal:
    """Give a journal without operation ``number``, and ``want`` as it was before it."""
    left = tuple(operation for operation in journal.operations if operation.number != number)
    return replace(journal, operations=left).with_service(want.name, want.record)


def follow(context: Context, number: int) -> HistoryEntry:
    """Wait until an operation has ended and give what came of it; shows a bar on a terminal.

    Interrupted, the operation goes on, which is said. Raises PortfleetError where there is no such operation.
    """
    bar, watched, told = Bar(sys.stderr), time.monotonic(), False
    try:
        while True:
            journal = journal_file.read(context.paths.journal) or Journal()
            running = journal.operation(number)
            if running is None:
                break
            bar.show(running)
            if locks.held(context.paths.watch_lock):
                watched = time.monotonic()
            elif not told and time.monotonic() - watched > _NO_WATCHER:
                context.say("the watcher is not running; the operation goes on when it is back (portfleet up)")
                told = True
            time.sleep(0.05)
    except KeyboardInterrupt:
        raise PortfleetError(
            f"interrupted; operation {number} goes on",
            hint=f"portfleet history --follow {number}, or to undo it: portfleet cancel SERVICE",
        ) from None
    finally:
        bar.clear()
    found = [entry for entry in journal.history if entry.number == number]
    if not found:
        raise PortfleetError(f"there is no operation {number}", hint="see: portfleet history", code=Exit.USAGE)
    return found[-1]
