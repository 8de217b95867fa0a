"""Check the config and show every problem at once, each with its path and a hint; exit 2 if there is one.

It is checked against this machine too: commands, users, ports, limits. Nothing is changed. With --schema nothing is
checked: it prints a JSON schema (draft 2020-12) of fleet.toml, for editors and other programs.
"""

from __future__ import annotations

import argparse

from portfleet.apply.claims import claims
from portfleet.apply.context import Context
from portfleet.apply.preflight import file_problems, page_problems
from portfleet.core.derive import make_desired
from portfleet.core.errors import ConfigError, Exit, Problem
from portfleet.core.journal import Journal
from portfleet.core.model import Fleet
from portfleet.core.placeholders import placeholders
from portfleet.core.printable import quantity
from portfleet.core.program import release_path
from portfleet.doctor.page import open_page
from portfleet.doctor.probes import unasked
from portfleet.linux.machine import has_path
from portfleet.screen.output import fit, print_json

EXAMPLES = (
    "portfleet check",
    "portfleet check --config ./fleet.toml",
    "portfleet check --schema > fleet.schema.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of fleet.toml instead")


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.schema:
        from portfleet.config.schema import schema  # of no use to a check

        print_json(schema())
        return Exit.DONE
    try:
        fleet = context.configured
        made = make_desired(fleet, Journal(), context.paths)
        files = [*file_problems(made, context.paths), *page_problems(fleet, context.paths)]
        found = (context.misfits, context.plane.problems(fleet), files)
        if problems := [problem for some in found for problem in some]:
            raise ConfigError(problems, source=str(context.paths.config))
        unshipped = _prove(context, fleet)
    except ConfigError as error:
        if not context.json:
            raise
        print_json({"problems": [vars(problem) for problem in error.problems]})
        return error.code
    # What the fleet serves itself no other process holds a socket for.
    present = claims(listen for service in fleet.services.values() for listen in service.listen)
    notes = [*present, *unshipped, *open_page(fleet), *(f"{name}: {words}" for name, words in unasked(fleet).items())]
    if context.json:
        print_json({"problems": [], "notes": notes})
        return Exit.DONE
    for service in fleet.services.values():
        listen = " ".join(map(str, service.listen))
        words = (
            f"service {service.name}: {quantity(service.instances, 'instance')} per colour on ports "
            f"{service.ports[0]}-{service.ports[1]}, {quantity(service.slots, 'slot')}, listens on {listen}"
        )
        print(fit(words))
    for note in notes:
        print(fit(f"note: {note}"))
    print(f"{context.paths.config}: no problem found")
    return Exit.DONE


def _prove(context: Context, fleet: Fleet) -> list[str]:
    """Prove that each service's command can be executed by its user; return what must be shipped before that is known.

    Raises ConfigError with every command that cannot be.
    """
    desired, notes, programs = make_desired(fleet, Journal(), context.paths), [], []
    for name, service in fleet.services.items():
        path = release_path(service, service.release)
        in_use = "release" in placeholders((*service.command[:1], service.directory or ""))
        if in_use and not has_path(path):
            notes.append(f"service.{name}.release: {path} is not there; ship it before the cutover")
        else:
            programs.append(desired.programs[f"{name}-blue-1"])
    problems = [
        Problem(f"service.{name.removesuffix('-blue-1')}.command", words, "choose a command that this user can execute")
        for name, words in context.prove(programs).items()
    ]
    if problems:
        raise ConfigError(problems, source=str(context.paths.config))
    return notes
