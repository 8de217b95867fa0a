"""Make what is into what the config asks: instances are up and ready before they get slots.

Repeated, it does nothing. Interrupted anywhere, the next one goes on. supervisord must be running (portfleet up).
--json prints what was done and who serves as one object.
"""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.apply.converge import converge
from portfleet.core.errors import Exit


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option by which connections may be closed without a question."""
    words = "do not ask, also where restarts close connections that cannot be handed off"
    parser.add_argument("--yes", action="store_true", help=words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_yes(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    return converge(context, why="apply", yes=options.yes)
