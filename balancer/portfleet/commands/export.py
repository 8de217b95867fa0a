"""Print what another box needs to point its slots as this one does, for `portfleet import` there.

It holds slots, marks, pins, denials and what operators asked of instances: nothing of how instances are started, no
operation and no history. Without a service it is all of them. It is JSON in any case.
"""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.exported import to_json
from portfleet.screen.output import print_json
from portfleet.submit.exported import own

EXAMPLES = (
    "portfleet export > echo.json",
    "portfleet export echo | ssh root@box2 portfleet import -",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services")


def run(options: argparse.Namespace, context: Context) -> Exit:
    print_json(to_json(own(context, options.services)))
    return Exit.DONE
