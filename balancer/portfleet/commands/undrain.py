"""Let drained instances and those in maintenance serve again, started first where they were stopped."""

from __future__ import annotations

import argparse

from portfleet.context import Context
from portfleet.errors import Exit
from portfleet.operate.drain import without
from portfleet.operate.submit import add_options, submit, targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as echo/echo-blue-2, or echo/2")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, instances = targets(context, options.target)
    asked = context.journal(context.fleet).services[want.name].asked
    names = [i.name for i in instances if i.name in asked]
    if not names:
        print(f"{options.target} already serves: nothing is drained there")
        return Exit.DONE
    return submit(
        context,
        want,
        options,
        verb="undrain",
        words=f"let {', '.join(names)} serve again",
        arguments={"instances": names},
        change=lambda record: without(record, set(names)),
        undo=f"portfleet drain {options.target}",
    )
