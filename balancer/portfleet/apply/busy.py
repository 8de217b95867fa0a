"""Whether an operation works on a service already, and telling the watcher of a new one."""

from __future__ import annotations

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import JournalError
from portfleet.daemons.answers import ControlError
from portfleet.daemons.control import ask
from portfleet.daemons.exchange import Control


def refuse_busy(context: Context, service: str) -> None:
    """Raise PortfleetError (exit 5) if an operation runs on ``service``, saying who, since when and why."""
    try:
        journal = context.store.read()
    except JournalError:
        return  # what ran is not known any more; whoever comes next rebuilds the journal
    running = journal.running(service) if journal else None
    if running is not None:
        raise PortfleetError(
            f"service {service} is locked by {running.who} since {running.since}: {running.verb}: {running.words}",
            hint=f"wait for it (portfleet history --follow {running.number}) or: portfleet cancel {service}",
            code=Exit.LOCKED,
        )


def wake(context: Context) -> None:
    """Tell the watcher to look now; it does so within half a second anyway."""
    try:
        ask(Control(str(context.paths.watch_socket), None), "reload")
    except ControlError:
        return
