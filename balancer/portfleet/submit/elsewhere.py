"""The options of verbs that also work on other boxes: which boxes, and what is told them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from portfleet.submit.options import duration


def add_box_options(parser: argparse.ArgumentParser, *, every: bool = True) -> None:
    """Add --box and, with ``every``, --all with what names the boxes."""
    group = parser.add_argument_group("other boxes, asked by ssh")
    which = group.add_mutually_exclusive_group()
    words = "on this box, as ssh understands it; may be given several times"
    which.add_argument("--box", dest="boxes", action="append", metavar="BOX", help=words)
    if every:
        which.add_argument("--all", action="store_true", help="on all boxes of the inventory")
        words = (
            "one box a line, or what ansible-inventory --list prints; - reads stdin (default: boxes beside fleet.toml)"
        )
        group.add_argument("--inventory", metavar="FILE", help=words)
        group.add_argument("--group", metavar="GROUP", help="only this group of Ansible's inventory")
    words = "how long a box has for its answer (default: 10s to look, 1h to act)"
    group.add_argument("--patience", type=duration, metavar="TIME", help=words)


def elsewhere(options: argparse.Namespace) -> bool:
    """Return whether other boxes are to do it."""
    return bool(getattr(options, "all", False) or options.boxes)


def told(argv: Sequence[str]) -> list[str]:
    """Return the words of a command line without those that are for this box alone, in their order."""
    ours = argparse.ArgumentParser(add_help=False)
    add_box_options(ours)
    for option in ("--home", "--config"):
        ours.add_argument(option)
    ours.add_argument("--json", action="store_true")
    return ours.parse_known_args(list(argv))[1]
