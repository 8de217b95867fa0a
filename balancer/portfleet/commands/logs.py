"""Show the end of an instance's log, or of portfleet-watch or supervisord; -f follows it, also over restarts.

portfleet logs echo/2          portfleet logs echo-green-2          portfleet logs -f portfleet-watch
"""

from __future__ import annotations

import argparse
import os
import re

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.program import WATCHER
from portfleet.submit import options as read

_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "such as echo/echo-blue-1, echo/1 (of the live colour) or echo-blue-1; or portfleet-watch, supervisord"
    parser.add_argument("instance", metavar="SERVICE/INSTANCE", help=words)
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is written")
    parser.add_argument("-n", "--lines", type=read.number, default=40, metavar="N", help="how many lines (default 40)")


def run(options: argparse.Namespace, context: Context) -> Exit:
    name = _program(options.instance, context)
    path = context.paths.log_of(name)
    if not path.exists():
        raise PortfleetError(f"there is no log yet: {path}", hint="has the instance ever run? see: portfleet status")
    follow = ["-F"] if options.follow else []
    os.execvp("tail", ["tail", "-n", str(max(0, options.lines)), *follow, "--", str(path)])  # noqa: S606 (no shell)


def _program(text: str, context: Context) -> str:
    """Return the program that is meant; raises PortfleetError (exit 2) where it is none on this box."""
    if text in (WATCHER, "supervisord"):
        return text
    if text.startswith("portfleet-") and text in context.plane.programs(context.serving_fleet):
        return text
    service, _, name = text.rpartition("/")
    if service and _NUMBER.fullmatch(name):
        fleet = context.serving_fleet
        context.service(fleet, service)
        name = f"{service}-{context.desired(fleet).configured[service].live}-{name}"
    instance = parse_instance(name)
    if instance is None or instance.colour is None or service not in ("", instance.service):
        raise PortfleetError(
            f'"{text}" is not an instance on this box',
            hint="write SERVICE/INSTANCE, as in echo/echo-blue-1 or echo/1; see: portfleet status",
            code=Exit.USAGE,
        )
    return name
