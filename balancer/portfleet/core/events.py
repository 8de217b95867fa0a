"""Events: what changed, when, and why, as one value for the log, the file, the socket and the command on events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter

from portfleet.core.kinds import KINDS
from portfleet.core.model import parse_instance
from portfleet.core.printable import printable, quantity

#: Characters of one field that are kept: a traceback fits, a daemon's endless line does not.
_LONGEST = 4000
#: What every event has, in the order in which it is written.
_FIXED = ("number", "time", "kind", "service", "instance", "reason", "operator", "words")


@dataclass(frozen=True)
class Event:
    """One event. ``number`` is 0 until it is kept; ``time`` is RFC 3339 in UTC with milliseconds.

    ``words`` is a sentence for people, ``more`` the fields of its kind beside these.
    """

    number: int
    time: str
    kind: str
    service: str | None
    instance: str | None
    reason: str | None
    operator: str | None
    words: str
    more: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the event as one flat object of JSON values."""
        return {name: getattr(self, name) for name in _FIXED} | dict(self.more)


def make(kind: str, time: str, fields: Mapping[str, object]) -> Event:
    """Return the event ``kind`` with ``fields``; its service follows from its instance. Raise KeyError if unknown."""
    known = KINDS[kind]
    values = {name: _plain(value) for name, value in fields.items()}
    instance = _text(values.pop("instance", None))
    parsed = parse_instance(instance) if instance else None
    service = _text(values.pop("service", None)) or (parsed.service if parsed else None)
    fixed = {"instance": instance, "service": service}
    fixed |= {name: _text(values.pop(name, None)) for name in ("reason", "operator")}
    words = printable(_SENTENCE.vformat(known.words, (), _Words({**values, **fixed})), _LONGEST)
    return Event(0, time, kind, words=words, more={"level": known.level, **values}, **fixed)


def from_json(data: object) -> Event:
    """Return the event of one line of the file; raise ValueError for anything else."""
    if not isinstance(data, dict) or not isinstance(number := data.get("number"), int):
        raise ValueError("no event")
    if not all(isinstance(data.get(name), str) for name in ("time", "kind", "words")):
        raise ValueError("no event")
    optional = {name: data.get(name) for name in ("service", "instance", "reason", "operator")}
    if not all(value is None or isinstance(value, str) for value in optional.values()):
        raise ValueError("no event")
    more = {name: value for name, value in data.items() if name not in _FIXED}
    return Event(number, data["time"], data["kind"], words=data["words"], more=more, **optional)


class _Words(dict[str, object]):
    """The fields of an event for its sentence; "?" for one that it does not have."""

    def __missing__(self, key: str) -> str:
        return "?"


class _Sentence(Formatter):
    """Makes the sentence of an event: {count:connection|is} is "1 connection is" or "2 connections are"."""

    def format_field(self, value: object, format_spec: str) -> str:
        if not format_spec:
            return str(value)
        noun, _, verb = format_spec.partition("|")
        return quantity(value, noun, verb) if isinstance(value, int) else f"{value} {noun}"


_SENTENCE = _Sentence()


def _plain(value: object) -> object:
    """Return a field's value as JSON has it, and not endlessly long."""
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
