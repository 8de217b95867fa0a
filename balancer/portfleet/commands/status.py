"""Show the desired and actual state of each instance, and what is wrong with those that do not serve.

Problems of the watcher or supervisord come first. --json prints the same for programs, with both colours of every
service. CONNECTIONS are those established now; RESTARTS counts how often the instance's process has ended since the
watcher started, for whatever reason; AGE is the time since the state changed. A narrow terminal is shown fewer columns.
With --all or --box other boxes are asked, all at the same time. The exit code is the worst that holds, and all that
-q leaves, for monitors:

  0  every instance that should serve does, and the watcher and supervisord work
  7  an instance that should serve does not, or a listen address is closed
  8  the watcher or supervisord does not run, or does not answer within a second (ten while it waits for a processor)
  9  a service has no serving instance
  1-5  as for every verb: the state cannot be told (no config, not root, a box that does not answer)
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from io import StringIO
from typing import Any

from portfleet.apply import content
from portfleet.apply.context import Context
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.model import other
from portfleet.core.observed import Observed
from portfleet.core.printable import quantity
from portfleet.core.states import State, Wanted
from portfleet.screen import colours
from portfleet.screen.output import columns, fit, fitting, paint, print_json, redraw
from portfleet.screen.serving import health
from portfleet.screen.status_rows import at_rest, service_entry
from portfleet.store import locks, warnings
from portfleet.store.clock import now
from portfleet.submit.elsewhere import add_box_options, elsewhere
from portfleet.supervise.presence import Overseer, WatcherQuestion, supervisord, troubles

EXAMPLES = (
    "portfleet status",
    "portfleet status echo --watch",
    "portfleet status -q || page-someone",
    "portfleet status --json | jq '.services[].not_serving'",
    "portfleet status --all",
    "portfleet status --all --inventory hosts.json",
)

#: Denials that are named; all of them are in --json.
_SHOWN = 8
_COLOURS = {State.READY: "green", State.FAILED: "red", State.EJECTED: "red", State.STOPPED: "dim"}
#: Seconds that supervisord and the watcher have for their answers, both at the same time; and see `Patience`.
_PATIENCE = 1.0
#: How many instances are asked for what they say of themselves. Of more the watcher has it already; to ask 1,024 takes
#: 0.15 s of CPU.
_ASKED = 64
#: Columns that a narrow terminal goes without: PID, PORT, RESTARTS, WANTED.
_SPARE = (3, 4, 7, 1)
#: Seconds between two pictures of --watch.
_EVERY = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("-w", "--watch", action="store_true", help="show it again every 2 s; Ctrl-C ends it")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code says it, for monitors")
    add_box_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if elsewhere(options):
        from portfleet.submit.boxes import overview  # it asks several boxes at once, which takes a while to import

        return overview(options, context)
    context.answer = _PATIENCE
    if options.watch:
        return _watch(options.service, context)
    if not options.quiet:
        return _status(options.service, context)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            return _status(options.service, context)
        except PortfleetError as error:
            return error.code


class _Screen(StringIO):
    """What is to be shown on the terminal at once: painted as for the terminal itself."""

    def isatty(self) -> bool:
        return True


def _watch(only: str | None, context: Context) -> Exit:
    if context.json or not sys.stdout.isatty():
        raise PortfleetError("--watch needs a terminal", hint="portfleet status", code=Exit.USAGE)
    gc.enable()  # unlike other verbs this one stays
    with suppress(KeyboardInterrupt):
        while True:
            fresh = Context(context.paths)  # the config and the journal may have changed
            fresh.answer = _PATIENCE
            screen = _Screen()
            with redirect_stdout(screen):
                print(paint(f"{now()}  every {_EVERY:g} s", "dim"))
                print()
                _status(only, fresh)
            redraw(screen.getvalue().splitlines(), more="portfleet status SERVICE --watch, or a higher terminal")
            time.sleep(_EVERY)
    return Exit.DONE


def _status(only: str | None, context: Context) -> Exit:
    question = WatcherQuestion(context.paths)  # answered while everything else is looked at
    fleet = context.serving_fleet
    if unapplied := context.unapplied():
        context.say(unapplied)
    if only:
        context.service(fleet, only)
    desired = context.desired(fleet)
    large = sum(want.program is not None for want in desired.instances()) > _ASKED
    observed = context.observe(desired, probe=False, by_word=large)
    services = [service for name, service in desired.configured.items() if only in (None, name)]
    below, above = supervisord(context.paths, observed.supervisord), question.answer(seconds=_PATIENCE)
    ends = question.said.get("ends", {})
    entries = {service.name: _entry(context, service, observed, desired.journal, ends) for service in services}
    code = health(entries.values(), watched=below.works and above.works)
    warned = warnings.read(context.paths.warnings) if locks.held(context.paths.watch_lock) else []
    if context.json:
        overseers = {"supervisord": _overseer(below), "watcher": _overseer(above)}
        found = {
            "data_plane": [_own(name, observed) for name in sorted(desired.own)],
            "services": list(entries.values()),
            "warnings": [vars(entry) for entry in warned],
        }
        print_json(overseers | found)
        return code
    for trouble in troubles(below, above):
        print(f"{paint(fit(trouble.words), 'red')}\n  hint: {trouble.hint}")
    for entry in warned:
        words = fit(f"warning: {entry.text} (since {entry.since})")
        print(f"{paint('warning:', 'red')}{words.removeprefix('warning:')}\n  hint: {entry.hint}")
    for name in sorted(desired.own):
        print(_own_words(name, observed))
    for number, service in enumerate(services):
        print(end="\n" if number else "")
        _show_service(service, observed, desired.journal, entries[service.name])
    return code


def _overseer(overseer: Overseer) -> dict[str, Any]:
    trouble = None if overseer.works else overseer.trouble
    return {
        "state": overseer.presence,
        "pid": overseer.pid,
        "trouble": trouble and trouble.words,
        "hint": trouble and trouble.hint,
    }


def _show_service(service: DesiredService, observed: Observed, journal: Journal, entry: dict[str, Any]) -> None:
    if service.down:
        print(f"{paint(service.name, 'bold')}  {paint(service.notes[0], 'yellow')}")
        return
    _show(service, entry, observed.at)
    for line in colours.lines(service, observed, journal):
        print(fit(f"  {line}"))
    if changed := entry["content_changed"]:
        print(paint(fit(f"  {content.Changed(**changed).words()}"), "yellow"))
    for network, name in entry["pins"].items():
        print(f"  pinned: {network} → {name}")
    for line in _access(entry["access"]):
        print(fit(f"  {line}"))


def _entry(
    context: Context, service: DesiredService, observed: Observed, journal: Journal, ends: Mapping[str, int]
) -> dict[str, Any]:
    """Return what --json says of a service; ``ends``: how often each process has ended, by the watcher's word."""
    entry = service_entry(service, observed, journal, context.paths)
    if context.json:
        from portfleet.core.exported import table_checksum  # it writes the journal's form, which takes a millisecond

        entry["checksum"] = table_checksum(service.record, context.serving_fleet.forward)
    entry["access"]["refused"] = context.plane.connections.refused(service.name)
    entry["content_changed"] = vars(found) if (found := content.changed(service, observed, context.paths)) else None
    for instance in entry["instances"]:
        instance["restarts"] = ends.get(instance["name"])
    return entry


