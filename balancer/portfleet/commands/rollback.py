"""Return to the previous release: the other colour becomes live, established connections are handed back.

With --to N: return to the release that was live when operation N of the history had ended.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.commands.cutover import add_cutover_options, begin
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import other
from portfleet.core.records import ColourRecord
from portfleet.core.work.cutover import Cutover, Rollback
from portfleet.submit import options as read
from portfleet.submit.elsewhere import add_box_options, elsewhere
from portfleet.submit.follow import already
from portfleet.submit.operation import add_options
from portfleet.submit.targets import service_want

EXAMPLES = (
    "portfleet rollback echo",
    "portfleet rollback echo --to 12",
    "portfleet rollback echo --box root@box1 --box root@box2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument(
        "--to", type=read.number, metavar="OPERATION", help="what was live when operation N of the history had ended"
    )
    words = "after a rollback: go forward again, to the release that was rolled back"
    parser.add_argument("--forward", action="store_true", help=words)
    add_cutover_options(parser)
    add_options(parser)
    add_box_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if elsewhere(options):
        from portfleet.submit.serial import everywhere  # it asks several boxes at once, which takes a while to import

        return everywhere(options, context, options.service)
    want = service_want(context, options.service)
    colour, record = other(want.live), want.record
    before, live = record.colours.get(colour), record.colours.get(want.live, ColourRecord())
    if options.to is not None:
        before = _at(context, want.name, options.to)
        if (before.release, before.command) == (live.release, live.command):
            words = f"{want.live} already runs what operation {options.to} left: {before.release or 'this command'}"
            return already(context, "rollback", want.name, words)
    if before is None:
        raise PortfleetError(
            f"{want.name} has nothing to go back to: {colour} has never run",
            hint="see: portfleet history",
            code=Exit.USAGE,
        )
    if before.stopped and before == replace(live, since=before.since, stopped=True):
        context.say(
            f"{colour} was stopped; it is started with what is there now, as {want.live} was: this is no way back"
        )
    forward = options.to is None and _rolled_back(context, want.name)
    if forward != options.forward:
        raise _wrong_way(want.name, before.release, forward=forward)
    kind, words = (Cutover, "forward again") if forward else (Rollback, "back")
    words = f"roll {want.name} {words} to {colour}" + (f", release {before.release}" if before.release else "")
    new = replace(before, since=None)
    return begin(options, context, want, words=words, kind=kind, new=new, canary=None)


def _rolled_back(context: Context, service: str) -> bool:
    """Return whether the other colour runs what a rollback has left, so that to go there is to go forward."""
    for entry in reversed(context.journal(context.applied_fleet).history):
        if entry.service == service and entry.ok and entry.verb in (Cutover.verb, Rollback.verb):
            return entry.verb == Rollback.verb
    return False


def _wrong_way(service: str, release: str | None, *, forward: bool) -> PortfleetError:
    named = f" to release {release}" if release else ""
    if forward:
        words = f"{service} was rolled back already; another rollback would go forward again{named}"
        return PortfleetError(words, hint=f"if that is meant: portfleet rollback {service} --forward", code=Exit.USAGE)
    words = f"{service} was not rolled back: the other colour is the earlier release"
    return PortfleetError(words, hint=f"portfleet rollback {service}", code=Exit.USAGE)


def _at(context: Context, service: str, number: int) -> ColourRecord:
    """Return what was live when operation ``number`` had ended."""
    for entry in context.journal(context.applied_fleet).history:
        if entry.number == number and entry.service == service:
            return ColourRecord(entry.release, entry.command)
    raise PortfleetError(
        f"{service} has no finished operation {number}",
        hint="see: portfleet history",
        code=Exit.USAGE,
    )
