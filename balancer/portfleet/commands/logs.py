"""Show the end of an instance's log; -f follows it, also over restarts and rotation."""

from __future__ import annotations

import argparse
import os

from portfleet.context import Context
from portfleet.errors import Exit, PortfleetError
from portfleet.model import parse_instance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="SERVICE/INSTANCE", help="such as echo/echo-blue-1 (or echo-blue-1)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is written")
    parser.add_argument("-n", "--lines", type=int, default=40, metavar="N", help="how many lines (default 40)")


def run(options: argparse.Namespace, context: Context) -> Exit:
    service, _, name = options.instance.rpartition("/")
    instance = parse_instance(name)
    if instance is None or instance.colour is None or service not in ("", instance.service):
        raise PortfleetError(
            f'"{options.instance}" is not an instance on this box',
            hint="write SERVICE/INSTANCE, as in echo/echo-blue-1; see: portfleet status",
            code=Exit.USAGE,
        )
    path = context.paths.log_of(name)
    if not path.exists():
        raise PortfleetError(f"there is no log yet: {path}", hint="has the instance ever run? see: portfleet status")
    follow = ["-F"] if options.follow else []
    os.execvp("tail", ["tail", "-n", str(max(0, options.lines)), *follow, "--", str(path)])  # noqa: S606 (no shell)
