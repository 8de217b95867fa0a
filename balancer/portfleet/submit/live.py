"""migrate --live: what is refused before it begins, and the operation that is handed to the watcher."""

from __future__ import annotations

import argparse
import os

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.records import Asked
from portfleet.core.work.migrate_live import MigrateLive
from portfleet.daemons.answers import ControlError, can_take
from portfleet.linux import other_box
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.submit.operation import submit


def migrate_live(options: argparse.Namespace, context: Context, want: DesiredService, source: DesiredInstance) -> Exit:
    """Begin to move the connections of ``source`` to the box ``options.to``; raise PortfleetError if that cannot be."""
    if options.share != 100 or options.drain:
        raise PortfleetError("--live moves all connections: leave out --share and --drain", code=Exit.USAGE)
    _refuse_last(want, source)
    _refuse_unable(context, source)
    _ask(want, source, options.to)
    asked = Asked("drained", now(), locks.operator(), options.why or f"moved to {options.to}")
    return submit(
        context,
        want,
        options,
        work=MigrateLive(
            source=source.name,
            box=options.to,
            ssh=os.environ.get("PORTFLEET_SSH", ""),
            asked=want.record.asked_of([source.name]),
        ),
        words=f"drain {source.name} and move its connections to {options.to}",
        change=lambda record: record.asking([source.name], asked),
        undo=f"portfleet undrain {want.name}/{source.name}",
    )


def _refuse_last(want: DesiredService, source: DesiredInstance) -> None:
    if source.takes and not any(i.takes for i in want.instances if i is not source):
        raise PortfleetError(
            f"{source.name} is the last that serves {want.name} here: its new connections would go nowhere",
            hint="move the service's address to the other box first, then use portfleet drain --force here",
            code=Exit.USAGE,
        )


def _refuse_unable(context: Context, source: DesiredInstance) -> None:
    if context.plane.relocation() is None:
        words = f"{context.plane.traits.words} cannot move established connections to another box"
        raise PortfleetError(words, hint=f"portfleet drain {source.name}", code=Exit.USAGE)
    if source.program is None:
        raise PortfleetError(f"{source.name} does not run on this box", hint="portfleet status", code=Exit.USAGE)
    heard = context.hear([source], context.pids())[source.name]
    if heard.status is None or not heard.status.handoff:
        words = heard.trouble or "it says that it cannot"
        raise PortfleetError(
            f"the daemon of {source.name} cannot hand off connections ({words})",
            hint=f"portfleet drain {source.name}",
            code=Exit.USAGE,
        )


def _ask(want: DesiredService, source: DesiredInstance, box: str) -> None:
    """Ask the other box whether it can take them; raise PortfleetError with its words if it cannot."""
    said = other_box.run(box, ["portfleet", "relocate", "check", f"{want.name}/{source.name}"])
    try:
        takes = can_take(said.encode())
    except ControlError:
        raise PortfleetError(f"{box} does not say whether it can take them: {said[:80]!r}") from None
    if not takes:
        raise PortfleetError(
            f"the daemon of {source.name} on {box} cannot take connections", hint=f"portfleet drain {source.name}"
        )
