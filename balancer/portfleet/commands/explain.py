"""Say which slot and instance a client's address gets, computed as the kernel does.

Slots are read from the kernel; without the right to do so they come from the journal, and the answer says so. A client
on this box gets a local instance even if the service has remote ones.

With --live: where the client's present connections are, since when if that is kept, and by which event they came to be
elsewhere than new ones go. If clients are sticky, also where the kernel remembers each, which comes before its slot.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from contextlib import suppress

from portfleet.apply.context import Context
from portfleet.core import moves, pins
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.events import Event
from portfleet.core.model import Fleet, member_instance
from portfleet.core.slots import Table
from portfleet.daemons.clients import held
from portfleet.dataplane.choose import forwarding
from portfleet.dataplane.interface import Address
from portfleet.linux.routes import is_local
from portfleet.screen.clients import connection_entry, lines
from portfleet.screen.output import fit, print_json
from portfleet.store import locks, retries
from portfleet.store.events import EventFile
from portfleet.store.out import read_out

EXAMPLES = (
    "portfleet explain echo 198.18.0.7 2001:db8::7",
    "portfleet explain kv 198.18.0.7:40000     # affinity by connection",
    "portfleet explain kv [2001:db8::7]:40000",
    "portfleet explain echo 198.18.0.7 --live  # and where its connections are",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    parser.add_argument("address", metavar="ADDRESS[:PORT]", nargs="+", help="clients' addresses, IPv4 or IPv6")
    words = "look up the client's present connections, and where the kernel remembers a sticky one"
    parser.add_argument("--live", action="store_true", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    if unapplied := context.unapplied():
        context.say(unapplied)
    want = context.service_up(fleet, options.service)
    slots, source = _slots(context, want)
    answers = [_answer(context, want, text, slots, live=options.live) | {"source": source} for text in options.address]
    if fleet.forward.boxes:
        answers = [answer | _box(fleet, want, answer) for answer in answers]
    if options.live:
        answers = _live(context, want, answers)
    if context.json:
        print_json(answers if len(answers) > 1 else answers[0])
        return Exit.DONE
    if source == "journal":
        context.say("the kernel's table cannot be read; this is by the journal, as if no instance were ejected")
    if want.rule.sticky and not options.live:
        context.say(f"clients of {want.name} are sticky: who came lately is where --live says")
    for answer in answers:
        elsewhere = [f"  but not here: new ones of it go to {answer['box']}"] if answer.get("elsewhere") else []
        print(fit("\n".join([_line(want, answer), *elsewhere, *(lines(answer) if options.live else ())])))
    return Exit.DONE


def _live(context: Context, want: DesiredService, answers: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the answers with each client's connections, and the events that explain them."""
    pids: dict[str, int] = {}
    events: list[Event] = []
    with suppress(PortfleetError):  # without supervisord, connections are those of the instances they came by
        pids = context.pids()
    with suppress(OSError):
        events = EventFile(context.paths.events).read()
    found = []
    for answer in answers:
        address, _ = parse_client(str(answer["address"]))
        there = held(context.plane.connections, want, pids, address)
        moved = moves.of_slots(events, want.name)
        shown = [connection_entry(one, want.name, answer["instance"], events) for one in there]
        found.append(answer | {"moved_by": moved.to_json() if moved else None, "connections": shown})
    return found


def parse_client(text: str) -> tuple[Address, int | None]:
    """Read ADDRESS, ADDRESS:PORT (IPv4) or [ADDRESS]:PORT; raises PortfleetError (exit 2)."""
    match = re.fullmatch(
        r"\[(?P<six>[^\]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<four>[0-9.]+)(?::(?P<port4>[0-9]{1,5}))?", text
    )
    try:
        if "%" in text:  # a scope: no client has one by the time it is a source address
            raise ValueError
        if match is None:
            return ipaddress.ip_address(text), None
        port = match["port6"] or match["port4"]
        if port and int(port) > 65535:
            raise ValueError
        return ipaddress.ip_address(match["six"] or match["four"]), int(port) if port else None
    except ValueError:
        hint = "write 198.18.0.7, 198.18.0.7:40000, 2001:db8::7 or [2001:db8::7]:40000"
        raise PortfleetError(f'"{text}" is not a client\'s address', hint=hint, code=Exit.USAGE) from None


def _slots(context: Context, want: DesiredService) -> tuple[Table, str]:
    try:
        found = context.plane.read_slots(want.name)
    except PortfleetError:
        found = ()
    return (found, "kernel") if any(found) else (want.table(()), "journal")


