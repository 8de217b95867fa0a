"""Let an address or a network that deny refused connect again; what fleet.toml denies stays denied."""

from __future__ import annotations

import argparse

from portfleet.apply.context import Context
from portfleet.commands.pin import parse_network
from portfleet.core.errors import Exit
from portfleet.submit.access import change_denied, denied
from portfleet.submit.follow import already, say
from portfleet.submit.operation import add_dry_run
from portfleet.submit.targets import service_want

EXAMPLES = ("portfleet undeny echo 198.18.0.7",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("source", metavar="ADDRESS[/PREFIX]", help="as it was denied; see portfleet status --json")
    add_dry_run(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, network = service_want(context, options.service), str(parse_network(options.source))
    if network not in denied(context, want.name):
        by = "is denied by fleet.toml, not by an operator" if network in want.service.deny else "is not denied"
        return already(context, "undeny", want.name, f"{network} {by}")
    entry = {"verb": "undeny"}
    if options.dry_run:
        return say(context, entry | {"dry_run": True}, f"would let {network} connect again; nothing was done")
    undo = f"portfleet deny {want.name} {network}"
    words = f"{want.name}: {network} may connect again. Undo with: {undo}"
    return change_denied(context, want, network, denial=None, entry=entry | {"undo": undo}, words=words)
