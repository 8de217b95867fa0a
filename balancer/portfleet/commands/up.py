"""Start supervisord in the background if it is not running, then apply; services that were down come up.

With SERVICE only that one comes up; others that are down stay down. Returns when all instances that should serve are
ready; otherwise, or if a step was left out, exit 4, saying which serve and why the others do not. --foreground loads
the rules and becomes supervisord, for a service manager to run, as portfleet.service does. --json prints what was done
and which instances serve as one object.
"""

from __future__ import annotations

import argparse
from functools import partial

from portfleet.apply import preflight
from portfleet.apply.context import Context
from portfleet.apply.converge import converge, look
from portfleet.commands.apply import add_yes
from portfleet.core.errors import Exit, PortfleetError
from portfleet.supervise.start import (
    become_supervisord,
    by_systemd,
    by_unit,
    start_supervisord,
    survives_reboot,
    wait_for_supervisord,
)

EXAMPLES = (
    "portfleet up",
    "portfleet up echo                 # after: portfleet down echo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "of the services that are down, only this one"
    parser.add_argument("service", nargs="?", metavar="SERVICE", help=words)
    words = "load the rules, then become supervisord instead of returning; for a service manager"
    parser.add_argument("--foreground", action="store_true", help=words)
    add_yes(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.foreground and context.json:
        words = "up --foreground becomes supervisord and prints no JSON"
        raise PortfleetError(words, hint="portfleet up --foreground", code=Exit.USAGE)
    if options.foreground:
        from portfleet.apply.boot import prepare

        prepare(context)
        become_supervisord(context.paths)
    fleet = context.fleet
    if options.service:
        context.service(fleet, options.service)
    if not by_unit():  # at boot, what an operator took down stays down
        context.raised = [options.service] if options.service else list(fleet.services)
    if by_unit():
        # The rules are being loaded: neither looks at the data plane while the other sets it.
        wait_for_supervisord(context.paths)
    elif not context.supervisor.running():
        desired, observed, plan = look(
            context
        )  # what cannot end well is not begun: supervisord is not started for it either
        preflight.refuse(context, observed)
        preflight.prove(context, desired, plan)
        context.say("starting supervisord")
        start, systemd = partial(start_supervisord, context.paths), by_systemd(context.paths)
        if systemd:
            context.put_right()
            start()  # not under locks, which the unit's own `up` needs
        done, undo = ["start supervisord"], "portfleet down"
        code = converge(context, why="up", start=None if systemd else start, done=done, undo=undo, yes=options.yes)
        if words := survives_reboot(context.paths):
            context.say(words)
        return code
    return converge(context, why="up", yes=options.yes or by_unit())
