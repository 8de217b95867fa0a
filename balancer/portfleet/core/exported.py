"""What one box tells another of its services, so that both point alike: `export`, `import` and `doctor --peer`.

Of the journal goes what decides where new connections go. Operations, history, what a colour was started with and
whether a service is down are each box's own; how instances are started is too, as its configuration may hold secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from portfleet.core import journal as journals
from portfleet.core import typed
from portfleet.core.errors import PortfleetError
from portfleet.core.forwarding import told
from portfleet.core.journal import Journal, JournalError
from portfleet.core.model import Fleet, Service
from portfleet.core.policies import Forward
from portfleet.core.records import ColourRecord, ServiceRecord
from portfleet.core.slots import Table
from portfleet.core.value import value

#: Marks the file, and its version.
FORMAT = 1
#: Keys of a service that must be equal on both boxes: they decide who gets which connection.
SAME = (
    "listen", "ports", "instances", "slots", "affinity", "sticky", "weight", "remote", "max_connections",
    "max_per_source", "allow", "deny", "overflow", "when_empty", "send_proxy",
)  # fmt: skip
#: Fields of a service's record that a box takes from another.
SHARED = (
    "seed", "home", "before", "numbers", "asked", "canary", "moved", "instances", "config_instances",
    "leaving", "pins", "denied",
)  # fmt: skip


@value
class Exported:
    """Services as one box has them: ``config`` (keys of `SAME` as JSON values), ``services`` and the last number given.

    ``slots``: a checksum of where each service's slots point now, by the data plane. ``forward``: what decides which
    box a client's packets go to; {} if nothing is sent on.
    """

    config: Mapping[str, Mapping[str, Any]]
    services: Mapping[str, ServiceRecord]
    slots: Mapping[str, str]
    last_number: int
    forward: Mapping[str, Any] = field(default_factory=dict)


def exported(fleet: Fleet, journal: Journal, tables: Mapping[str, Table]) -> Exported:
    """Return what to tell of the services in ``tables`` ({service: instance per slot})."""
    services = {name: _told(journal.services[name]) for name in tables}
    config = {name: _config(fleet.services[name]) for name in tables}
    slots = {name: checksum(table) for name, table in tables.items()}
    return Exported(config, services, slots, journal.last_number, told(fleet.forward))


def to_json(found: Exported) -> dict[str, Any]:
    """Return it as JSON values."""
    records = journals.to_json(Journal(found.services, last_number=found.last_number))
    values = {"portfleet_export": FORMAT, "config": found.config, "slots": found.slots, "journal": records}
    return values | ({"forward": found.forward} if found.forward else {})


def from_json(text: str | bytes, *, source: str) -> Exported:
    """Read it back, checked as the journal is; raise PortfleetError, which names ``source``."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("portfleet_export") != FORMAT:
            raise ValueError(f"it is not what portfleet export writes (portfleet_export: {FORMAT})")
        journal = journals.from_json(data.get("journal"))
        config, slots = _part(data, "config", dict, journal), _part(data, "slots", str, journal)
        forward = data.get("forward", {})
        if not isinstance(forward, dict):
            raise ValueError("forward is damaged")
    except (ValueError, RecursionError, JournalError) as error:
        words = error.message if isinstance(error, JournalError) else str(error)
        raise PortfleetError(f"cannot read {source}: {words}", hint="write it anew: portfleet export") from None
    return Exported(config, journal.services, slots, journal.last_number, forward)


def _part(data: Mapping[str, Any], key: str, kind: type, journal: Journal) -> dict[str, Any]:
    part = data.get(key)
    if not isinstance(part, dict) or part.keys() != journal.services.keys():
        raise ValueError(f"{key} and journal name different services")
    if not all(isinstance(value, kind) for value in part.values()):
        raise ValueError(f"{key} is damaged")
    return part


def taken_over(mine: Journal, theirs: Exported) -> Journal:
    """Return the journal with the shared part of ``theirs``; raise PortfleetError if numbers would be given twice."""
    for name, record in theirs.services.items():
        shared = {key: getattr(record, key) for key in SHARED}
        mine = mine.with_service(name, replace(mine.services[name], **shared))
    owner: dict[int, str] = {}
    for name, record in sorted(mine.services.items()):
        for number in record.numbers.values():
            if owner.setdefault(number, name) != name:
                raise PortfleetError(
                    f"{name} and {owner[number]} would have the same number {number} for an instance",
                    hint="export all services at once there: portfleet export, then import that",
                )
    return replace(mine, last_number=max(mine.last_number, theirs.last_number))


def obstacles(fleet: Fleet, mine: Journal, theirs: Exported) -> Iterator[str]:
    """Yield why ``theirs`` cannot be taken over by this box, a line each: configs or releases that differ."""
    for name, config in theirs.config.items():
        if name not in fleet.services:
            yield f"there is no service {name} here"
            continue
        own = _config(fleet.services[name])
        for key in SAME:
            if config.get(key) != own[key]:
                yield f"service.{name}.{key} differs: {_short(own[key])} here, {_short(config.get(key))} there"
        here, there = mine.services[name], theirs.services[name]
        if (ran := _live(here)) != (runs := _live(there)):
            yield f"{name}: {ran} serves here, {runs} there"


def differences(mine: Exported, theirs: Exported) -> Iterator[str]:
    """Yield in which parts two boxes' services differ, a line each, their slots last."""
    for name, record in theirs.services.items():
        if name not in mine.services:
            continue
        here = mine.services[name]
        keys = [key for key in SHARED if getattr(here, key) != getattr(record, key)]
        for key in keys:
            yield f"{name}: {_words(key, here, record)}"
        if not keys and mine.slots[name] != theirs.slots[name]:
            yield f"{name}: slots point elsewhere there though the journals are alike: other instances are out"
    for key in sorted({*mine.forward, *theirs.forward}):
        own, other = mine.forward.get(key), theirs.forward.get(key)
        if own != other:
            yield f"forward.{key} differs: {_short(own)} here, {_short(other)} there: clients are sent to other boxes"


def checksum(value: Iterable[object]) -> str:
    """Return the checksum of a table, or of a record's parts: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(json.dumps([*value], separators=(",", ":"), sort_keys=True).encode()).hexdigest()[:16]


def table_checksum(record: ServiceRecord, forward: Forward) -> str:
    """Return the checksum of what decides a service's table, and which box: equal on two boxes that point alike."""
    shown = journals.to_json(Journal({"service": _told(record)}))["services"]["service"]
    parts = [record.live, *(shown["marks" if key == "numbers" else key] for key in SHARED)]
    return checksum([*parts, told(forward)] if forward.boxes else parts)


def _told(record: ServiceRecord) -> ServiceRecord:
    ran = record.colours.get(record.live, ColourRecord())
    colours = {record.live: ColourRecord(release=ran.release)}
    return replace(record, colours=colours, config_release=None, down="", counts=False)


def _config(service: Service) -> dict[str, Any]:
    return {key: typed.write(getattr(service, key)) for key in SAME}


def _live(record: ServiceRecord) -> str:
    release = record.colours.get(record.live, ColourRecord()).release
    return f"{record.live} with release {release}" if release else record.live


def _words(field: str, here: ServiceRecord, there: ServiceRecord) -> str:
    if field == "home":
        moved = sum(one != other for one, other in zip(here.home, there.home, strict=False))
        return f"{moved:,} of {len(here.home):,} slots have another home there"
    return f"{'marks' if field == 'numbers' else field} differ"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
