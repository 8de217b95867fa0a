"""Show what happened: changes of state, operations, commands, repairs and warnings, each with its number and time.

-f goes on showing events as they come. --json prints one object per line, with every field; docs/events.md has the
kinds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.events import Event
from portfleet.core.printable import printable
from portfleet.screen.output import fit, paint
from portfleet.store.clock import stamp_exactly
from portfleet.store.events import EventFile
from portfleet.submit import options as read

EXAMPLES = (
    "portfleet events",
    "portfleet events echo --since 1h",
    "portfleet events -f --json        # one object per line, for a program",
)

#: Seconds between looks at the file that is followed.
_EVERY = 0.2
_COLOURS = {"warning": "yellow", "error": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only events of this service")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing events; Ctrl-C ends it")
    words = "how many events (default 40)"
    parser.add_argument("-n", "--number", type=read.number, default=40, metavar="N", help=words)
    words = "instead of the last N, all of this long until now, such as 1h"
    parser.add_argument("--since", type=read.duration, metavar="TIME", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.service:
        context.service(context.serving_fleet, options.service)
    file = EventFile(context.paths.events)
    try:
        found = [event for event in file.read() if options.service in (None, event.service)]
        if options.since is not None:
            begin = stamp_exactly(time.time() - options.since)
            found = [event for event in found if event.time >= begin]
        else:
            found = found[-options.number :] if options.number else []
        _show(found, as_json=context.json)
        with suppress(KeyboardInterrupt):
            while options.follow:
                time.sleep(_EVERY)
                _show((e for e in file.news() if options.service in (None, e.service)), as_json=context.json)
    except PermissionError as error:
        words = f"only root may look at this fleet: {error.filename}: {error.strerror}"
        raise PortfleetError(words, hint="sudo portfleet events") from None
    return Exit.DONE


def _show(events: Iterable[Event], *, as_json: bool) -> None:
    for event in events:
        print(json.dumps(event.to_json()) if as_json else _line(event))
    sys.stdout.flush()


def _line(event: Event) -> str:
    colour = _COLOURS.get(str(event.more.get("level")))
    head = f"{event.number:6}  {event.time}  {event.kind:<16}  "
    line = fit(head + printable(event.words, len(event.words)), indent=len(head))
    return line.replace(event.kind, paint(event.kind, colour), 1) if colour else line
