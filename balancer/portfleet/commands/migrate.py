"""Move an instance's share to another instance or another box: new connections go there at once.

Established connections follow by hand-off if both are on this box and can do it; otherwise they are drained by the
service's policy. A remote address must be in the service's `remote` list. To give the share back, migrate the instance
to itself.

With --live TO is a box, as ssh understands it, that runs the same fleet. The instance is drained, and its
established connections go on at the instance of the same name there: no client notices. It needs the data plane
nftables and both boxes on one network segment; docs/ha.md says what cannot move.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.config.reader import parse_listen
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import member_instance
from portfleet.core.records import Moved, ServiceRecord
from portfleet.core.work.migrate import Migrate
from portfleet.store.out import left_out
from portfleet.submit.follow import already
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.options import percent
from portfleet.submit.targets import targets

EXAMPLES = (
    "portfleet migrate echo/2 echo-blue-3",
    "portfleet migrate echo/2 203.0.113.2:7101 --share 25%",
    "portfleet migrate echo/2 echo-blue-2      # give the share back",
    "portfleet migrate echo/2 root@box2 --live",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SERVICE/INSTANCE", help="such as echo/echo-blue-2, or echo/2")
    parser.add_argument("to", metavar="TO", help="an instance's name or number, or ADDRESS:PORT of a remote instance")
    parser.add_argument("--share", type=percent, default=100, metavar="P%", help="only this part of the slots")
    parser.add_argument("--live", action="store_true", help="move established connections to the box TO")
    parser.add_argument("--drain", action="store_true", help="drain the connections instead of handing them off")
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, found = targets(context, options.source)
    if len(found) != 1 or "/" not in options.source:
        raise PortfleetError("name one instance, as in echo/echo-blue-2", code=Exit.USAGE)
    if options.live:
        from portfleet.submit.live import migrate_live  # it runs processes, which takes a while to import

        return migrate_live(options, context, want, found[0])
    source, target = found[0], _target(want, options.to)
    member = source.instance.member
    if source is target:
        return _back(options, context, want, source)
    if not target.takes:
        raise PortfleetError(
            f"{target.name} does not serve: it is {target.wanted}", hint=f"portfleet undrain {target.name}"
        )
    if out := left_out(context.paths, context.plane.read_slots(want.name)).get(target.name):
        raise PortfleetError(f"{target.name} does not serve: {out.reason}", hint="see: portfleet status")

    before = want.moved.get(member)
    moved = Moved(target.instance.member, options.share)
    if before == moved:
        words = f"{target.name} already serves {options.share} % of {source.name}'s share"
        return already(context, "migrate", want.name, words)

    def change(record: ServiceRecord) -> ServiceRecord:
        return replace(record, moved={**record.moved, member: moved})

    handoff = _follows(context, source, target, drain=options.drain)
    return submit(
        context,
        want,
        options,
        work=Migrate(
            source=source.name,
            member=member,
            to=target.name,
            percent=options.share,
            handoff=handoff,
            share=f"{target.name} serves {options.share} % of {source.name}'s share",
            before=before,
        ),
        words=f"move {options.share} % of {source.name}'s share to {target.name}",
        change=change,
        undo=f"portfleet migrate {options.source} {source.name}",
    )


def _back(options: argparse.Namespace, context: Context, want: DesiredService, source: DesiredInstance) -> Exit:
    member = source.instance.member
    moved = want.moved.get(member)
    if moved is None:
        return already(context, "migrate", want.name, f"{source.name} already serves its own share")
    name = member_instance(want.name, moved.to, want.live).name
    target = next((i for i in want.instances if i.name == name), None)  # None if it was scaled away since
    handoff = target is not None and _follows(context, target, source, drain=options.drain)
    # What it serves is its own share and the migrated part of the other's: of its connections give back that part.
    own, given = want.home.count(moved.to), want.home.count(member) * moved.percent / 100
    percent = round(100 * given / (own + given)) if handoff else 0
    return submit(
        context,
        want,
        options,
        work=Migrate(
            source=name,
            member=member,
            to=source.name,
            percent=percent,
            handoff=handoff,
            share=f"{source.name} serves its own share again",
            before=moved,
        ),
        words=f"give {source.name} its share back from {name}",
        change=lambda record: replace(record, moved={k: v for k, v in record.moved.items() if k != member}),
        undo=f"portfleet migrate {want.name}/{source.name} {name} --share {moved.percent}%" if target else "",
    )


def _follows(context: Context, source: DesiredInstance, target: DesiredInstance, *, drain: bool) -> bool:
    """Return whether established connections follow by hand-off: both are processes on this box and can do it."""
    local = source.program is not None and target.program is not None
    return local and not drain and not why_not(context, [source], [target])


def _target(want: DesiredService, text: str) -> DesiredInstance:
    try:
        address = parse_listen(text)
    except ValueError:
        names = {text, f"{want.name}-{want.live}-{text}"}
        found = [i for i in want.instances if i.name in names]
    else:
        found = [i for i in want.instances if i.rule.remote == address]
        if not found:
            raise PortfleetError(
                f"{text} is no remote instance of {want.name}",
                hint=f'add it to remote = ["{text}"] in [service.{want.name}], then: portfleet apply',
                code=Exit.USAGE,
            )
    if not found:
        raise PortfleetError(
            f"service {want.name} has no instance {text!r}", hint="see: portfleet status", code=Exit.USAGE
        )
    return found[0]
