"""Check this machine for what the fleet needs, and print the command that fixes each problem.

Problems of the watcher or supervisord of a fleet that is up come first. Exit 1 if something is broken now; a warning
concerns what will break under load. Nothing is changed.

--peer compares this box's slots, marks, pins and config with those of a box that is to point alike, by what `portfleet
export` printed there (a file), or prints now (a host, asked by ssh).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from portfleet.apply.context import Context
from portfleet.core.errors import ConfigError, Exit, PortfleetError
from portfleet.core.exported import differences, obstacles
from portfleet.core.model import Fleet
from portfleet.core.needs import needs_of
from portfleet.core.printable import quantity
from portfleet.doctor import files, limits, overseers, ports, probes
from portfleet.doctor.finding import Finding, Severity, broken, fine, warning
from portfleet.screen.output import fit, fit_command, paint, print_json
from portfleet.submit import exported as peer

EXAMPLES = ("portfleet doctor", "portfleet doctor --peer root@box2")

#: Seconds that supervisord has for an answer: one that hangs is a finding.
_PATIENCE = 2.0
_EQUAL = "write the same [forward] into fleet.toml on both boxes, then: systemctl reload portfleet-forward"
_COLOURS = {Severity.FINE: "green", Severity.WARNING: "yellow", Severity.BROKEN: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", metavar="FILE|HOST", help="compare with a box that is to point its slots alike")


def run(options: argparse.Namespace, context: Context) -> Exit:
    context.answer = _PATIENCE
    found = [*_examine(context), *(_compare(context, options.peer) if options.peer else ())]
    worst = any(finding.severity is Severity.BROKEN for finding in found)
    if context.json:
        print_json({"findings": [asdict(finding) for finding in found]})
        return Exit.FAILED if worst else Exit.DONE
    for finding in found:
        line = fit(f"{finding.severity:7}  {finding.about}: {finding.what}", indent=9)
        print(paint(finding.severity, _COLOURS[finding.severity]) + line.removeprefix(finding.severity))
        if finding.severity is not Severity.FINE:
            print(fit(f"    why:  {finding.why}", indent=10))
            print(f"    fix:  {fit_command(finding.mend, indent=10)}")
    count = {severity: sum(finding.severity is severity for finding in found) for severity in Severity}
    print(
        f"{count[Severity.BROKEN]} broken, {quantity(count[Severity.WARNING], 'warning')}, {count[Severity.FINE]} fine"
    )
    return Exit.FAILED if worst else Exit.DONE


def _keepalive(context: Context, fleet: Fleet) -> int | None:
    """Return within how many seconds the keepalive of all running instances speaks; None if one does not say."""
    try:
        pids = context.pids()
        there = [want for want in context.desired(fleet).instances() if want.name in pids]
    except PortfleetError:
        return None
    said = [heard.status.keepalive if heard.status else None for heard in context.hear(there, pids).values()]
    known = [seconds for seconds in said if seconds is not None]
    return max(known) if known and len(known) == len(said) else None


def _speaking(context: Context, fleet: Fleet) -> dict[str, bool]:
    """Return of each service that runs whether all its running instances answer on their control sockets."""
    try:
        pids = context.pids()
        services = context.desired(fleet).services
    except PortfleetError:
        return {}
    there = {name: [one for one in want.instances if one.name in pids] for name, want in services.items()}
    heard = context.hear([one for some in there.values() for one in some], pids)
    return {name: all(heard[one.name].speaks for one in some) for name, some in there.items() if some}


def _examine(context: Context) -> Iterator[Finding]:
    """Look at everything; a config that cannot be read is a finding, and the machine is judged without it."""
    yield from _overseers(context)
    try:
        fleet, problems = context.configured, context.misfits
    except ConfigError as error:
        fleet, problems = Fleet({}), list(error.problems)
    for problem in problems:
        yield broken(
            f"{context.paths.config} {problem.path}",
            problem.message,
            why="nothing can be applied from a config with errors",
            mend=problem.hint or "portfleet check",
        )
    limit = limits.read(context.paths)
    needs = needs_of(fleet, descriptors=limit.hard, keepalive=_keepalive(context, fleet))
    yield from limits.judge(limit, needs)
    yield from ports.judge(ports.read(context.paths, needs), needs)
    yield from context.plane.findings(fleet, needs)
    yield from probes.judge(fleet, _speaking(context, fleet))
    yield from files.judge(files.read(context.paths, fleet))


def _compare(context: Context, name: str) -> Iterator[Finding]:
    """Compare this box with the peer ``name``; raise PortfleetError if either cannot be read."""
    theirs, mine = peer.of_peer(name), peer.own(context)
    journal = context.desired(context.applied_fleet).journal
    found = [*obstacles(context.applied_fleet, journal, theirs), *differences(mine, theirs)]
    for line in found:
        yield warning(
            f"peer {name}",
            line,
            why="after a switch to the other box, new connections of a client may meet another instance",
            mend=_EQUAL if line.startswith("forward.") else f"ssh {name} portfleet export | portfleet import -",
        )
    if not found:
        yield fine(f"peer {name}", f"{', '.join(sorted(theirs.services))}: slots, marks and pins are alike")


def _overseers(context: Context) -> Iterator[Finding]:
    try:
        yield from overseers.judge(overseers.read(context.paths))
    except PortfleetError as error:
        yield broken(
            "watcher", error.message, why="whether anything looks after the fleet is not known", mend=error.hint
        )
