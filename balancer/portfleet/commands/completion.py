"""Print a completion script for bash: verbs, each verb's options, services and instances.

portfleet completion > /etc/bash_completion.d/portfleet
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from portfleet.apply.context import Context
from portfleet.commands import VERBS, WITHOUT_JSON
from portfleet.core.errors import ConfigError, Exit
from portfleet.core.model import COLOURS, Instance

_GLOBAL = ("--home", "--config", "--help")

_SCRIPT = """\
# bash completion of portfleet; written by `portfleet completion`
_portfleet() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} verb='' words='' word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ $word == -* ]] || {{ verb=$word && break; }}
  done
  case $verb in
    '') words='{verbs} --version' ;;
{options}
  esac
  if [[ -n $verb && $current != -* ]]; then
    words=$(portfleet completion --words 2>/dev/null)
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
# without a match, files: --config and --home take them
complete -o default -F _portfleet portfleet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--words", action="store_true", help="print the services and instances of the config instead")


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.words:
        print("\n".join(_words(context)))
        return Exit.DONE
    cases = [f"    {verb}) words='{' '.join(_options(verb))}' ;;" for verb in VERBS]
    print(_SCRIPT.format(verbs=" ".join(VERBS), options="\n".join(cases)), end="")
    return Exit.DONE


def _options(verb: str) -> Iterator[str]:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"portfleet.commands.{verb}").add_arguments(parser)
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
    yield from _GLOBAL
    if verb not in WITHOUT_JSON:
        yield "--json"


def _words(context: Context) -> Iterator[str]:
    """Return every service and SERVICE/INSTANCE; a config with errors has none."""
    try:
        fleet = context.fleet
    except ConfigError:
        return
    for service in fleet.services.values():
        yield service.name
        for colour in COLOURS:
            for number in range(1, service.instances + 1):
                yield f"{service.name}/{Instance(service.name, colour, number).name}"
