"""The command line: one verb a module in ``commands``, imported only when it is the one that was asked for."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from portfleet.commands import GROUPS, OPERATIONS, OTHER_WORDS, SUPERVISED, TOLD, VERBS, WITHOUT_JSON
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.paths import resolve
from portfleet.core.printable import printable
from portfleet.screen.help import HelpFormatter, examples, groups, meant

if TYPE_CHECKING:
    from portfleet.apply.context import Context

EXIT_CODES = """exit codes:
    0  done
    1  failed
    2  wrong usage, or a problem of the config
    3  the kernel refused; nothing was applied
    4  timed out
    5  locked: another operation is at work
    6  changes wait (plan --check)
    7  status: an instance that should serve does not
    8  status: the watcher or supervisord does not work
    9  status: a service has no serving instance"""
_START = """start here:
    portfleet help VERB        every option of a verb, with examples
    portfleet init             write a config that works, then: portfleet up"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and give its exit code; the verb of this process (None) ends the process with it."""
    if arguments is not None:
        return _run(arguments)
    gc.disable()  # a verb lives for a tenth of a second, and spent a tenth of it on collections; watch enables it
    code = _run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    # The kernel frees all memory at once. The interpreter frees value after value: 40 ms for 1,024 instances.
    os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run one verb, tell what went wrong, and give its exit code."""
    _open_streams()
    try:
        options, command = parse(list(arguments))
        if command is None:
            _parser(None)[0].print_help()
            return Exit.USAGE
        home = getattr(options, "home", None) or os.environ.get("PORTFLEET_HOME")
        from portfleet.apply.context import Context

        context = Context(resolve(home=home, config=getattr(options, "config", None)), json=hasattr(options, "json"))
        _look_after(command.__name__.rpartition(".")[2], options, context)
        code = int(command.run(options, context))
        sys.stdout.flush()  # here, where a reader that has gone away is expected
        return code
    except PortfleetError as error:
        _refuse(str(error))
        return error.code
    except KeyboardInterrupt:
        print("portfleet: interrupted; what was done stays, see: portfleet plan", file=sys.stderr)
        return Exit.FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        _refuse(_words(error))
        return Exit.FAILED


def _refuse(words: str) -> None:
    """Print why nothing, or nothing more, was done. A file, an instance or another box may be quoted in it."""
    from portfleet.screen.output import fit

    lines = (printable(line, len(line)) for line in f"portfleet: {words}".split("\n"))
    print(fit("\n".join(lines), file=sys.stderr), file=sys.stderr)


def _open_streams() -> None:
    """Have all standard streams open, and able to take any text.

    A file that is opened later would get the number of one that is closed (`>&-`), and what is printed would go there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an encoding without “…” and “–” is no reason to fail


def _words(error: OSError) -> str:
    """Return what the system refused, where, and what to do: no disk, right or directory is beyond an operator."""
    hints = {
        errno.ENOSPC: "free space or inodes there: df -h; df -i",
        errno.EDQUOT: "free space there: quota",
        errno.EROFS: "mount it writable, or give a directory of your own with --home DIR",
        errno.EACCES: "run as root",
        errno.EPERM: "run as root",
    }
    hint = hints.get(error.errno or 0, "see what holds: portfleet status")
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}\nhint: {hint}"


