"""Move established connections of an instance to another box, or take them in there; `migrate --live` runs it.

Two of these talk over ssh: `send` on the box that connections leave, which runs `receive` on the other. `check` says
whether this box can take connections of the instance. All print JSON, a line each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit, PortfleetError
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import HandingFailed
from portfleet.daemons.instances import control_of
from portfleet.dataplane.relocation import Relocation
from portfleet.linux import other_box
from portfleet.linux.lines import Lines, StreamEnded
from portfleet.store import locks
from portfleet.submit import options as read
from portfleet.submit.targets import targets

EXAMPLES = ("portfleet relocate check echo/2",)

#: Seconds for the other box to end after the last batch.
_ENDS = 10.0
#: Seconds for one that took connections before to end: it has waited for the other box's word for 15 at most.
_PREDECESSOR = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=("send", "receive", "check"), metavar="ROLE", help="send, receive or check")
    parser.add_argument("instance", metavar="SERVICE/INSTANCE", help="such as echo/echo-blue-2")
    parser.add_argument("--box", default="", metavar="HOST", help="send: the box, as ssh understands it")
    parser.add_argument("--count", type=read.number, default=0, metavar="N", help="send: how many connections")


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, place, relocation = _found(options, context)
    if options.role == "check":
        status = context.hear([want], context.pids())[want.name].status
        _print({"ok": True, "handoff": sorted(status.handoff) if status else []})
        return Exit.DONE
    if options.role == "receive":
        with locks.relocation(context.paths.relocation_lock(want.name), seconds=_PREDECESSOR):
            return _receive(want, place, relocation)
    return _send(options, want, place, relocation)


def _found(options: argparse.Namespace, context: Context) -> tuple[DesiredInstance, Control, Relocation]:
    """Return the instance, its control socket and what moves connections; raise PortfleetError if one lacks."""
    _, found = targets(context, options.instance)
    relocation = context.plane.relocation()
    if relocation is None:
        words = f"{context.plane.traits.words} cannot move established connections to another box"
        raise PortfleetError(words, hint="drain instead", code=Exit.USAGE)
    if len(found) != 1:
        raise PortfleetError("name one instance, as in echo/echo-blue-2", code=Exit.USAGE)
    place = control_of(found[0], context.pids())
    if place is None:
        raise PortfleetError(f"{found[0].name} does not run on this box", hint="portfleet status")
    return found[0], place, relocation


def _receive(want: DesiredInstance, place: Control, relocation: Relocation) -> Exit:
    """Take connections in a second process; if that is killed, complete here what it had begun to give the daemon."""
    from portfleet.daemons.arrival import Arrival
    from portfleet.daemons.copies import Copies

    stream, copies = Lines(sys.stdin.fileno(), sys.stdout.fileno()), Copies()
    if not (child := os.fork()):
        code = Exit.FAILED
        try:
            why = Arrival(place, want.rule.port, stream, relocation, copies).run()
            if why:
                print(f"portfleet: {why}", file=sys.stderr, flush=True)
            code = Exit.FAILED if why else Exit.DONE
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return Exit(os.WEXITSTATUS(status))
    try:
        if completed := copies.after(place):
            stream.say({"done": completed})
    except (HandingFailed, StreamEnded, OSError) as error:
        print(f"portfleet: {error}", file=sys.stderr)
    return Exit.FAILED


def _send(options: argparse.Namespace, want: DesiredInstance, place: Control, relocation: Relocation) -> Exit:
    from portfleet.daemons.departure import Departed, Departure

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)  # the batches that are under way are finished
    there: list[subprocess.Popen[bytes]] = []

    def reach() -> Lines:
        words = ["portfleet", "relocate", "receive", f"{want.instance.service}/{want.name}"]
        line = other_box.command(options.box, words)
        if there:  # it ends there when it hears no more, and the next one waits for that
            cast(IO[bytes], there[-1].stdin).close()
        there.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0))
        reads, writes = cast(IO[bytes], there[-1].stdout), cast(IO[bytes], there[-1].stdin)
        return Lines(reads.fileno(), writes.fileno())

    def report(found: Departed) -> None:
        _print({"moved": found.moved})

    meeting = Path(place.path).with_name(f"relocate-{os.getpid()}.sock")
    departure = Departure(place, reach, relocation, meeting=meeting, stopped=lambda: stopped)
    try:
        result = departure.run(options.count, report)
    finally:
        for other in there:
            _end(other)
    told = {"done": True, "moved": result.moved, "seconds": round(result.seconds, 3), "stayed": dict(result.stayed)}
    _print(told | {"why": result.why})
    return Exit.FAILED if result.why else Exit.DONE


def _end(other: subprocess.Popen[bytes]) -> None:
    cast(IO[bytes], other.stdin).close()
    with suppress(subprocess.TimeoutExpired):
        other.wait(_ENDS)
    if other.poll() is None:
        other.kill()
        other.wait()


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
