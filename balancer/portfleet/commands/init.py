"""Write a commented example of fleet.toml, with every key, to /etc/portfleet/fleet.toml (or below --home).

It is a working fleet of four instances that answer with their names. A file that exists is never overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.config.example import example
from portfleet.core.errors import Exit, PortfleetError

EXAMPLES = (
    "portfleet init",
    "portfleet init -                  # to stdout",
    "portfleet init ./fleet.toml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "write this file instead, or - for stdout"
    parser.add_argument("file", nargs="?", metavar="FILE", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.file == "-":
        print(example(), end="")
        return Exit.DONE
    own = options.file is None
    path = context.paths.config if own else Path(options.file)
    try:
        if own:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(example())
    except FileExistsError:
        raise PortfleetError(
            f"{path} exists already", hint="portfleet init - prints the example; edit the file, or move it away"
        ) from None
    except OSError as error:
        raise PortfleetError(
            f"cannot write {path}: {error.strerror}", hint="run it as root, or name another file: portfleet init FILE"
        ) from None
    config = "" if own else f" --config {path}"
    context.say(f"wrote {path}; edit it, then: portfleet check{config} && portfleet up{config}")
    return Exit.DONE
