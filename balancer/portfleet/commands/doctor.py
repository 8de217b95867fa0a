"""Check this machine for what the fleet needs; each finding comes with the command that fixes it.

Exit 0 where nothing is broken (warnings are for tomorrow), 1 where something is. Nothing is changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from portfleet.apply.context import Context
from portfleet.core.errors import ConfigError, Exit
from portfleet.core.model import Fleet
from portfleet.core.needs import needs_of
from portfleet.doctor import files, limits, ports
from portfleet.doctor.finding import Finding, Severity, broken
from portfleet.screen.output import paint, print_json

_COLOURS = {Severity.FINE: "green", Severity.WARNING: "yellow", Severity.BROKEN: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace, context: Context) -> Exit:
    found = list(_examine(context))
    worst = any(finding.severity is Severity.BROKEN for finding in found)
    if context.json:
        print_json({"findings": [asdict(finding) for finding in found]})
        return Exit.FAILED if worst else Exit.DONE
    for finding in found:
        print(f"{paint(f'{finding.severity:7}', _COLOURS[finding.severity])}  {finding.about}: {finding.what}")
        if finding.severity is not Severity.FINE:
            print(f"         why:  {finding.why}\n         fix:  {finding.mend}")
    count = {severity: sum(finding.severity is severity for finding in found) for severity in Severity}
    print(f"{count[Severity.BROKEN]} broken, {count[Severity.WARNING]} warnings, {count[Severity.FINE]} fine")
    return Exit.FAILED if worst else Exit.DONE


def _examine(context: Context) -> Iterator[Finding]:
    """Look at everything; a config that cannot be read is a finding, and the machine is judged without it."""
    try:
        fleet = context.fleet
    except ConfigError as error:
        fleet = Fleet({})
        for problem in error.problems:
            yield broken(
                f"{context.paths.config} {problem.path}",
                problem.message,
                why="nothing can be applied from a config with errors",
                mend=problem.hint or "portfleet check",
            )
    limit = limits.read(context.paths)
    needs = needs_of(fleet, descriptors=limit.hard)
    yield from limits.judge(limit, needs)
    yield from ports.judge(ports.read(context.paths, needs), needs)
    yield from context.plane.findings(fleet, needs)
    yield from files.judge(files.read(context.paths, fleet))
