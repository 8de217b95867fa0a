"""What another box says of its fleet, and of how a verb has ended there, as checked values.

Like an instance's answers they are claims: known keys of the right type and range, texts short and fit for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from portfleet.config.load import NAME
from portfleet.core.errors import Exit
from portfleet.core.printable import printable
from portfleet.core.states import State, Wanted
from portfleet.daemons.answers import MOST
from portfleet.linux.other_box import of_others

#: Services of a box that are shown.
_MOST_SERVICES = 1024


@dataclass(frozen=True)
class FarService:
    """A service on another box. ``trouble`` says what is wrong, ``busy`` what works on it; "" is nothing."""

    name: str
    live: str
    release: str | None
    serving: int
    wanted: int
    connections: int
    trouble: str
    busy: str
    down: bool


@dataclass(frozen=True)
class FarStatus:
    """What `status` says on another box: its exit ``code``, and what is wrong with its overseers."""

    code: Exit
    services: tuple[FarService, ...]
    troubles: tuple[str, ...]


@dataclass(frozen=True)
class FarEnd:
    """How a verb has ended on another box: its exit ``code``, whether it had nothing to do, and its words."""

    code: Exit
    already: bool
    words: str


def read_status(code: int, out: str) -> FarStatus | None:
    """Return what `status --json` printed; None if it printed something else."""
    try:
        data = _object(json.loads(out))
        services = tuple(_service(_object(one)) for one in _list(data["services"])[:_MOST_SERVICES])
        troubles = tuple(_troubles(data))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return FarStatus(exit_of(code), services, troubles)


def read_end(code: int, out: str, errors: str) -> FarEnd:
    """Return how a verb that was told to print JSON has ended, by what it printed."""
    try:
        said = _object(json.loads(out))
    except (ValueError, TypeError, RecursionError):
        said = {}
    words = said.get("words") if "outcome" not in said or said["outcome"] in ("already", "begun") else said["outcome"]
    if code == 0 and said.get("ok", said.get("dry_run")) is True and isinstance(words, str):
        return FarEnd(Exit.DONE, said.get("outcome") == "already", printable(words))
    refused: list[str] = []
    if code and code in list(Exit):  # otherwise it was cut off: what it had said is what it was about to do
        refused += [line.removeprefix("portfleet: ") for line in errors.splitlines() if line.startswith("portfleet: ")]
    if code and isinstance(words, str):
        refused.append(words)
    last = refused[-1] if refused else [*of_others(errors), f"exit status {code} without a word"][0]
    return FarEnd(exit_of(code or 1), False, printable(last))


def exit_of(code: int) -> Exit:
    """Return an exit status of another box as one of ours: what it means there is not known of any other."""
    return Exit(code) if code in list(Exit) else Exit.FAILED


def _service(said: Mapping[str, Any]) -> FarService:
    name = _text(said["name"])
    if not NAME.fullmatch(name):
        raise ValueError(name)
    instances = [_object(one) for one in _list(said["instances"])]
    wanted = [one for one in instances if one["wanted"] == Wanted.SERVING]
    operation = said["operation"]
    release, down = said["release"], said["down"]
    return FarService(
        name,
        live=_text(said["live"]),
        release=None if release is None else _text(release),
        serving=sum(one["state"] == State.READY for one in wanted),
        wanted=len(wanted),
        connections=sum(_count(one["connections"]) for one in instances),
        trouble=_trouble(said),
        busy="" if operation is None else _text(_object(operation)["verb"]),
        down=down is not None,
    )


def _trouble(said: Mapping[str, Any]) -> str:
    if said["served"] is not True:
        return "no instance serves"
    parts = [
        f"{words}: {printable(', '.join(map(_text, found)))}"
        for words, key in (("not serving", "not_serving"), ("closed", "closed"))
        if (found := _list(said[key]))
    ]
    return "; ".join(parts)


def _troubles(data: Mapping[str, Any]) -> Iterator[str]:
    for key in ("supervisord", "watcher"):
        if (trouble := _object(data[key])["trouble"]) is not None:
            yield _text(trouble)


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return printable(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise ValueError("no count")
    return value
