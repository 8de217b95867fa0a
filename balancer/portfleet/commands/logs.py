"""Show the end of the logs of a service's instances, of one instance, of portfleet-watch or of supervisord.

With several logs each line begins with the instance's name. -f goes on showing what is written, also over restarts.
--since counts by the time that a line begins with (RFC 3339, as our daemon writes it); a line without one belongs to
the line before.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.printable import printable
from portfleet.core.program import WATCHER
from portfleet.screen.output import paint
from portfleet.submit import options as read
from portfleet.supervise import logs

EXAMPLES = (
    "portfleet logs echo -f --since 10m",
    "portfleet logs echo/2",
    "portfleet logs -f portfleet-watch",
)

_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
#: Seconds between looks at the files that are followed.
_EVERY = 0.2
_COLOURS = ("green", "yellow", "blue", "magenta", "cyan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "such as echo, echo/echo-blue-1, echo/1 (of the live colour), portfleet-watch or supervisord"
    parser.add_argument("instance", metavar="LOG", help=words)
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is written; Ctrl-C ends it")
    words = "how many lines of each log (default 40)"
    parser.add_argument("-n", "--lines", type=read.number, default=40, metavar="N", help=words)
    words = "instead of the last lines, those of this long until now, such as 10m"
    parser.add_argument("--since", type=read.duration, metavar="TIME", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    names = _programs(options.instance, context)
    paths = {name: context.paths.log_of(name) for name in names}
    there = {name: path for name, path in paths.items() if path.exists()}
    if not there:
        raise _without_log(names[0], context)
    prefixes = _prefixes(list(there) if not options.follow else names)
    tails = {name: logs.Tail(path) for name, path in paths.items()} if options.follow else {}
    for name, path in there.items():
        _show(prefixes[name], _before(path, options.lines, options.since))
    with suppress(KeyboardInterrupt):
        while tails:
            for name, tail in tails.items():
                _show(prefixes[name], tail.lines())
            sys.stdout.flush()
            time.sleep(_EVERY)
    return Exit.DONE


def _without_log(name: str, context: Context) -> PortfleetError:
    """Say why there is no log of a program: it never ran, or its log was removed."""
    if name in context.programs(context.desired(context.serving_fleet)).running():
        words = f"the log {context.paths.log_of(name)} was removed, and what it held is lost"
        return PortfleetError(words, hint=f"supervisord makes another within 5 s; then: portfleet logs {name}")
    words = f"there is no log: {context.paths.log_of(name)}"
    return PortfleetError(words, hint=f"{name} does not run; see: portfleet status")


def _before(path: Path, lines: int, seconds: float | None) -> list[bytes]:
    try:
        return logs.last(path, lines) if seconds is None else logs.since(path, time.time() - seconds)
    except OSError as error:
        raise PortfleetError(f"cannot read {path}: {error.strerror}", hint="run it as root") from None


def _prefixes(names: list[str]) -> dict[str, str]:
    """Return what each program's lines begin with: nothing if it is the only one."""
    if len(names) == 1:
        return {names[0]: ""}
    width = max(map(len, names))
    painted = zip(names, cycle(_COLOURS), strict=False)
    return {name: paint(f"{name:<{width}} | ", colour) for name, colour in painted}


def _show(prefix: str, lines: Iterable[bytes]) -> None:
    terminal = sys.stdout.isatty()
    for line in lines:
        text = line.decode(errors="replace")
        print(prefix + (printable(text, len(text)) if terminal else text))


def _programs(text: str, context: Context) -> list[str]:
    """Return the programs that are meant; raises PortfleetError (exit 2) if there is none on this box."""
    if text in (WATCHER, "supervisord"):
        return [text]
    if text.startswith("portfleet-") and text in context.desired(context.serving_fleet).beside:
        return [text]
    service, _, name = text.rpartition("/")
    if text in _services(context):
        return _of(text, context)
    if service and _NUMBER.fullmatch(name):
        fleet = context.serving_fleet
        context.service(fleet, service)
        name = f"{service}-{context.desired(fleet).configured[service].live}-{name}"
    instance = parse_instance(name)
    if instance is None or instance.colour is None or service not in ("", instance.service):
        raise PortfleetError(
            f'"{text}" is neither a service nor an instance on this box',
            hint="write SERVICE or SERVICE/INSTANCE, as in echo/echo-blue-1 or echo/1; see: portfleet status",
            code=Exit.USAGE,
        )
    return [name]


def _services(context: Context) -> Iterable[str]:
    """Return the names of the services; none if no config can be read, as logs are then looked at all the same."""
    try:
        return context.serving_fleet.services
    except PortfleetError:
        return ()


def _of(service: str, context: Context) -> list[str]:
    """Return the instances of a service that run or are to run, on this box."""
    desired = context.desired(context.serving_fleet).configured[service]
    return [one.name for one in desired.instances if one.program is not None]
