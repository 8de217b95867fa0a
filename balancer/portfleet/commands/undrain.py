"""Let drained instances and those in maintenance serve again; a stopped one is started first.

A drain that still runs on one of them is cancelled. Slots come back when the instance is ready.
"""

from __future__ import annotations

import argparse
from functools import partial

from portfleet.apply.context import Context
from portfleet.commands import cancel
from portfleet.core.errors import Exit
from portfleet.core.journal import Journal
from portfleet.core.work.drain import Drain
from portfleet.core.work.undrain import Undrain
from portfleet.submit.follow import already
from portfleet.submit.operation import add_options, submit
from portfleet.submit.targets import targets

EXAMPLES = (
    "portfleet undrain echo/2",
    "portfleet undrain echo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as echo/echo-blue-2, or echo/2")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, instances = targets(context, options.target)
    names = [i.name for i in instances if i.name in want.record.asked]
    if not names:
        return already(context, "undrain", want.name, f"{options.target} already serves: nothing is drained there")
    running = (context.store.read() or Journal()).running(want.name)
    draining = set(running.work.instances) if running and isinstance(running.work, Drain) else set()
    if running and draining and draining <= set(names):
        if not options.dry_run:
            let_in = partial(_let_in, service=want.name, names=frozenset(names))
            if cancel.ask(context, running.number, also=let_in):
                return cancel.told(context, running.number, wait=options.wait)
            return run(options, context)  # it has ended meanwhile: with what it left there is more to do
        context.say(f"operation {running.number}, {running.verb}, would be cancelled")
    return submit(
        context,
        want,
        options,
        work=Undrain(instances=tuple(names)),
        words=f"let {', '.join(names)} serve again",
        change=lambda record: record.asking_nothing(names),
        point=False,
        owned=names,
        undo=f"portfleet drain {options.target}",
    )


def _let_in(journal: Journal, *, service: str, names: frozenset[str]) -> Journal:
    """Return a journal that asks nothing of ``names``; the watcher lets in those that were drained earlier."""
    return journal.with_service(service, journal.services[service].asking_nothing(names))
