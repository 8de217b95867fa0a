"""Say which slot and instance a client's address gets, computed as the kernel does.

  portfleet explain echo 198.18.0.7          portfleet explain echo 2001:db8::7
  portfleet explain kv 198.18.0.7:40000      the client's port counts where the affinity is by connection
  portfleet explain kv [2001:db8::7]:40000

The slots are read from the kernel; without the right to do so they come from the journal, and the answer says so.
"""

from __future__ import annotations

import argparse
import ipaddress
import re

from portfleet.affinity import Address, slot_for
from portfleet.context import Context
from portfleet.desired import ServiceWant
from portfleet.errors import Exit, PortfleetError
from portfleet.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("address", metavar="ADDRESS[:PORT]", nargs="+", help="clients' addresses, IPv4 or IPv6")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    context.service(fleet, options.service)
    want = context.desired(fleet).services[options.service]
    slots, source = _slots(context, want)
    answers = []
    for text in options.address:
        address, port = parse_client(text)
        if address.version not in want.service.families:
            raise PortfleetError(
                f"{want.name} has no IPv{address.version} listen address", hint="see listen in fleet.toml"
            )
        try:
            slot = slot_for(want.service.affinity, address, port, seed=want.rule.seed, slots=want.rule.slots)
        except ValueError as error:
            raise PortfleetError(
                f"{text}: {error}", hint=f"portfleet explain {want.name} {text}:PORT", code=Exit.USAGE
            ) from None
        answers.append(_answer(want, text, slot, slots) | {"source": source})
    if context.json:
        print_json(answers if len(answers) > 1 else answers[0])
        return Exit.DONE
    if source == "journal":
        context.say("the kernel's table cannot be read; this is by the journal, with nobody ejected")
    for answer in answers:
        print(_line(want, answer))
    return Exit.DONE


def parse_client(text: str) -> tuple[Address, int | None]:
    """Read ADDRESS, ADDRESS:PORT (IPv4) or [ADDRESS]:PORT; raises PortfleetError (exit 2)."""
    match = re.fullmatch(r"\[(?P<six>[^\]]+)\](?::(?P<port6>\d{1,5}))?|(?P<four>[\d.]+)(?::(?P<port4>\d{1,5}))?", text)
    try:
        if match is None:
            return ipaddress.ip_address(text), None
        port = match["port6"] or match["port4"]
        if port and int(port) > 65535:
            raise ValueError
        return ipaddress.ip_address(match["six"] or match["four"]), int(port) if port else None
    except ValueError:
        hint = "write 198.18.0.7, 198.18.0.7:40000, 2001:db8::7 or [2001:db8::7]:40000"
        raise PortfleetError(f'"{text}" is not a client\'s address', hint=hint, code=Exit.USAGE) from None


def _slots(context: Context, want: ServiceWant) -> tuple[tuple[str | None, ...], str]:
    try:
        found = context.kernel.read_slots(want.name)
    except PortfleetError:
        found = ()
    return (found, "kernel") if any(found) else (want.table(()), "journal")


def _answer(want: ServiceWant, text: str, slot: int | None, slots: tuple[str | None, ...]) -> dict[str, object]:
    if slot is None:
        return {"address": text, "slot": None, "instance": None, "any": sorted({name for name in slots if name})}
    name = slots[slot] if slot < len(slots) else None
    rule = next((instance.rule for instance in want.instances if instance.name == name), None)
    return {"address": text, "slot": slot, "instance": name, "port": rule.port if rule else None}


def _line(want: ServiceWant, answer: dict[str, object]) -> str:
    if answer["slot"] is None:
        return f"{answer['address']}: affinity is {want.service.affinity}; any of {', '.join(answer['any'])}"  # type: ignore[arg-type] # a list of names
    if answer["instance"] is None:
        return f"{answer['address']}: slot {answer['slot']}, which points nowhere: nobody serves"
    return f"{answer['address']}: slot {answer['slot']} → {answer['instance']}, port {answer['port']}"
