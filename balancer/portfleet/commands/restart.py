"""Restart a service's instances one after the other, each without slots and connections meanwhile.

Connections are handed off to the other instances first; those of daemons that cannot do that are drained by the
service's policy, which may close them. --max-unavailable N restarts N at a time.
"""

from __future__ import annotations

import argparse

from portfleet.apply.busy import refuse_busy
from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import quantity
from portfleet.core.states import Wanted
from portfleet.core.work.restart import Restart
from portfleet.submit import options as read
from portfleet.submit.closing import tell
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.targets import serving, targets

EXAMPLES = (
    "portfleet restart echo",
    "portfleet restart echo/echo-blue-2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as echo, or echo/echo-blue-2")
    parser.add_argument(
        "--max-unavailable", type=read.number, default=1, metavar="N", help="how many at a time (default 1)"
    )
    words = "close so many connections a second that cannot be handed off; otherwise they may finish until the deadline"
    parser.add_argument("--rate", type=read.rate, metavar="N[/s]", help=words)
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, found = targets(context, options.target)
    if not options.dry_run:  # before its own refusals: who works on the service is why too few serve
        refuse_busy(context, want.name)
    instances = [i for i in found if i.program is not None and i.wanted is not Wanted.MAINTENANCE]
    names = [i.name for i in instances]
    serve = {i.name for i in serving(context, want)}
    at_once = min(options.max_unavailable, len(names))
    if not names:
        raise PortfleetError(
            f"{options.target} has no process to restart", hint=f"portfleet undrain {options.target}", code=Exit.USAGE
        )
    siblings = [i for i in want.instances if i.takes and i.program is not None]
    batches = [names[first : first + at_once] for first in range(0, len(names), max(1, at_once))]
    if at_once < 1 or (serve and any(serve <= {*batch} for batch in batches)):
        raise PortfleetError(
            f"{quantity(len(serve), 'instance', 'serves')}; {at_once} at a time would leave none",
            hint=f"portfleet cutover {want.name} --force restarts all without a gap",
            code=Exit.USAGE,
        )
    why = why_not(context, instances, siblings)
    if why:
        drain = want.service.drain
        end = {
            "wait": "if any is left then, the restart ends there and closes none",
            "evict": "then they are closed",
            "kill": "then all are closed at once",
        }
        waits = f"those of each instance may finish for {drain.deadline:g} s, {end[drain.then]}"
        tell(context, names, why, rate=options.rate or drain.rate, waits=waits)
    return submit(
        context,
        want,
        options,
        work=Restart(
            instances=tuple(names),
            at_once=at_once,
            handoff=not why,
            rate=options.rate,
            asked=want.record.asked_of(names),
        ),
        words=f"restart {', '.join(names)}, {at_once} at a time",
        point=False,
        starts=names,
    )
