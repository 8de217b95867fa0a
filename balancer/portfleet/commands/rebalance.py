"""Move established connections from the fullest instances to the emptiest by hand-off, until max/mean ≤ --limit.

After crashes, scaling or with skewed clients. Slots stay: new connections go where they went.
"""

from __future__ import annotations

import argparse

from portfleet.context import Context
from portfleet.errors import Exit, PortfleetError
from portfleet.operate.options import factor
from portfleet.operate.submit import add_options, submit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("--limit", type=factor, default=1.1, metavar="X", help="the largest max/mean to be left (1.1)")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    service = context.service(context.fleet, options.service)
    if not service.ours:
        raise PortfleetError(f"the daemon of {service.name} cannot hand off connections", code=Exit.USAGE)
    want = context.desired(context.fleet).services[service.name]
    words = f"rebalance {service.name} until max/mean ≤ {options.limit:g}"
    return submit(context, want, options, verb="rebalance", words=words, arguments={"limit": max(1.0, options.limit)})
