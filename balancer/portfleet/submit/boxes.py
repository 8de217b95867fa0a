"""Other boxes: which are meant, and what they say when all are asked at once."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from portfleet.apply.context import Context
from portfleet.core.boxes import Box, destination, inventory, worst
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import quantity
from portfleet.daemons.box_status import FarService, FarStatus, read_status
from portfleet.linux import other_box
from portfleet.screen.output import fit, paint, print_json, table

T = TypeVar("T")
R = TypeVar("R")

#: Seconds that a box has to say how it is, if no other time was asked for.
LOOK = 10.0
#: Boxes that are asked at the same time, and bytes that each may print: `status` prints 0.5 MB of 1,000 instances.
_AT_ONCE, _MOST = 32, 1 << 24
#: The file beside fleet.toml that names the boxes.
FILE = "boxes"


@dataclass(frozen=True)
class Look:
    """What came of asking a box for its status: that, or why there is none; ``seconds`` it took."""

    box: Box
    status: FarStatus | None
    trouble: str
    seconds: float

    @property
    def code(self) -> Exit:
        return self.status.code if self.status else Exit.FAILED


def chosen(options: argparse.Namespace, context: Context) -> tuple[Box, ...]:
    """Return the boxes that a command line means; raise PortfleetError if an inventory cannot be read."""
    if options.boxes:
        return tuple(dict.fromkeys(Box(box, destination(box)) for box in options.boxes))
    source = options.inventory or str(context.paths.config.with_name(FILE))
    hint = "write one box a line there; or: ansible-inventory --list | portfleet status --all --inventory -"
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise PortfleetError(f"cannot read {source}: {error.strerror}", hint=hint, code=Exit.USAGE) from None
    if len(data) > _MOST:
        raise PortfleetError(f"cannot read {source}: more than {_MOST:,} bytes", hint=hint, code=Exit.USAGE)
    name = "stdin" if source == "-" else source
    return inventory(data.decode(errors="replace"), source=name, group=options.group)


def ask_all(asked: Sequence[T], ask: Callable[[T], R]) -> list[R]:
    """Return what ``ask`` returns of each of ``asked``, in their order; they are asked side by side."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(ask, asked))


def look(box: Box, words: Sequence[str], *, seconds: float) -> Look:
    """Return what ``box`` says to ``words``, a command line of `status`."""
    began = time.monotonic()
    try:
        said = other_box.ask(box.to, ["portfleet", *words, "--json"], seconds=seconds, most=_MOST)
    except PortfleetError as error:
        return Look(box, None, error.message.removeprefix(f"{box.to} cannot be asked: "), time.monotonic() - began)
    status = read_status(said.code, said.out)
    return Look(box, status, "" if status else other_box.first_words(said), time.monotonic() - began)


def overview(options: argparse.Namespace, context: Context) -> Exit:
    """Show the status of all boxes that are meant; return the worst of their exit codes."""
    if options.watch:
        raise PortfleetError("--watch shows this box alone", hint="watch portfleet status --all", code=Exit.USAGE)
    words = ["status", *([options.service] if options.service else [])]
    seconds = LOOK if options.patience is None else options.patience
    looks = ask_all(chosen(options, context), lambda box: look(box, words, seconds=seconds))
    code = worst(look.code for look in looks)
    if context.json:
        print_json({"boxes": [_entry(look) for look in looks], "code": code})
    elif not options.quiet:
        _show(looks)
    return code


def _entry(look: Look) -> dict[str, Any]:
    status = look.status
    return {
        "box": look.box.name,
        "to": look.box.to,
        "answers": status is not None,
        "code": look.code,
        "trouble": look.trouble or None,
        "overseers": list(status.troubles) if status else [],
        "services": [vars(service) for service in status.services] if status else [],
        "seconds": round(look.seconds, 2),
    }


def _show(looks: Sequence[Look]) -> None:
    rows = [row for look in looks for row in _rows(look)]
    head = ["BOX", "SERVICE", "LIVE", "RELEASE", "SERVING", "CONNECTIONS", "RESULT", "SECONDS"]
    lines = table(head, rows, right=(4, 5, 7))
    print(paint(lines[0], "dim"))
    for line, row in zip(lines[1:], rows, strict=True):
        print(line if row[6] in ("as it should be", "down") else paint(line, "red" if row[1] == "-" else "yellow"))
    silent = [look.box.name for look in looks if look.status is None]
    answer = f"{len(looks) - len(silent)} of {quantity(len(looks), 'box', 'answers')}"
    print(fit(answer + (f"; not: {', '.join(silent)}" if silent else "")))


def _rows(look: Look) -> list[list[str]]:
    """Return a row for what concerns the box itself, and one for each of its services."""
    seconds = f"{look.seconds:.1f}"
    if look.status is None:
        return [[look.box.name, *["-"] * 5, f"no answer: {look.trouble}", seconds]]
    rows = [["-"] * 5 + [trouble] for trouble in look.status.troubles]
    rows += [_row(service) for service in look.status.services] or [["-"] * 5 + ["no service"]]
    return [[look.box.name, *row, seconds] for row in rows]


def _row(service: FarService) -> list[str]:
    result = "down" if service.down else service.trouble or "as it should be"
    if service.busy:
        result += f"; {service.busy} is at work"
    counts = [f"{service.serving}/{service.wanted}", f"{service.connections:,}"]
    return [service.name, service.live, service.release or "-", *counts, result]
