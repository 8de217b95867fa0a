"""Show what apply would do: the steps in words, and the share of clients that would change instance.

With --text the transactions as the data plane would get them. Nothing is changed.
"""

from __future__ import annotations

import argparse

from portfleet.apply import preflight
from portfleet.apply.context import Context
from portfleet.apply.converge import look
from portfleet.core.errors import Exit
from portfleet.core.plan import transactions
from portfleet.screen.output import fit, print_json

EXAMPLES = (
    "portfleet plan",
    "portfleet plan --text",
    "portfleet plan --check             # exit 6 if there is something to apply",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="exit 6 if changes wait, 0 otherwise")
    parser.add_argument("--text", action="store_true", help="print the transactions in the data plane's own language")


def run(options: argparse.Namespace, context: Context) -> Exit:
    return show(context, check=options.check, text=options.text)


def show(context: Context, *, check: bool = False, text: bool = False) -> Exit:
    """Print the plan, or with ``text`` its transactions; with ``check`` the exit code says whether changes wait."""
    desired, observed, plan = look(context, by_word=True)
    preflight.prove(context, desired, plan)
    waits = Exit.CHANGES if check and plan.steps else Exit.DONE
    if context.json:
        clients = {name: {"slots_moved": moved, "slots": total} for name, (moved, total) in plan.moved.items()}
        found: dict[str, object] = {"steps": plan.describe(), "notes": list(plan.notes), "clients": clients}
        if text:
            texts = transactions(plan.steps, desired, observed.plane)
            found["transactions"] = [{"step": words, "text": context.plane.text(changes)} for words, changes in texts]
        print_json(found)
        return waits
    if text:
        for words, transaction in transactions(plan.steps, desired, observed.plane):
            print(f"# {words}\n{context.plane.text(transaction)}", end="")
        return waits
    for number, words in enumerate(plan.describe(), 1):
        print(fit(f"{number:3}  {words}", indent=5))
    for name, (moved, total) in plan.moved.items():
        if moved:
            print(fit(f"{name}: {100 * moved / total:.1f} % of the clients change instance with their next connection"))
    for note in plan.notes:
        print(fit(f"note: {note}"))
    if not plan.steps:
        print("nothing to do: the fleet matches the config")
    return waits
