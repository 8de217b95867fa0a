"""Make the running fleet match the config: new instances are ready before they get slots.

With SERVICE only that one; changes of the others, and of [fleet], wait. Run again, it does nothing; interrupted
anywhere, the next run goes on. supervisord must be running (portfleet up). --json prints what was done and which
instances serve as one object.
"""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.apply.converge import converge
from portfleet.config.merge import with_service
from portfleet.core.errors import Exit

EXAMPLES = (
    "portfleet plan                    # look first",
    "portfleet apply",
    "portfleet apply echo",
)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option by which connections may be closed without a question."""
    words = "do not ask, also where restarts close connections that cannot be handed off"
    parser.add_argument("--yes", action="store_true", help=words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "apply what the config says of this service, and leave the others as they were applied"
    parser.add_argument("service", nargs="?", metavar="SERVICE", help=words)
    add_yes(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.service:
        context.service(context.fleet, options.service)
        merged = with_service(context.applied_text, context.config_text, options.service)
        context = Context(context.paths, context.json, config_given=merged)
    return converge(context, why="apply", yes=options.yes)
