"""A verb on several boxes, one after the other: refused before the first step, stopped at the first that fails."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from portfleet.apply.context import Context
from portfleet.core.boxes import Box
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.work.cutover import Rollback
from portfleet.core.work.drain import Drain
from portfleet.daemons.box_status import FarEnd, read_end
from portfleet.linux import other_box
from portfleet.screen.output import Steps, fit, paint, print_json, table
from portfleet.store import locks
from portfleet.submit.boxes import LOOK, Look, ask_all, chosen, look
from portfleet.submit.elsewhere import told

#: Seconds that a box has for its step, and for saying beforehand what it would do, if no other time was asked for.
_ACT, _DRY = 3600.0, 60.0
#: Bytes that a box may print of a step.
_MOST = 1 << 20


class Result(StrEnum):
    """What has become of a step."""

    DONE = "done"
    ALREADY = "already"  #: there was nothing to do
    FAILED = "failed"
    UNKNOWN = "unknown"  #: the box was asked, and its answer did not arrive
    WAITS = "not begun"


@dataclass(frozen=True)
class Step:
    """A command line of `portfleet` on a box; ``target``: SERVICE or SERVICE/INSTANCE."""

    box: Box
    target: str
    words: tuple[str, ...]

    @property
    def what(self) -> str:
        return f"{self.words[0]} {self.target}"


@dataclass(frozen=True)
class Row:
    """A step, and what has become of it."""

    step: Step
    result: Result = Result.WAITS
    words: str = ""
    seconds: float = 0.0
    code: Exit = Exit.DONE


def everywhere(options: argparse.Namespace, context: Context, target: str | None) -> Exit:
    """Do the verb of the command line on all boxes that are meant: to ``target``, or to all services of each (None).

    Every box is looked at and asked what it would do before the first does it. Raises PortfleetError if one of them
    does not answer, refuses, or has an operation on the service: then nothing was done.
    """
    if not options.wait:
        raise PortfleetError(
            "--no-wait: each box is waited for before the next begins", hint="leave --no-wait out", code=Exit.USAGE
        )
    words = [word for word in told(options.argv) if word != "--wait"]
    looks = ask_all(chosen(options, context), lambda box: look(box, ["status"], seconds=LOOK))
    _refuse([(look.box, *found) for look in looks for found in _obstacles(look, target)], options)
    steps = [step for look in looks for step in _steps(look, words, target)]
    dry = ask_all(steps, _would)
    _refuse([(step.box, end.words, end.code) for step, end in zip(steps, dry, strict=True) if end.code], options)
    if options.dry_run:
        rows = [Row(step, Result.ALREADY if end.already else Result.WAITS, end.words)
                for step, end in zip(steps, dry, strict=True)]  # fmt: skip
    else:
        rows = list(_run(steps, _ACT if options.patience is None else options.patience))
    return _tell(rows, options, context)


def _obstacles(look: Look, target: str | None) -> Iterator[tuple[str, Exit]]:
    """Yield why a box cannot begin, each with the exit code that it would have."""
    if look.status is None:
        yield f"no answer: {look.trouble}", Exit.FAILED
        return
    yield from ((trouble, Exit.FAILED) for trouble in look.status.troubles)
    name = target.partition("/")[0] if target else None
    found = [service for service in look.status.services if name in (None, service.name)]
    if not found:
        yield f"there is no service {name}" if name else "it has no service", Exit.USAGE
    for service in found:
        if service.busy:
            yield f"{service.busy} is at work on {service.name}", Exit.LOCKED


def _steps(look: Look, words: Sequence[str], target: str | None) -> Iterator[Step]:
    if target is not None:
        yield Step(look.box, target, tuple(words))
        return
    for service in look.status.services if look.status else ():
        if not service.down:
            yield Step(look.box, service.name, (*words, service.name))


def _would(step: Step) -> FarEnd:
    """Return what a step would do, or why it would be refused."""
    try:
        return _ask(step, "--dry-run", seconds=_DRY)
    except PortfleetError as error:
        return FarEnd(error.code, False, error.message)


def _ask(step: Step, *more: str, seconds: float) -> FarEnd:
    words = ["env", f"PORTFLEET_WHO={locks.operator()}", "portfleet", *step.words, *more, "--json"]
    said = other_box.ask(step.box.to, words, seconds=seconds, most=_MOST)
    return read_end(said.code, said.out, said.errors)


def _refuse(found: Sequence[tuple[Box, str, Exit]], options: argparse.Namespace) -> None:
    """Raise PortfleetError if there is a reason; it has all of them, and exits with the first one's code."""
    if found:
        lines = [f"  {box.name}: {why}" for box, why, _ in found]
        words = "\n".join(["not every box can do it, so nothing was done:", *lines])
        which = [word for box in options.boxes or () for word in ("--box", box)] or ["--all"]
        if not options.boxes and options.inventory:
            which += ["--inventory", options.inventory]
        raise PortfleetError(words, hint=f"portfleet status {shlex.join(which)}", code=found[0][2])