def _look_after(verb: str, options: argparse.Namespace, context: Context) -> None:
    """Have said what is wrong with the watcher and supervisord; raises PortfleetError if the verb needs them.

    Not if other boxes are to do it: they look after their own.
    """
    if getattr(options, "all", False) or getattr(options, "boxes", None):
        return
    if verb in TOLD | SUPERVISED:
        from portfleet.apply.overseers import look_after

        needed = verb in OPERATIONS and not getattr(options, "dry_run", False)
        look_after(context, watcher=needed, supervisord=verb in SUPERVISED, say=verb in TOLD)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ModuleType | None]:
    """Return the options and the verb's module (None if no verb was given); ends the process on wrong usage."""
    word, rest = _verb(argv)
    if word == "help":
        argv, (word, _) = [*rest, "--help"], _verb(rest)
    if word is not None and word not in VERBS:
        _unknown(word)
    parser, command = _parser(word)
    asked = zip(("", *argv), argv, strict=False) if word != "completion" else ()  # a shell's word may be empty yet
    if any(_is_empty(text, before) for before, text in asked):
        _verb_parser(parser).error("an argument is empty; is a variable of the shell unset?")
    options, unknown = parser.parse_known_args(argv, argparse.Namespace(argv=tuple(argv)))
    if unknown:
        known = [option for action in _verb_parser(parser)._actions for option in action.option_strings]
        close = meant(unknown[0].partition("=")[0], known) if unknown[0].startswith("--") else None
        words = f"unrecognized arguments: {' '.join(unknown)}"
        _verb_parser(parser).error(f"{words}; did you mean {close}?" if close else words)
    return options, command


def _is_empty(text: str, before: str) -> bool:
    """Return whether an argument, or the value of an option, is "", which would widen what a verb does."""
    option, equals, value = text.partition("=") if text.startswith("--") else (before, "=", text)
    return bool(equals) and not value and option != "--why"


def _verb(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the verb, the first word that is neither a flag nor the value of a global flag, and the words but it."""
    words = iter(enumerate(argv))
    for at, word in words:
        if word in ("--home", "--config"):
            next(words, None)
        elif not word.startswith("-"):
            return word, [*argv[:at], *argv[at + 1 :]]
    return None, list(argv)


def _unknown(word: str) -> NoReturn:
    """End with what was probably meant; raises SystemExit(2)."""
    found = OTHER_WORDS.get(word.lower(), ())
    close = meant(word.lower(), [*VERBS, "help"])
    commands = [f"portfleet {words}" for words in found or ([close] if close else ["help"])]
    print(f"usage: portfleet VERB …\nportfleet: there is no verb {word!r}", file=sys.stderr)
    print("\n".join(f"hint: {words}" for words in commands), file=sys.stderr)
    sys.exit(Exit.USAGE)


def parser_of(verb: str | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Return the parser of a verb and its module; of the command line itself for None."""
    parser, command = _parser(verb)
    return _verb_parser(parser), command


def _parser(verb: str | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    command = importlib.import_module(f"portfleet.commands.{verb}") if verb else None
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = shared.add_argument_group("global options, before or after the verb")
    group.add_argument("--home", metavar="DIR", help="keep everything below DIR (also: PORTFLEET_HOME)")
    group.add_argument("--config", metavar="FILE", help="read this fleet.toml")
    if verb in WITHOUT_JSON:
        group.add_argument("--json", action=_NoJson, const=verb)
    else:
        group.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="portfleet",
        usage="portfleet [--home DIR] [--config FILE] [--json] VERB …",
        description="Spread TCP connections over a fleet of single-threaded daemons with the kernel's own balancer.",
        epilog=f"{_START}\n\n{groups(GROUPS)}\n\n{EXIT_CODES}",
        formatter_class=HelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action=_Version)
    # without prog, argparse would format a usage for it
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", prog="portfleet", help=argparse.SUPPRESS)
    if verb is not None and command is not None:
        sub = verbs.add_parser(
            verb,
            description=(command.__doc__ or "").strip(),
            epilog=examples(command.EXAMPLES),
            formatter_class=HelpFormatter,
            parents=[shared],
        )
        command.add_arguments(sub)
        parser.set_defaults(parser=sub)
    return parser, command


def _verb_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of the verb if there is one, otherwise ``parser``."""
    found: argparse.ArgumentParser | None = parser.get_default("parser")
    return found or parser


class _NoJson(argparse.Action):
    """Refuses --json for the verb ``const``, which has none, before and after the verb."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, const=const, help=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.const} prints no JSON: leave out --json")


class _Version(argparse.Action):
    """Prints the version; importing it only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from portfleet import __version__

        print(f"portfleet {__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
