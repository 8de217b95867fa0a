"""The command's side of an operation: change what is wanted, hand the rest to the watcher, follow it if asked to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from portfleet import control, journal_file, locks
from portfleet.clock import now
from portfleet.context import Context
from portfleet.desired import InstanceWant, ServiceWant
from portfleet.errors import Exit, PortfleetError
from portfleet.execute import Executor
from portfleet.journal import HistoryEntry, Journal, Operation, ServiceRecord
from portfleet.model import parse_instance
from portfleet.operate.bar import Bar

#: What a command changes in a service's record before its operation begins.
Change = Callable[[ServiceRecord], ServiceRecord]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every operation has."""
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for lock and history")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--wait", action="store_true", default=True, help="return when it has ended (default)")
    wait.add_argument("--no-wait", dest="wait", action="store_false", help="return when it is safe to go on")


def targets(context: Context, text: str) -> tuple[ServiceWant, list[InstanceWant]]:
    """Read SERVICE or SERVICE/INSTANCE; gives the service and the instances meant (all of the live colour).

    Raises PortfleetError (exit 2) for what does not exist.
    """
    service, _, name = text.partition("/")
    if not name and (instance := parse_instance(service)):
        service, name = instance.service, service
    context.service(context.fleet, service)
    want = context.desired(context.fleet).services[service]
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


def submit(
    context: Context,
    want: ServiceWant,
    options: argparse.Namespace,
    *,
    verb: str,
    words: str,
    arguments: Mapping[str, Any],
    change: Change | None = None,
    undo: str = "",
) -> Exit:
    """Begin an operation. When this returns (or with --wait follows it), its slots have been pointed.

    ``words`` say what is done, ``undo`` names the command that undoes it. Raises PortfleetError: locked (exit 5),
    no watcher, refused by the kernel.
    """
    if options.dry_run:
        print(f"would {words}; nothing was done")
        return Exit.DONE
    with locks.operation(context.paths.operation_lock(want.name), service=want.name, why=f"{verb}: {words}"):
        refuse_busy(context, want.name)
        require_watcher(context)
        reason = f" ({options.why})" if options.why else ""
        wanted = Operation(0, want.name, verb, words + reason, who="", since="", arguments=arguments)
        number = _register(context, wanted, change).number
        point(context, want.name)
    wake(context)
    if not options.wait:
        ending = f"follow it with: portfleet history --follow {number}"
        return report(context, verb, words, {"number": number, "ok": True, "outcome": "begun"}, f"begun; {ending}")
    entry = follow(context, number)
    ending = entry.outcome + (f". Undo with: {undo}" if entry.ok and undo else "")
    report(context, verb, words, asdict(entry), ending)
    return Exit.DONE if entry.ok else Exit.FAILED


def report(context: Context, verb: str, words: str, entry: Mapping[str, Any], ending: str) -> Exit:
    """Print what holds now, as JSON where that was asked for."""
    print(json.dumps({**entry, "verb": verb, "words": words}) if context.json else ending)
    return Exit.DONE


def refuse_busy(context: Context, service: str) -> None:
    """Raise PortfleetError (exit 5) where an operation runs on ``service``, saying who, since when and why."""
    journal = journal_file.read(context.paths.journal)
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


def point(context: Context, service: str) -> None:
    """Point the slots of ``service`` as the journal asks, in one transaction."""
    desired = context.desired(context.fleet)
    executor = Executor(desired, context.kernel, context.supervisor, context.paths, say=lambda _: None)
    executor.point(service, frozenset())


def wake(context: Context) -> None:
    """Tell the watcher to look now; it would do so within a second anyway."""
    try:
        control.ask(context.paths.watch_socket, "reload")
    except control.ControlError:
        context.say("the watcher does not answer; it will see the journal when it does")


def _register(context: Context, wanted: Operation, change: Change | None) -> Operation:
    """Write ``wanted`` into the journal with a number, who asked and when; gives it as written."""
    written = wanted

    def apply(journal: Journal) -> Journal:
        nonlocal written
        written = replace(wanted, number=journal.next_number(), who=locks.operator(), since=now())
        record = context.desired(context.fleet).journal.services[wanted.service]
        journal = journal.with_service(wanted.service, change(record) if change else record)
        return journal.with_operation(written)

    journal_file.update(context.paths.journal, apply)
    return written


def follow(context: Context, number: int) -> HistoryEntry:
    """Wait until an operation has ended and give what came of it; shows a bar on a terminal.

    Interrupted, the operation goes on. Raises PortfleetError where there is no such operation.
    """
    bar = Bar(sys.stderr)
    try:
        while True:
            journal = journal_file.read(context.paths.journal) or Journal()
            running = journal.operation(number)
            if running is None:
                break
            bar.show(running)
            time.sleep(0.05)
    finally:
        bar.clear()
    found: Sequence[HistoryEntry] = [entry for entry in journal.history if entry.number == number]
    if not found:
        raise PortfleetError(f"there is no operation {number}", hint="see: portfleet history", code=Exit.USAGE)
    return found[-1]
