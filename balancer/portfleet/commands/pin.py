"""Send a heavy source, such as an office behind one address, to an instance of your choice.

The longest prefix decides. A pin follows a cutover to the instance of the same number; while its instance is out, its
clients go by their slots. It concerns new connections only: established ones stay where they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.core import pins
from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit, PortfleetError
from portfleet.submit.follow import already
from portfleet.submit.operation import add_change_options
from portfleet.submit.pins import change_pins
from portfleet.submit.targets import record_of, targets

EXAMPLES = (
    "portfleet pin echo 198.18.0.7 echo-blue-2",
    "portfleet pin echo 2001:db8:7::/48 2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("source", metavar="ADDRESS[/PREFIX]", help="a client's address, or a network of them")
    parser.add_argument("instance", metavar="INSTANCE", help="such as echo-blue-2, or 2")
    add_change_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, found = targets(context, f"{options.service}/{options.instance}")
    instance, network = found[0], parse_network(options.source)
    if network.version not in want.service.families:
        raise PortfleetError(
            f"{want.name} has no IPv{network.version} listen address", hint="see listen in fleet.toml", code=Exit.USAGE
        )
    _refuse_other_colour(instance, want.live)
    text, member = str(network), instance.instance.member
    before = record_of(context, want.name).pins.get(text)
    if before == member:
        return already(context, "pin", want.name, f"{text} is already pinned to {instance.name}")
    return change_pins(
        context,
        want,
        options,
        verb="pin",
        words=f"pin {text} to {instance.name}",
        outcome=f"new connections of {text} go to {instance.name}",
        undo=f"portfleet pin {want.name} {text} {before}" if before else f"portfleet unpin {want.name} {text}",
        change=lambda record: replace(record, pins={**record.pins, text: member}),
    )


def parse_network(text: str) -> pins.Network:
    """Read ADDRESS[/PREFIX]; raises PortfleetError (exit 2)."""
    try:
        return pins.parse(text)
    except ValueError as error:
        hint = "write 198.18.0.7, 198.18.0.0/24, 2001:db8::7 or 2001:db8:7::/48"
        raise PortfleetError(f'"{text}" is not an address or a network: {error}', hint=hint, code=Exit.USAGE) from None


def _refuse_other_colour(instance: DesiredInstance, live: str) -> None:
    if instance.instance.colour not in (live, None):
        raise PortfleetError(
            f"{instance.name} is of the idle colour; a pin goes to the live one, {live}, and follows a cutover",
            hint=f"pin to {instance.instance.number}",
            code=Exit.USAGE,
        )