def _access(found: dict[str, Any]) -> list[str]:
    """Return who may connect and how many were refused; the operators' latest denials, the rest as a number."""
    denied = [f"{d['network']}" + (f" until {d['until']}" if d["until"] else "") for d in found["deny"]]
    lines = [f"allowed: {', '.join(found['allow'])}"] if found["allow"] else []
    shown = ", ".join(denied[-_SHOWN:])
    lines += [f"denied: {shown}" + (f" and {len(denied) - _SHOWN:,} more" if len(denied) > _SHOWN else "")] * bool(
        denied
    )
    if found["max_per_source"]:
        lines.append(f"at most {quantity(found['max_per_source'], 'connection')} a source")
    if lines:
        lines.append(f"refused since the rules were loaded: {found['refused']:,}")
    return lines


def _why(entry: dict[str, Any], at: float) -> list[str]:
    """Return the lines below an instance: why it does not serve, what follows, its log's end; or that it is adopted."""
    if entry["state"] == State.READY:
        return ["adopted: still running from an earlier supervisord; managed again after its next restart"] * entry[
            "adopted"
        ]
    words = [entry["why"]] if entry["why"] else []
    if entry["next_try"]:
        words.append(f"next try {_until(entry['next_try'], at)} (attempt {entry['attempt']})")
    ended = f"ended last with {entry['last_exit']}" if entry["last_exit"] else ""
    if ended and ended not in (entry["why"] or ""):
        words.append(ended)
    return words + [f"log: {line}" for line in entry["last_log"]]


