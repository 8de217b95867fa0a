"""evacuate: every instance's established connections to another box, one instance after the other."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from portfleet.apply.busy import refuse_busy
from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.submit import live
from portfleet.submit.boxes import ask_all
from portfleet.submit.follow import follow
from portfleet.submit.operation import begin
from portfleet.submit.serial import Result
from portfleet.submit.targets import service_want, serving


@dataclass(frozen=True)
class Move:
    """An instance whose connections are to leave; ``stays`` says why they do not, "" that they can.

    ``drained``: it gets no new connections already; ``last``: no other instance of its service serves here.
    """

    service: str
    instance: str
    connections: int
    stays: str = ""
    drained: bool = False
    last: bool = False


@dataclass(frozen=True)
class Moved:
    """What has become of a move."""

    move: Move
    result: Result = Result.WAITS
    words: str = ""
    seconds: float = 0.0
    code: Exit = Exit.DONE


def plan(context: Context, box: str, *, last: bool) -> list[Move]:
    """Return what moves to ``box`` in its order; ``last``: also the last serving instance of each service.

    Instances that are drained already come after the others, as what an earlier run has left on them may have to
    stay. Raises PortfleetError if the box cannot be asked, or an operation runs here.
    """
    desired = context.desired(context.applied_fleet)
    observed = context.observe(desired, probe=False)
    found: list[tuple[Move, DesiredService, DesiredInstance]] = []
    for want in desired.services.values():
        refuse_busy(context, want.name)
        final = next(iter(serving(context, want)), None)
        for one in want.instances:
            count = observed.seen(one.name).connections or 0
            if one.program is not None and (count or one.takes):
                stays = _stays_by_us(context, one)
                move = Move(want.name, one.name, count, stays, drained=not one.takes, last=one is final)
                found.append((move, want, one))
    moves = ask_all(found, lambda one: _asked(*one, box))
    return sorted((move for move in moves if last or not move.last), key=lambda move: (move.drained, move.last))


def _stays_by_us(context: Context, one: DesiredInstance) -> str:
    try:
        live.refuse_unable(context, one)
    except PortfleetError as error:
        return error.message
    return ""


def _asked(move: Move, want: DesiredService, one: DesiredInstance, box: str) -> Move:
    return move if move.stays else replace(move, stays=live.why_not_there(want, one, box))


def carry_out(moves: Sequence[Move], options: argparse.Namespace, context: Context) -> Iterator[Moved]:
    """Move one instance's connections after the other's until that fails once; yield what has become of each."""
    going = True
    for move in moves:
        if move.stays or not going:
            yield Moved(move, words=move.stays)
            continue
        done = _moved(move, options, context)
        yield done
        going = done.result is Result.DONE


def _moved(move: Move, options: argparse.Namespace, context: Context) -> Moved:
    began = time.monotonic()
    try:
        want = service_want(context, move.service)
        source = next(one for one in want.instances if one.name == move.instance)
        number = begin(
            context,
            want,
            work=live.work_of(want, source, options.to),
            words=live.words_of(source, options.to),
            why=options.why,
            change=live.change_of(source, options.to, options.why),
        )
        entry = follow(context, number)
    except PortfleetError as error:
        return Moved(move, Result.FAILED, error.message, time.monotonic() - began, error.code)
    result = Result.DONE if entry.ok else Result.FAILED
    return Moved(move, result, entry.outcome, time.monotonic() - began, Exit(entry.code))


def left(context: Context) -> dict[str, int]:
    """Return how many connections each instance on this box has that has any."""
    desired = context.desired(context.applied_fleet)
    observed = context.observe(desired, probe=False)
    counts = {one.name: observed.seen(one.name).connections or 0 for one in desired.instances() if one.program}
    return {name: count for name, count in counts.items() if count}