def _answer(context: Context, want: DesiredService, text: str, slots: Table, *, live: bool) -> dict[str, object]:
    address, port = parse_client(text)
    if address.version not in want.service.families:
        raise PortfleetError(f"{want.name} has no IPv{address.version} listen address", hint="see listen in fleet.toml")
    own = want.rule.remote and context.plane.traits.own_clients_apart and is_local(address)
    if own:  # this box's clients get local instances only, by a table of their own, and neither pin nor memory counts
        slots, by = context.plane.table_for_own_clients(slots, _local(want)), "local"
    else:
        by = "slot"
        if (found := _preferred(context, want, address, slots, live=live)) is not None:
            return {"address": text, "slot": None, **found}
    try:
        size = len(slots) if own else want.rule.slots
        slot = context.plane.slot_of(want.service.affinity, address, port, seed=want.rule.seed, slots=max(1, size))
    except ValueError as error:
        hint = f"portfleet explain {want.name} {text}:PORT"
        raise PortfleetError(f"{text}: {error}", hint=hint, code=Exit.USAGE) from None
    if slot is None:
        serving = sorted({name for name in slots if name})
        return {"address": text, "slot": None, "instance": None, "any": serving, "by": str(want.service.affinity)}
    name = slots[slot] if slot < len(slots) else None
    found = {"address": text, "slot": None if own else slot, "instance": name, **_ports(want, name), "by": by}
    return found if own else found | {"away": _away(context, want, slot, name)}


def _away(context: Context, want: DesiredService, slot: int, name: str | None) -> dict[str, object] | None:
    """Return who is out, and why: the instance ``name`` that a slot points to, or else the one that it belongs to."""
    member = want.home[slot] if slot < len(want.home) else None
    if member is None or not locks.held(context.paths.watch_lock):
        return None
    outs, loops = read_out(context.paths.out), retries.read(context.paths.retries)
    for instance in filter(None, (name, member_instance(want.name, member, want.live).name)):
        out, retry = outs.get(instance), loops.get(instance)
        if out is not None or retry is not None:
            reason = retry.reason if retry else out.reason if out else ""
            return {"instance": instance, "why": reason, "next_try": retry.at if retry else None}
    return None


def _local(want: DesiredService) -> set[str]:
    return {instance.name for instance in want.instances if instance.rule.remote is None}


def _preferred(
    context: Context, want: DesiredService, address: Address, slots: Table, *, live: bool
) -> dict[str, object] | None:
    """Return who comes before a client's slot: whom it is pinned to, or where the kernel remembers it."""
    for by, name in (
        ("pin", pins.find(want.pins, address)),
        ("sticky", _remembered(context, want, address, live=live)),
    ):
        if name is not None and name in slots:  # else it takes no connections now, and the slot decides
            return {"instance": name, **_ports(want, name), "by": by}
    return None


def _remembered(context: Context, want: DesiredService, address: Address, *, live: bool) -> str | None:
    if not live or want.rule.sticky is None:
        return None
    return context.plane.remembered(want.rule, address)


def _box(fleet: Fleet, want: DesiredService, answer: dict[str, object]) -> dict[str, object]:
    """Return the box that a client's new connections go to, and whether it is this one, by the keys of an answer."""
    found = forwarding()
    box = found.box_of(fleet, want.name, *parse_client(str(answer["address"])))
    return {"box": box, "elsewhere": box is not None and box != found.own(fleet)}


def _ports(want: DesiredService, name: str | None) -> dict[str, object]:
    """Return the ports of an instance by the keys of an answer."""
    found = next((instance for instance in want.instances if instance.name == name), None)
    return {"port": found.rule.port if found else None, "extra_ports": dict(found.extra_ports) if found else {}}


def _line(want: DesiredService, answer: dict[str, object]) -> str:
    address, slot, name = answer["address"], answer["slot"], answer["instance"]
    if answer["by"] == "local" and name is None:
        return f"{address}: a client on this box, and no local instance serves"
    if answer["by"] in ("pin", "sticky", "local"):
        words = {"pin": "pinned to", "sticky": "remembered with", "local": "a client on this box:"}[str(answer["by"])]
        return f"{address}: {words} {name}, port {answer['port']}"
    if slot is None:
        return f"{address}: affinity is {want.service.affinity}; any of {', '.join(answer['any'])}"  # type: ignore[arg-type] # a list of names
    if name is None:
        return f"{address}: slot {slot}, which points nowhere: no instance serves" + _away_words(answer["away"])
    return f"{address}: slot {slot} → {name}, port {answer['port']}" + _away_words(answer["away"], name)


def _away_words(away: object, name: object = None) -> str:
    if not isinstance(away, dict):
        return ""
    who = "which" if away["instance"] == name else f"its own {away['instance']}"
    again = f"; next try at {away['next_try']}" if away["next_try"] else ""
    return f"\n  {who} is out: {away['why']}{again}"
