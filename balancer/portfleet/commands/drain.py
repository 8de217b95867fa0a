"""Send an instance (or a whole service) no new connections from the moment this returns.

Existing connections may finish, are closed at --rate per second, or are handed off to the other instances.
"""

from __future__ import annotations

import argparse
from typing import Literal

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.operations import Policy
from portfleet.core.records import Asked, ServiceRecord
from portfleet.core.work.drain import Drain
from portfleet.store.clock import now
from portfleet.store.locks import operator
from portfleet.submit.closing import tell_drained, tell_handed
from portfleet.submit.elsewhere import add_box_options, elsewhere
from portfleet.submit.follow import already
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.options import duration, rate
from portfleet.submit.targets import serving, targets

EXAMPLES = (
    "portfleet drain echo/2 --handoff",
    "portfleet drain echo/echo-blue-2 --rate 200 --deadline 10m --then evict",
    "portfleet drain echo/2 --box root@box2",
    "portfleet drain --box root@box2 --force     # all services of that box",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "such as echo/echo-blue-2, or echo/2; with --box it may be left out: all services of that box"
    parser.add_argument("target", nargs="?", metavar="SERVICE[/INSTANCE]", help=words)
    add_drain_options(parser)
    add_options(parser)
    add_box_options(parser, every=False)


def add_drain_options(parser: argparse.ArgumentParser) -> None:
    """Add how old connections end."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rate", type=rate, metavar="N[/s]", help="evict so many connections a second and service")
    how.add_argument("--handoff", action="store_true", help="hand the connections to the siblings")
    parser.add_argument("--deadline", type=duration, metavar="TIME", help="such as 10m; default: the config's")
    parser.add_argument("--then", choices=("wait", "evict", "kill"), help="at the deadline; default: the config's")
    parser.add_argument("--force", action="store_true", help="even if no instance would be left to serve")


def run(options: argparse.Namespace, context: Context) -> Exit:
    if elsewhere(options):
        from portfleet.submit.serial import everywhere  # it asks several boxes at once, which takes a while to import

        return everywhere(options, context, options.target)
    if options.target is None:
        raise PortfleetError(
            "name what to drain: SERVICE or SERVICE/INSTANCE", hint="portfleet status", code=Exit.USAGE
        )
    want, instances = targets(context, options.target)
    return begin(options, context, want, instances, kind=Drain)


def begin(
    options: argparse.Namespace,
    context: Context,
    want: DesiredService,
    instances: list[DesiredInstance],
    *,
    kind: type[Drain],
) -> Exit:
    """Begin a drain, or one that ends in maintenance, by the ``kind`` of it."""
    wanted: Literal["drained", "maintenance"] = "maintenance" if kind.stops else "drained"
    # Who is in maintenance is drained already, and more than that.
    asked = {name: entry for name, entry in want.record.asked.items() if entry.wanted in (wanted, "maintenance")}
    there, names = [i.name for i in instances if i.name in asked], [i.name for i in instances if i.name not in asked]
    if not names:
        words = "; ".join(f"{name} is already {asked[name].wanted} since {asked[name].since}" for name in there)
        return already(context, kind.verb, want.name, words)
    left = [i for i in serving(context, want) if i.name not in names]
    if not left:
        _refuse_last(want, names, force=options.force)
    takers = [i for i in left if i.program is not None]
    if options.handoff and not takers:
        raise PortfleetError(
            f"this would leave no instance to take the connections of {want.name}",
            hint="drain with --rate N",
            code=Exit.USAGE,
        )
    if options.handoff and (why := why_not(context, [i for i in instances if i.name in names], takers)):
        raise PortfleetError(why, hint="drain with --rate N", code=Exit.USAGE)
    deadline = options.deadline if options.deadline is not None else want.service.drain.deadline
    policy = Policy(options.rate, deadline, options.then or want.service.drain.then)
    if options.handoff:
        tell_handed(context, names, ", ".join(i.name for i in takers))
    else:
        tell_drained(context, names, policy)
    entry = Asked(wanted, now(), operator(), options.why)

    def change(record: ServiceRecord) -> ServiceRecord:
        return record.asking(names, entry)

    return submit(
        context,
        want,
        options,
        work=kind(
            instances=tuple(names),
            rate=policy.rate,
            handoff=options.handoff,
            deadline=deadline,
            then=policy.then,
            asked=want.record.asked_of(names),
        ),
        words=f"{'take to maintenance' if kind.stops else 'drain'} {', '.join(names)}",
        change=change,
        undo=f"portfleet undrain {options.target}",
    )


def _refuse_last(want: DesiredService, names: list[str], *, force: bool) -> None:
    """Refuse to drain ``names``, besides whom nobody serves, unless that is asked for and nobody else shall serve."""
    takes = [i.name for i in want.instances if i.takes]
    out = [name for name in takes if name not in names]
    if out:  # the kernel's slots are left where they are as long as an instance may come back: no drain would be one
        raise PortfleetError(
            f"this would leave {want.name} with no serving instance: out: {', '.join(out)}",
            hint=f"wait for them (portfleet status {want.name}), or drain all of {want.name} with --force",
        )
    if takes and not force:
        raise PortfleetError(
            f"this would leave {want.name} with no serving instance", hint="use --force to do it anyway"
        )
