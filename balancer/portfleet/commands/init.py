"""Write a commented example of fleet.toml, with every key, to stdout or FILE.

portfleet init > /etc/portfleet/fleet.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.config.example import example
from portfleet.core.errors import Exit, PortfleetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="write here instead of to stdout; never overwritten")


def run(options: argparse.Namespace, context: Context) -> Exit:
    text = example()
    if options.file is None:
        print(text, end="")
        return Exit.DONE
    try:
        with Path(options.file).open("x") as file:
            file.write(text)
    except OSError as error:
        raise PortfleetError(
            f"cannot write {options.file}: {error.strerror}", hint="choose another name, or remove that file first"
        ) from None
    context.say(f"wrote {options.file}; edit it, then: portfleet check --config {options.file}")
    return Exit.DONE
