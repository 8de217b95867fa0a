"""Run another number of instances per colour; no connection is dropped.

New instances are ready before they get slots, and those that go hand off their connections first. No more slots move
than necessary. The number holds until `instances` changes in the config.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import quantity
from portfleet.core.records import ServiceRecord
from portfleet.core.work.scale import Scale
from portfleet.submit import options as read
from portfleet.submit.follow import already
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.targets import service_want, serving

EXAMPLES = ("portfleet scale echo 6",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("number", type=read.number, metavar="N", help="instances a colour")
    parser.add_argument("--drain", action="store_true", help="drain the connections instead of handing them off")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, number = service_want(context, options.service), options.number
    before, most = want.service.instances, want.service.most_instances
    if not 1 <= number <= most:
        low, high = want.service.ports
        raise PortfleetError(
            f"{want.name} can have 1 to {most} instances a colour: ports are {low}-{high}, half for each",
            hint=f"widen ports in [service.{want.name}], then: portfleet apply",
            code=Exit.USAGE,
        )
    if number == before:
        return already(context, "scale", want.name, f"{want.name} already has {quantity(number, 'instance')}")
    serve = serving(context, want) if number < before else [i for i in want.instances if i.takes]
    if not [i for i in serve if i.instance.number <= number]:
        raise PortfleetError(
            f"this would leave {want.name} with no serving instance: its first {number} are drained or out",
            hint=f"see: portfleet status {want.name}",
            code=Exit.USAGE,
        )
    configured = context.applied_fleet.services[want.name].instances

    def change(record: ServiceRecord) -> ServiceRecord:
        leaving = before if number < before else 0
        return replace(record, instances=number, config_instances=configured, leaving=leaving)

    local = [i for i in want.instances if i.program is not None]
    handoff = not options.drain and not why_not(context, local, [i for i in local if i.takes])
    colours = [colour for colour, record in want.record.colours.items() if not record.stopped]
    new = [f"{want.name}-{colour}-{n}" for colour in colours for n in range(before + 1, number + 1)]
    return submit(
        context,
        want,
        options,
        work=Scale(before=before, to=number, handoff=handoff),
        words=f"scale {want.name} from {before} to {number}",
        change=change,
        point=number < before,
        owned=new,
        starts=new,
        undo=f"portfleet scale {want.name} {before}",
    )
