"""Make the running fleet match the config: new instances are ready before they get slots.

With SERVICE only that one; changes of the others, and of [fleet], wait. Run again, it does nothing; interrupted
anywhere, the next run goes on. supervisord must be running (portfleet up). --json prints what was done and which
instances serve as one object.
"""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.apply.converge import converge
from portfleet.apply.earlier import Earlier
from portfleet.commands import plan
from portfleet.config.merge import with_service
from portfleet.core.errors import Exit, PortfleetError

EXAMPLES = (
    "portfleet plan                    # look first",
    "portfleet apply",
    "portfleet apply echo",
    "portfleet apply --undo",
)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option by which connections may be closed without a question."""
    words = "do not ask, even if restarts close connections that cannot be handed off"
    parser.add_argument("--yes", action="store_true", help=words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "apply what the config says of this service, and leave the others as they were applied"
    parser.add_argument("service", nargs="?", metavar="SERVICE", help=words)
    words = "return to the config that was applied before the last one; again, to the one before that"
    parser.add_argument("--undo", action="store_true", help=words)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, as plan does, and do nothing")
    add_yes(parser)


def _undo(options: argparse.Namespace, context: Context) -> Exit:
    """Apply the config that the last change of it has replaced; the file stays as it is."""
    newest = Earlier(context.paths).newest()
    if options.service or newest is None:
        words = "--undo is about the whole config" if options.service else "no earlier config is kept"
        raise PortfleetError(f"{words}; nothing was done", hint="see: portfleet history", code=Exit.USAGE)
    earlier = Context(context.paths, context.json, config_given=newest.read_bytes())
    if options.dry_run:
        return plan.show(earlier)
    code = converge(earlier, why="apply", yes=options.yes, returns=True)
    newest.unlink(missing_ok=True)
    context.say(f"{context.paths.config} is as it was: the next apply would apply it again")
    return code


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.undo:
        return _undo(options, context)
    if options.service:
        context.service(context.fleet, options.service)
        merged = with_service(context.applied_text, context.config_text, options.service)
        context = Context(context.paths, context.json, config_given=merged)
    if options.dry_run:
        return plan.show(context)
    return converge(context, why="apply", yes=options.yes)
