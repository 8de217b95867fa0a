"""Show wanted beside is, per instance: state, pid, port, slots, connections established now, since when.

--json prints the same for programs, both colours of every service listed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit
from portfleet.core.model import other
from portfleet.core.observed import Observed
from portfleet.core.paths import Paths
from portfleet.core.records import Asked
from portfleet.core.slots import count
from portfleet.core.states import State, Wanted
from portfleet.screen import colours
from portfleet.screen.output import paint, print_json, table
from portfleet.screen.status_rows import at_rest, instance_entry, pins_of, service_entry
from portfleet.store import locks, warnings

_COLOURS = {State.READY: "green", State.FAILED: "red", State.EJECTED: "red", State.STOPPED: "dim"}
#: Seconds to wait for supervisord: what hangs is told within two, with all that can be seen without it.
_ANSWER = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")


def run(options: argparse.Namespace, context: Context) -> Exit:
    context.answer = _ANSWER
    fleet = context.serving_fleet
    if options.service:
        context.service(fleet, options.service)
    desired = context.desired(fleet)
    observed = context.observe(desired, probe=False)
    services = [service for name, service in desired.configured.items() if options.service in (None, name)]
    warned = warnings.read(context.paths.warnings) if locks.held(context.paths.watch_lock) else []
    if context.json:
        print_json(
            {
                "services": [service_entry(service, observed, desired.journal, context.paths) for service in services],
                "warnings": [vars(entry) for entry in warned],
            }
        )
        return Exit.DONE
    if not observed.supervisor and (words := context.supervisor.absent()):
        print(paint(words, "red"))
    for entry in warned:
        print(f"{paint('warning:', 'red')} {entry.text} (since {entry.since})\n  hint: {entry.hint}")
    for number, service in enumerate(services):
        if number:
            print()
        if service.down:
            print(f"{paint(service.name, 'bold')}  {paint(service.notes[0], 'yellow')}")
            continue
        _show(service, observed, context.paths, desired.journal.services[service.name].asked)
        for line in colours.lines(service, observed, desired.journal):
            print(f"  {line}")
        for network, name in pins_of(service, desired.journal).items():
            print(f"  pinned: {network} → {name}")
    return Exit.DONE


def _why(entry: dict[str, Any]) -> list[str]:
    """Return the lines below an instance: why it does not serve, how it ended, its log's end; or that it is adopted."""
    if entry["state"] == State.READY:
        return ["adopted: it outlived its supervisord, which has it again from its next restart"] * entry["adopted"]
    words = [entry["why"]] if entry["why"] else []
    words += [f"ended last with {entry['last_exit']}"] if entry["last_exit"] else []
    return words + [f"log: {line}" for line in entry["last_log"]]


def _show(service: DesiredService, observed: Observed, paths: Paths, asked: Mapping[str, Asked]) -> None:
    listen = " ".join(map(str, service.service.listen))
    release = f"  release {service.release}" if service.release else ""
    print(
        f"{paint(service.name, 'bold')}  live {service.live}{release}  listens on {listen}  "
        f"affinity {service.service.affinity}"
    )
    slots = count(observed.plane.slots.get(service.name, ()))
    rows, states, whys = [], [], []
    for want in service.instances:
        entry = instance_entry(want, observed, slots, paths, asked)
        if at_rest(entry):
            continue
        states.append(entry["state"])
        whys.append(_why(entry))
        rows.append(
            [
                want.name,
                entry["wanted"],
                entry["state"],
                str(entry["pid"] or "-"),
                str(entry["port"]) if entry["address"] == "local" else f"{entry['address']}:{entry['port']}",
                f"{entry['slots']:,}",
                f"{entry['connections']:,}",
                entry["since"] or "-",
            ]
        )
    head = ["  INSTANCE", "WANTED", "STATE", "PID", "PORT", "SLOTS", "CONNECTIONS", "SINCE"]
    lines = table(head, [["  " + row[0], *row[1:]] for row in rows], right=(3, 4, 5, 6))
    print(paint(lines[0], "dim"))
    for line, state, why in zip(lines[1:], states, whys, strict=True):
        colour = _COLOURS.get(state, "yellow")
        print(line.replace(f" {state} ", f" {paint(state, colour)} ", 1) if state != State.READY else line)
        if state is not State.STOPPED:
            for words in why:
                print(f"      {words}")
    idle = other(service.live)
    if all(i.wanted is Wanted.STOPPED for i in service.instances if i.instance.colour == idle):
        print(paint(f"  {idle}: stopped ({service.service.instances} instances)", "dim"))