def _run(steps: Sequence[Step], patience: float) -> Iterator[Row]:
    """Do the steps until one fails; yield what has become of each."""
    say, going = Steps(len(steps)), True
    for step in steps:
        if not going:
            yield Row(step)
            continue
        say(f"{step.box.name}: {step.what}")
        row = _done(step, patience)
        yield row
        going = row.result in (Result.DONE, Result.ALREADY)


def _done(step: Step, patience: float) -> Row:
    began = time.monotonic()
    try:
        end = _ask(step, seconds=patience)
    except (PortfleetError, KeyboardInterrupt) as error:
        words, code = (error.message, error.code) if isinstance(error, PortfleetError) else ("interrupted", Exit.FAILED)
        return Row(step, Result.UNKNOWN, words, time.monotonic() - began, code)
    result = Result.ALREADY if end.already else Result.FAILED if end.code else Result.DONE
    return Row(step, result, end.words, time.monotonic() - began, end.code)


def _tell(rows: Sequence[Row], options: argparse.Namespace, context: Context) -> Exit:
    """Print what has become of all steps and, if one has failed, how to go on and back; return the exit code."""
    stopped = next((row for row in rows if row.code), None)
    on = f"portfleet {shlex.join(options.argv)}" if stopped else None
    back = list(_back([row.step for row in rows if row.result is Result.DONE], options)) if stopped else []
    if context.json:
        print_json({"ok": stopped is None, "boxes": [_entry(row) for row in rows], "go_on": on, "go_back": back})
        return stopped.code if stopped else Exit.DONE
    cells = [[row.step.box.name, row.step.what, row.result, f"{row.seconds:.1f}", row.words] for row in rows]
    lines = table(["BOX", "WHAT", "RESULT", "SECONDS", ""], cells, right=(3,))
    print(paint(lines[0], "dim"))
    for line, row in zip(lines[1:], rows, strict=True):
        print(paint(fit(line, indent=4), "red") if row.code else fit(line, indent=4))
    if stopped is None:
        return Exit.DONE
    print(fit(f"portfleet: {_where(stopped, rows)}", file=sys.stderr), file=sys.stderr)
    print(f"hint: to go on when that is put right: {on}", file=sys.stderr)
    for line in back:
        print(f"hint: to go back: {line}", file=sys.stderr)
    return stopped.code


def _where(stopped: Row, rows: Sequence[Row]) -> str:
    """Return where it stopped, and what that leaves."""
    box, done = stopped.step.box, [row.step.box.name for row in rows if row.result is Result.DONE]
    words = f"stopped at {box.name}: {stopped.words}"
    if stopped.result is Result.UNKNOWN:
        command = shlex.join(other_box.command(box.to, ["portfleet", "history"]))
        words += f". What was begun there may go on; see: {command}"
    waits = sum(row.result is Result.WAITS for row in rows)
    return f"{words}. Done before: {', '.join(dict.fromkeys(done)) or 'nothing'}; not begun: {waits}"


def _back(done: Sequence[Step], options: argparse.Namespace) -> Iterator[str]:
    """Yield the commands that undo the steps that were done, for a shell."""
    verb, boxes = options.verb, [word for step in done for word in ("--box", step.box.to)]
    if verb == Drain.verb:
        for step in reversed(done):
            yield shlex.join(other_box.command(step.box.to, ["portfleet", "undrain", step.target]))
    elif done:
        forward = ["--forward"] if verb == Rollback.verb and not options.forward else []
        yield shlex.join(["portfleet", Rollback.verb, done[0].target, *boxes, *forward])


def _entry(row: Row) -> dict[str, object]:
    return {
        "box": row.step.box.name,
        "to": row.step.box.to,
        "what": row.step.what,
        "result": row.result,
        "words": row.words or None,
        "seconds": round(row.seconds, 2),
        "code": row.code,
    }
