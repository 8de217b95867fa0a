"""Move the established connections of all services of this box to another, one instance after the other.

Each is moved as by `migrate --live` to the instance of the same name there, and drained here. One instance of each
service goes on serving new connections until --last: then it is drained and moved too, new connections of the service
are refused (with `when_empty = "drop"` their clients try again), and the service's address has to be moved at once.

What moves and what stays, with why, is said first. It stops at the first instance that fails; the same command again
goes on with what is left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.screen.output import fit, paint, print_json, table
from portfleet.submit.operation import add_change_options

if TYPE_CHECKING:
    from portfleet.submit.evacuation import Move, Moved

EXAMPLES = (
    "portfleet evacuate root@box2 --dry-run",
    "portfleet evacuate root@box2",
    "portfleet evacuate root@box2 --last && systemctl stop keepalived",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", metavar="BOX", help="the other box, as ssh understands it")
    parser.add_argument("--last", action="store_true", help="also the last serving instance of each service")
    add_change_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    from portfleet.submit import evacuation  # it asks the other box, which takes a while to import

    moves = evacuation.plan(context, options.to, last=options.last)
    if not context.json:
        _show_plan(moves, options.to)
    if options.dry_run:
        if context.json:
            print_json({"to": options.to, "dry_run": True, "instances": [vars(move) for move in moves]})
        return Exit.DONE
    done = list(evacuation.carry_out(moves, options, context))
    return _tell(done, evacuation.left(context), options, context)


def _show_plan(moves: Sequence[Move], box: str) -> None:
    rows = [
        [move.instance, f"{move.connections:,}", f"stays: {move.stays}" if move.stays else f"moves to {box}"]
        for move in moves
    ]
    lines = table(["INSTANCE", "CONNECTIONS", "PLAN"], rows, right=(1,))
    print(paint(lines[0], "dim"))
    for line in lines[1:]:
        print(fit(line, indent=4))


def _tell(done: Sequence[Moved], left: dict[str, int], options: argparse.Namespace, context: Context) -> Exit:
    """Print what has become of each instance, what stays, and what to do next; return the exit code."""
    failed = next((one for one in done if one.code), None)
    stays = [one for one in done if one.move.stays]
    code = failed.code if failed else Exit.FAILED if stays else Exit.DONE
    next_step = _next(options, failed=failed is not None)
    if context.json:
        rows = [_entry(one) for one in done]
        print_json({"ok": not code, "to": options.to, "instances": rows, "left": left, "next": next_step})
        return code
    for one in done:
        if one.seconds:
            stream = sys.stderr if one.code else sys.stdout
            words = f"{one.move.instance}: {one.result} in {one.seconds:.1f} s: {one.words}"
            print(fit(f"portfleet: {words}" if one.code else words, file=stream), file=stream)
    counts = ", ".join(f"{name} {count:,}" for name, count in left.items())
    print(fit(f"connections left here: {counts or 'none'}"))
    for line in next_step:
        print(fit(f"next: {line}", indent=6))
    return code


def _next(options: argparse.Namespace, *, failed: bool) -> list[str]:
    command = f"portfleet evacuate {options.to}"
    if failed:
        return [f"when that is put right: {command}{' --last' * options.last}"]
    if not options.last:
        return [f"{command} --last, then at once move the address that clients dial"]
    return [
        f"at once: have the address that clients dial on {options.to}, with keepalived by: systemctl stop keepalived; "
        f"otherwise: ip address del ADDRESS dev DEVICE here, ip address add ADDRESS dev DEVICE there",
        "or, to serve here again: portfleet undrain SERVICE",
    ]


def _entry(one: Moved) -> dict[str, Any]:
    return {
        "service": one.move.service,
        "instance": one.move.instance,
        "connections": one.move.connections,
        "result": one.result,
        "words": one.words or None,
        "seconds": round(one.seconds, 2),
    }
