"""Even out established connections: the fullest instances hand some to the emptiest.

Useful after crashes, scaling, or with a few heavy sources. It ends when max/mean is at most --limit. Slots stay: new
connections go where they went.
"""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.core.balance import next_move, ratio
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.work.rebalance import Rebalance
from portfleet.submit.follow import already
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.options import limit
from portfleet.submit.targets import service_want

EXAMPLES = (
    "portfleet rebalance echo",
    "portfleet rebalance echo --limit 1.05",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument(
        "--limit", type=limit, default=1.1, metavar="X", help="the largest max/mean to leave (default 1.1)"
    )
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want = service_want(context, options.service)
    instances = [i for i in want.instances if i.takes and i.program is not None]
    if why := why_not(context, instances, instances):
        raise PortfleetError(
            why,
            hint="clients spread anew when they connect again: portfleet restart, or drain --rate N and undrain",
            code=Exit.USAGE,
        )
    observed = context.observe(context.desired(context.applied_fleet), probe=False)
    counts = {i.name: observed.seen(i.name).connections or 0 for i in instances}
    if next_move(counts, limit=options.limit) is None:
        words = f"{want.name} is already even: max/mean {ratio(counts):.2f} ≤ {options.limit:g}"
        return already(context, "rebalance", want.name, words)
    words = f"rebalance {want.name}, max/mean {ratio(counts):.2f}, until ≤ {options.limit:g}"
    return submit(context, want, options, work=Rebalance(limit=options.limit), words=words, point=False)