def _until(moment: str, at: float) -> str:
    """Return how long after the Unix time ``at`` a ``moment`` (RFC 3339) is."""
    seconds = datetime.fromisoformat(moment).timestamp() - at
    return f"in {seconds:.0f} s" if seconds >= 1 else "now"


def _age(since: str | None, at: float) -> str:
    """Return how long ago ``since`` (RFC 3339) was at the Unix time ``at``, in the largest unit of which it has two."""
    if since is None:
        return "-"
    seconds = max(0, int(at - datetime.fromisoformat(since).timestamp()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _show(service: DesiredService, about: dict[str, Any], at: float) -> None:
    listen = " ".join(map(str, service.service.listen))
    release = f"  release {service.release}" if service.release else ""
    title = f"{service.name}  live {service.live}{release}  listens on {listen}  affinity {service.service.affinity}"
    print(paint(service.name, "bold") + fit(title).removeprefix(service.name))
    if not about["served"]:
        print(paint(f"  no instance serves {service.name}", "red"))
    for listen in about["closed"]:
        print(paint(f"  {listen} is closed to clients: portfleet apply", "red"))
    rows, states, whys = [], [], []
    for entry in about["instances"]:
        if at_rest(entry):
            continue
        states.append(entry["state"])
        whys.append(_why(entry, at))
        rows.append(
            [
                entry["name"],
                entry["wanted"],
                entry["state"],
                str(entry["pid"] or "-"),
                str(entry["port"]) if entry["address"] == "local" else f"{entry['address']}:{entry['port']}",
                f"{entry['slots']:,}",
                f"{entry['connections']:,}",
                "-" if entry["restarts"] is None else f"{entry['restarts']:,}",
                _age(entry["since"], at),
            ]
        )
    head = ["  INSTANCE", "WANTED", "STATE", "PID", "PORT", "SLOTS", "CONNECTIONS", "RESTARTS", "AGE"]
    indented = [["  " + row[0], *row[1:]] for row in rows]
    lines = fitting(head, indented, right=range(3, len(head)), spare=_SPARE, width=columns())
    print(paint(lines[0], "dim"))
    for line, state, why in zip(lines[1:], states, whys, strict=True):
        colour = _COLOURS.get(state, "yellow")
        before, _, after = line.rpartition(f" {state} ")  # not the first, which is what is wanted
        print(line if state == State.READY else f"{before} {paint(state, colour)} {after}")
        if state is not State.STOPPED:
            for words in why:
                print(fit(f"      {words}"))
    idle = other(service.live)
    if all(i.wanted is Wanted.STOPPED for i in service.instances if i.instance.colour == idle):
        print(paint(f"  {idle}: stopped ({quantity(service.service.instances, 'instance')})", "dim"))


def _own(name: str, observed: Observed) -> dict[str, Any]:
    """Return what --json says of a process of the data plane's own."""
    found = observed.own.get(name)
    running = vars(found) if found else {"pid": None, "connections": None, "former": None}
    return {"name": name, "state": "ready" if found else "failed"} | running


def _own_words(name: str, observed: Observed) -> str:
    found = observed.own.get(name)
    if found is None:
        return f"{paint(f'{name} does not answer', 'red')}\n  hint: portfleet logs {name}"
    former = f"; {quantity(found.former, 'former worker', 'ends')} with the last connections" if found.former else ""
    return f"{name}  pid {found.pid}  {quantity(found.connections, 'connection')}{former}"
