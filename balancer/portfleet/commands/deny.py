"""Refuse new connections of an address or a network, for a time or for good; established ones stay.

It holds at once, beside any operation, and survives restarts, reboots and a flush of the rules by another program. If
networks overlap, the denial that lasts longest decides. Denied again, a source is denied for the time given last.
"""

from __future__ import annotations

import argparse
import time

from portfleet.apply.context import Context
from portfleet.commands.pin import parse_network
from portfleet.core.errors import Exit
from portfleet.core.records import Denied
from portfleet.store import locks
from portfleet.store.clock import now, stamp
from portfleet.submit.access import change_denied
from portfleet.submit.follow import say
from portfleet.submit.operation import add_dry_run
from portfleet.submit.options import duration
from portfleet.submit.targets import service_want

EXAMPLES = (
    "portfleet deny echo 198.18.0.7 --for 10m",
    'portfleet deny echo 2001:db8:7::/48 --why "scans us"',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("source", metavar="ADDRESS[/PREFIX]", help="a client's address, or a network of them")
    words = "how long, such as 10m (default, and 0: for good)"
    parser.add_argument("--for", dest="seconds", type=duration, default=0.0, metavar="DURATION", help=words)
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for status --json")
    add_dry_run(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, network = service_want(context, options.service), str(parse_network(options.source))
    until = int(time.time() + options.seconds + 0.999) if options.seconds else None
    lasts = f"until {stamp(until)}" if until else "for good"
    entry = {"verb": "deny", "until": stamp(until) if until else None}
    if options.dry_run:
        return say(context, entry | {"dry_run": True}, f"would deny {network} {lasts}; nothing was done")
    denial = Denied(since=now(), who=locks.operator(), why=options.why, until=until)
    undo = f"portfleet undeny {want.name} {network}"
    words = f"{want.name}: new connections of {network} are refused {lasts}. Undo with: {undo}"
    return change_denied(context, want, network, denial=denial, entry=entry | {"undo": undo}, words=words)
