"""What an operation is refused for before it begins: ports that are taken, programs that cannot be started."""

from __future__ import annotations

from collections.abc import Mapping

from portfleet.apply.context import Context
from portfleet.apply.look import Look
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError


def refuse_taken(context: Context, desired: Desired, service: str) -> None:
    """Raise PortfleetError if another process has the port of an instance of ``service`` that is to be started."""
    programs = context.supervisor.programs()
    running = {name for name, info in programs.items() if info.pid is not None}
    want = desired.services[service]
    if starting := {instance.name for instance in want.running if instance.startable} - running:
        look = Look(programs, context.paths, probe=False, ports=desired.local_ports())
        refuse_strangers({name: words for name, words in look.strangers(desired).items() if name in starting})


def refuse_strangers(strangers: Mapping[str, str]) -> None:
    """Raise PortfleetError if ports are taken: ``strangers`` by `Look.strangers`."""
    if strangers:
        lines = [f"{name}: {words}" for name, words in sorted(strangers.items())]
        raise PortfleetError(
            "ports of instances are taken by others; nothing was changed\n  " + "\n  ".join(lines),
            hint="choose other ports in fleet.toml, or end what listens there if it is not needed",
        )


def refuse_unproven(found: Mapping[str, str]) -> None:
    """Raise PortfleetError if programs could not be started: ``found`` by `faults_of`."""
    if found:
        by_words: dict[str, list[str]] = {}
        for name, words in found.items():
            by_words.setdefault(words, []).append(name)
        lines = [f"{', '.join(names)}: {words}" for words, names in by_words.items()]
        raise PortfleetError(
            "instances could not be started; nothing was changed\n  " + "\n  ".join(lines),
            hint="install it where that user can run it, or choose another command, user or release",
        )
