"""Take an instance into maintenance: drained, then stopped; nothing starts it again until undrain."""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.commands.drain import add_drain_options, begin
from portfleet.core.errors import Exit
from portfleet.core.work.drain import Maint
from portfleet.submit.operation import add_options
from portfleet.submit.targets import targets

EXAMPLES = (
    "portfleet maint echo/2 --handoff",
    'portfleet maint echo/echo-blue-2 --why "memory test"',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as echo/echo-blue-2, or echo/2")
    add_drain_options(parser)
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, instances = targets(context, options.target)
    return begin(options, context, want, instances, kind=Maint)
