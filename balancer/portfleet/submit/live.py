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
from portfleet.submit.operation import Change, submit


def migrate_live(options: argparse.Namespace, context: Context, want: DesiredService, source: DesiredInstance) -> Exit:
    """Begin to move the connections of ``source`` to the box ``options.to``; raise PortfleetError if that cannot be."""
    if options.share != 100 or options.drain:
        raise PortfleetError("--live moves all connections: leave out --share and --drain", code=Exit.USAGE)
    _refuse_last(want, source)
    refuse_unable(context, source)
    if why := why_not_there(want, source, options.to):
        raise PortfleetError(why, hint=f"portfleet drain {source.name}")
    return submit(
        context,
        want,
        options,
        work=work_of(want, source, options.to),
        words=words_of(source, options.to),
        change=change_of(source, options.to, options.why),
        undo=f"portfleet undrain {want.name}/{source.name}",
    )


def work_of(want: DesiredService, source: DesiredInstance, box: str) -> MigrateLive:
    """Return the operation that moves the connections of ``source`` to ``box``."""
    ssh, asked = os.environ.get("PORTFLEET_SSH", ""), want.record.asked_of([source.name])
    return MigrateLive(source=source.name, box=box, ssh=ssh, asked=asked)


def words_of(source: DesiredInstance, box: str) -> str:
    """Return what the operation does, for lock and history."""
    return f"drain {source.name} and move its connections to {box}"


def change_of(source: DesiredInstance, box: str, why: str) -> Change:
    """Return the change of the service's record by which ``source`` is drained."""
    asked = Asked("drained", now(), locks.operator(), why or f"moved to {box}")
    return lambda record: record.asking([source.name], asked)


def refuse_unable(context: Context, source: DesiredInstance) -> None:
    """Raise PortfleetError if connections of ``source`` cannot leave this box."""
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


def why_not_there(want: DesiredService, source: DesiredInstance, box: str) -> str:
    """Return why ``box`` cannot take the connections, in its words or ours; "" if it can.

    Raises PortfleetError if it cannot be asked.
    """
    said = other_box.ask(box, ["portfleet", "relocate", "check", f"{want.name}/{source.name}"], seconds=20.0)
    if said.code:
        return f"{box} refuses: {other_box.first_words(said)}"
    try:
        takes = can_take(said.out.encode())
    except ControlError:
        return f"{box} does not say whether it can take them: {said.out[:80]!r}"
    return "" if takes else f"the daemon of {source.name} on {box} cannot take connections"


def _refuse_last(want: DesiredService, source: DesiredInstance) -> None:
    if source.takes and not any(i.takes for i in want.instances if i is not source):
        raise PortfleetError(
            f"{source.name} is the last that serves {want.name} here: its new connections would go nowhere",
            hint="empty the whole box, and then move its address: portfleet evacuate BOX --last",
            code=Exit.USAGE,
        )
