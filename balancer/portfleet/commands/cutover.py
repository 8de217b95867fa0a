"""Make the other colour live with a new release: all slots move, connections follow.

The idle colour is started and must be ready first; until then nothing changes for clients. Established connections
are handed off if the daemon can do that; otherwise they are drained by the service's policy, which may close them. The
old colour is kept for a rollback.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from typing import Any

from portfleet.apply import content
from portfleet.apply.context import Context
from portfleet.core.canary import ENOUGH, PATIENCE, Canary
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Colour, Service, differing, other
from portfleet.core.observed import Observed
from portfleet.core.operations import policy_of
from portfleet.core.placeholders import placeholders
from portfleet.core.program import real_release, refuse_unusable, release_path
from portfleet.core.records import ColourRecord, ServiceRecord
from portfleet.core.work.cutover import Cutover, Rollback
from portfleet.linux.machine import has_path, real_path
from portfleet.store.clock import now
from portfleet.submit import options as read
from portfleet.submit.closing import tell, tell_handed
from portfleet.submit.elsewhere import add_box_options, elsewhere
from portfleet.submit.follow import already
from portfleet.submit.handoff import why_not
from portfleet.submit.operation import add_options, submit
from portfleet.submit.targets import service_want

#: What a canary is asked, as options' names, and what holds if they are left out.
_CANARY_DEFAULTS: dict[str, Any] = {"every": 600.0, "max_errors": 1.0, "max_p99": 2.0, "min_requests": ENOUGH}
#: Keys that a colour's programs depend on and cannot have for itself.
_SHARED = ("ports", "extra_ports", "instances", "max_connections", "control")
_CANARY = ("then", *_CANARY_DEFAULTS)
EXAMPLES = (
    "portfleet cutover echo --release v2",
    "portfleet cutover echo --release v2 --canary 5% --then 25%,100% --every 10m",
    "portfleet cutover echo --all --release v2     # box after box",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument(
        "--release", metavar="RELEASE", help="a path, or a name below `releases` (default: the config's)"
    )
    parser.add_argument("--command", metavar="COMMAND", help="another command for the new release, as one shell word")
    parser.add_argument("--force", action="store_true", help="cut over even if that release is live already")
    words = "start the release by the config that was applied last, whatever fleet.toml says now"
    parser.add_argument("--applied", action="store_true", help=words)
    add_cutover_options(parser)
    canary = parser.add_argument_group("a canary")
    words = "send this share of the clients to the new release first"
    canary.add_argument("--canary", type=read.percent, metavar="P%", help=words)
    words = "then raise it to these shares"
    canary.add_argument("--then", type=read.percents, metavar="P%,…", help=words)
    words = "stay at each share this long (default 10m)"
    canary.add_argument("--every", type=read.duration, metavar="TIME", help=words)
    words = "roll back above this share of failed requests (default 1%%)"
    canary.add_argument("--max-errors", type=read.errors, metavar="P%", help=words)
    words = "roll back above this multiple of the live colour's p99 (default 2x)"
    canary.add_argument("--max-p99", type=read.factor, metavar="Nx", help=words)
    words = f"with fewer requests watch a share up to {PATIENCE} times as long, then roll back (default {ENOUGH})"
    canary.add_argument("--min-requests", type=read.number, metavar="N", help=words)
    add_options(parser)
    add_box_options(parser)


def add_cutover_options(parser: argparse.ArgumentParser) -> None:
    """Add what cutover and rollback share."""
    parser.add_argument(
        "--keep",
        type=read.duration,
        default=3600.0,
        metavar="TIME",
        help="keep the old colour running this long (default 1h)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--handoff", action="store_true", default=None, help="hand established connections off (default)")
    how.add_argument("--drain", dest="handoff", action="store_false", help="drain the old colour by its policy")


def run(options: argparse.Namespace, context: Context) -> Exit:
    if elsewhere(options):
        from portfleet.submit.serial import everywhere  # it asks several boxes at once, which takes a while to import

        return everywhere(options, context, options.service)
    want = service_want(context, options.service)
    service, record = want.service, want.record
    configured = _one_config(context, want, options)
    release = real_release(configured, options.release or configured.release, real_path)
    command = _split(options.command) if options.command else None
    live = record.colours.get(want.live, ColourRecord())
    launch = None if configured.launch == service.launch else configured.launch
    same = (release, command, launch) == (live.release, live.command, live.launch)
    new_content = content.changed(want, _observed(context), context.paths) if same else None
    if same and not new_content and not options.force:
        words = f"{want.live} already runs {release or 'this command'} since {live.since or 'its start'}"
        return already(context, "cutover", service.name, words)
    _check(configured, release, command)
    canary = _canary(options)
    words = f"cut over {service.name} to {other(want.live)}" + (f", release {release}" if release else "")
    if new_content:
        words += f"; {new_content.place} has changed ({new_content.at}) since {want.live} was started from it"
    new = ColourRecord(release, command, launch=launch)
    if keys := differing(service.launched(live.launch).launch, configured.launch):
        by = f"{', '.join(keys)} of {context.paths.config}"
        context.say(f"{other(want.live)} is started with {by}; {want.live} keeps its own")
    return begin(options, context, want, words=words, kind=Cutover, new=new, canary=canary)


def _one_config(context: Context, want: DesiredService, options: argparse.Namespace) -> Service:
    """Return the service by the config that starts the new colour: the file's, or with --applied the other.

    Raises PortfleetError if the file changes what both colours share and a new colour depends on.
    """
    applied = context.applied_fleet.services[want.name]
    if options.applied:
        return applied
    configured = _configured(context, want.name)
    keys = [key for key in differing(applied, configured) if key not in ("release", *vars(applied.launch))]
    if shared := [key for key in keys if key in _SHARED]:
        raise PortfleetError(
            f"{context.paths.config} changes {', '.join(shared)}, which both colours share; nothing was done",
            hint="portfleet apply first; or go by the config applied last: --applied",
            code=Exit.USAGE,
        )
    if keys:
        context.say(f"{context.paths.config} changes {', '.join(keys)} too; that waits for: portfleet apply")
    return configured


def _canary(options: argparse.Namespace) -> Canary | None:
    """Return the plan of the canary that was asked for; raises PortfleetError for options that say nothing without."""
    given = {key: value for key in _CANARY if (value := getattr(options, key)) is not None}
    if options.canary is None:
        if given:
            flag = f"--{next(iter(given)).replace('_', '-')}"
            raise PortfleetError(
                f"{flag} is about a canary", hint=f"add --canary 5%, or leave {flag} out", code=Exit.USAGE
            )
        return None
    if given.get("every") == 0:
        raise PortfleetError(
            "--every 0 would watch no canary", hint="leave --canary out, or --every 30s", code=Exit.USAGE
        )
    steps = tuple(p for p in (options.canary, *given.pop("then", ())) if p < 100) or (options.canary,)
    return Canary(steps=steps, **_CANARY_DEFAULTS | given)


def begin(
    options: argparse.Namespace,
    context: Context,
    want: DesiredService,
    *,
    words: str,
    kind: type[Cutover],
    new: ColourRecord,
    canary: Canary | None,
) -> Exit:
    """Begin to make the idle colour live with ``new``."""
    colour: Colour = other(want.live)
    names = [i.name for i in want.of(colour)]
    before = want.record.colours.get(colour)
    same = kind is Rollback and before is not None and (before.release, before.command) == (new.release, new.command)
    fresh = not same or before is None or before.stopped
    asked = want.record.asked_of(names)
    if fresh:
        _refuse_connections(context, options.service, colour)
    if same and not [i for i in want.of(colour) if i.name not in asked and i.weight > 0]:
        raise PortfleetError(
            f"no instance of {colour} would serve: {', '.join(asked)} are drained or in maintenance",
            hint=f"portfleet undrain {want.name}/{names[0]}",
        )

    def change(record: ServiceRecord) -> ServiceRecord:
        started = replace(new, since=now(), stopped=False, keep_until=None)
        # What was asked of instances was asked of the release they ran.
        asks = record.asked if same else record.asking_nothing(names).asked
        if new.launch is not None:  # the other colour is what a rollback returns to
            record = record.with_launch(want.live, want.service.launch)
        return replace(record.with_colour(colour, started), asked=asks)

    ran = want.record.colours.get(want.live, ColourRecord())
    # A colour that is stopped starts with what its release holds then: nothing returns to an earlier content.
    gone = not options.keep and (new.release, new.command, new.launch) == (ran.release, ran.command, ran.launch)
    live = [i for i in want.instances if i.takes and i.program is not None]
    why = why_not(context, live, ())  # what the new release can is asked when it runs
    if options.handoff and why:
        raise PortfleetError(why, hint=f"portfleet {kind.verb} {want.name} --drain", code=Exit.USAGE)
    handoff = not why if options.handoff is None else options.handoff
    _tell(context, want, [i.name for i in live], why or "--drain", handoff=handoff)
    work = kind(
        colour=colour,
        before=before,
        fresh=fresh,
        asked=asked,
        config_release=_configured(context, want.name).release,
        config_release_before=want.record.config_release,
        keep=options.keep,
        handoff=handoff,
        insist=bool(options.handoff),
        canary=canary,
    )
    return submit(
        context,
        want,
        options,
        work=work,
        words=words,
        change=change,
        becomes=lambda record: replace(change(record), live=colour),
        point=False,
        owned=names,
        starts=names if fresh else (),
        undo="" if gone else f"portfleet rollback {want.name}" + " --forward" * (kind is Rollback),
    )


def _tell(context: Context, want: DesiredService, live: list[str], why: str, *, handoff: bool) -> None:
    """Print what becomes of the connections of the ``live`` instances; ``why`` they are not handed off."""
    if handoff:
        tell_handed(context, live, other(want.live))
        return
    drain = want.service.drain
    waits = f"they stay with {want.live} until they end"
    if policy_of(drain).closes:
        waits = f"they may finish for {drain.deadline:g} s, then they are closed"
    tell(context, live, why, rate=drain.rate, waits=waits)


def _configured(context: Context, name: str) -> Service:
    """Return a service as it is configured; a config that is broken, or lacks it, holds up nothing that was applied."""
    return context.file_fleet.services.get(name) or context.applied_fleet.services[name]


def _split(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PortfleetError(f"--command: {error}", hint="quote it as for a shell", code=Exit.USAGE) from None
    if not words:
        raise PortfleetError("--command is empty", hint="leave it out to keep the command", code=Exit.USAGE)
    return tuple(words)


def _check(service: Service, release: str | None, command: tuple[str, ...] | None) -> None:
    texts = [*(command or service.command), service.directory or "", *service.environment.values()]
    if release is None and "release" in placeholders(texts):
        raise PortfleetError(f"{service.name} needs a release", hint="cutover --release R", code=Exit.USAGE)
    refuse_unusable(service, release=release, command=command or service.command)
    path = release_path(service, release)
    if path.startswith("/") and not has_path(path):
        raise PortfleetError(f"release {path} does not exist", hint="ship it there first", code=Exit.USAGE)
    if command is not None and "port" not in placeholders([*command, *service.environment.values()]):
        raise PortfleetError("--command never uses {port}", hint="add --port {port}", code=Exit.USAGE)


def _observed(context: Context) -> Observed:
    return context.observe(context.desired(context.applied_fleet), probe=False)


def _refuse_connections(context: Context, service: str, colour: Colour) -> None:
    """Refuse to replace an idle colour that still has connections, or slots: its clients would be dropped."""
    observed = _observed(context)
    instances = context.desired(context.applied_fleet).services[service].of(colour)
    pointed = set(context.plane.read_slots(service))
    if held := [i.name for i in instances if i.name in pointed]:
        raise PortfleetError(
            f"{colour} still has slots ({', '.join(held)}): no instance of {other(colour)} serves",
            hint=f"see: portfleet status {service}; to make {colour} live again: portfleet rollback {service}",
        )
    busy = {i.name: count for i in instances if (count := observed.seen(i.name).connections)}
    if busy:
        first = next(iter(busy))
        raise PortfleetError(
            f"{colour} still has connections ({', '.join(f'{name}: {count}' for name, count in busy.items())})",
            hint=f"at most two colours run: wait, or portfleet drain {service}/{first} --rate N --force",
        )
