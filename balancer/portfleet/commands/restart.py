"""Restart a service's instances rolling: each gives its slots and connections to its siblings first.

One at a time, or --max-unavailable N. Daemons that cannot hand off are drained by the service's policy.
"""

from __future__ import annotations

import argparse

from portfleet.context import Context
from portfleet.errors import Exit, PortfleetError
from portfleet.operate.submit import add_options, submit, targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as echo, or echo/echo-blue-2")
    parser.add_argument("--max-unavailable", type=int, default=1, metavar="N", help="so many at a time (1)")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, found = targets(context, options.target)
    instances = [i for i in found if i.program is not None]
    serving = [i for i in want.instances if i.takes]
    at_once = options.max_unavailable
    if at_once < 1 or len(serving) <= at_once:
        raise PortfleetError(
            f"{len(serving)} instances serve; {at_once} at a time would leave nobody",
            hint=f"portfleet cutover {want.name} --force restarts all without a gap",
            code=Exit.USAGE,
        )
    return submit(
        context,
        want,
        options,
        verb="restart",
        words=f"restart {', '.join(i.name for i in instances)}, {at_once} at a time",
        arguments={"instances": [i.name for i in instances], "at_once": at_once, "handoff": want.service.ours},
    )
