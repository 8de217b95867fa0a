"""Print the completion script for bash, zsh or fish: verbs, options, services, instances, releases.

The Debian package and the Ansible role install it. The script asks this program for every candidate, so it does not
have to be written again after an upgrade or when the config changes.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from portfleet.apply.context import Context
from portfleet.commands import VERBS, WITHOUT_JSON
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.paths import resolve
from portfleet.screen.candidates import Candidate, candidates
from portfleet.screen.position import Position, position
from portfleet.store.templating import DIRECTORY

EXAMPLES = (
    "portfleet completion bash > /etc/bash_completion.d/portfleet",
    "portfleet completion zsh > /usr/local/share/zsh/site-functions/_portfleet",
    "portfleet completion fish > ~/.config/fish/completions/portfleet.fish",
)

SHELLS = ("bash", "zsh", "fish")
#: What files and directories are asked of the shell with.
_FILES, _DIRECTORIES = ":files", ":directories"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "the shell (default bash)"
    parser.add_argument("shell", nargs="?", choices=SHELLS, default="bash", metavar="SHELL", help=words)
    words = "print what may stand for the last of WORDS, which are separated by the byte 0x1f; the scripts ask by it"
    parser.add_argument("--complete", metavar="WORDS", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.complete is None:
        print((DIRECTORY / f"completion/portfleet.{options.shell}").read_text(), end="")
        return Exit.DONE
    words = options.complete.split("\x1f")
    for word, about in _offers(words, context):
        if word.startswith((words[-1], ":")):
            print(f"{word}\t{about}" if about else word)
    return Exit.DONE


def _offers(words: Sequence[str], context: Context) -> Iterator[Candidate]:
    """Yield the candidates for the last of ``words``."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_globals(parser, json=True)
    flags = {name: action.nargs == 0 for action in parser._actions for name in action.option_strings}
    at = 0
    while at < len(words) - 1 and words[at].startswith("-"):
        at += 1 if flags.get(words[at], True) else 2
    home, config = _value("--home", words), _value("--config", words)
    if at >= len(words) - 1 or words[at] == "help":
        found = position(parser, words)
        yield from _at(found, context) if found.kind or words[-1].startswith("-") else _verbs()
        return
    verb = words[at]
    if verb not in VERBS:
        return
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"portfleet.commands.{verb}").add_arguments(parser)
    _add_globals(parser, json=verb not in WITHOUT_JSON)
    if home or config:
        context = Context(resolve(home=home, config=config))
    yield from _at(position(parser, words[at + 1 :]), context)


def _add_globals(parser: argparse.ArgumentParser, *, json: bool) -> None:
    parser.add_argument("--home", metavar="DIR", help="keep everything below DIR")
    parser.add_argument("--config", metavar="FILE", help="read this fleet.toml")
    parser.add_argument("--help", action="store_true", help="show the help")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def _value(option: str, words: Sequence[str]) -> str | None:
    """Return the value that ``option`` has among all words but the last."""
    after = [value for word, value in pairwise(words[:-1]) if word == option]
    return after[-1] if after else None


def _verbs() -> Iterator[Candidate]:
    yield from VERBS.items()
    yield from (("help", "explain a verb"), ("--version", "show the version"))


def _at(found: Position, context: Context) -> Iterable[Candidate]:
    match found.kind:
        case "FILE":
            return [(_FILES, "")]
        case "DIR":
            return [(_DIRECTORIES, "")]
    if found.options or found.choices:
        return [*found.options, *((found.prefix + word, "") for word in found.choices)]
    try:
        fleet = context.serving_fleet
        journal = context.store.read() or Journal()
    except PortfleetError:
        return []  # a config or journal with errors has nothing to offer
    return [(found.prefix + word, about) for word, about in candidates(found.kind, found.before, fleet, journal)]
