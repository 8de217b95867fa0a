"""Let a pinned source go where its slot leads again; established connections stay where they are."""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.commands.pin import parse_network
from portfleet.core.errors import Exit
from portfleet.core.records import ServiceRecord
from portfleet.submit.follow import already
from portfleet.submit.operation import add_change_options
from portfleet.submit.pins import change_pins
from portfleet.submit.targets import record_of, service_want

EXAMPLES = ("portfleet unpin echo 198.18.0.7",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("source", metavar="ADDRESS[/PREFIX]", help="as it was pinned; see portfleet status")
    add_change_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, text = service_want(context, options.service), str(parse_network(options.source))
    member = record_of(context, want.name).pins.get(text)
    if member is None:
        return already(context, "unpin", want.name, f"{text} is not pinned")

    def without(record: ServiceRecord) -> ServiceRecord:
        return replace(record, pins={network: to for network, to in record.pins.items() if network != text})

    return change_pins(
        context,
        want,
        options,
        verb="unpin",
        words=f"unpin {text}",
        outcome=f"{text} goes by its slot again",
        undo=f"portfleet pin {want.name} {text} {member}",
        change=without,
    )
