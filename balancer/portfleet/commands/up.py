"""Start supervisord in the background where it is not running, then apply; services that were down come up too.

Returns when all wanted instances are ready; else exit 4, saying what serves and why the others do not.
With --foreground it loads the rules and becomes supervisord, for a service manager to run (as portfleet.service does).
--json prints what was done and who serves as one object.
"""

from __future__ import annotations

import argparse
from functools import partial

from portfleet.apply import preflight
from portfleet.apply.context import Context
from portfleet.apply.converge import converge, look
from portfleet.commands.apply import add_yes
from portfleet.core.errors import Exit, PortfleetError
from portfleet.supervise.start import become_supervisord, by_systemd, by_unit, start_supervisord, wait_for_supervisord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "load the rules, then become supervisord instead of returning; for a service manager"
    parser.add_argument("--foreground", action="store_true", help=words)
    add_yes(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.foreground and context.json:
        words = "up --foreground becomes supervisord and prints no JSON"
        raise PortfleetError(words, hint="portfleet up --foreground", code=Exit.USAGE)
    fleet = context.fleet
    if options.foreground:
        from portfleet.apply.boot import prepare

        prepare(context)
        become_supervisord(context.paths)
    context.all_up = not by_unit()  # at boot, what an operator took down stays down
    if by_unit():
        # The rules are being loaded: neither looks at the data plane while the other sets it.
        wait_for_supervisord(context.paths)
    elif not context.supervisor.running():
        _, observed, _ = look(context)  # what cannot end well is not begun: supervisord is not started for it either
        preflight.refuse(context, observed)
        context.say("starting supervisord")
        start, systemd = partial(start_supervisord, fleet, context.paths), by_systemd(context.paths)
        if systemd:
            start()  # not under locks, which the unit's own `up` needs
        done, undo = ["start supervisord"], "portfleet down"
        return converge(context, why="up", start=None if systemd else start, done=done, undo=undo, yes=options.yes)
    return converge(context, why="up", yes=options.yes or by_unit())
