"""The manual pages, made of what --help and the reference are made of: `manpages.py DIR`.

portfleet(1), one page per verb, portfleet-daemon(1) and fleet.toml(5), as roff of man(7).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from portfleet import __version__
from portfleet.__main__ import EXIT_CODES, parser_of
from portfleet.commands import GROUPS, VERBS
from portfleet.config.settings import TABLES
from portfleet.config.settings.table import Setting, Table
from portfleet_daemon.settings import make_parser

_FILES = {
    "/etc/portfleet/fleet.toml": "the config, see fleet.toml(5)",
    "/var/lib/portfleet/journal.json": "desired run-time state, running operations, history",
    "/run/portfleet": "sockets, locks and what the watcher knows",
    "/var/log/portfleet": "a log per instance, of supervisord and of portfleet-watch",
}


def pages() -> dict[str, str]:
    """Return {file name: roff} of every manual page."""
    found = {"portfleet.1": _top(), "portfleet-daemon.1": _daemon(), "fleet.toml.5": _config()}
    return found | {f"portfleet-{verb}.1": _verb(verb) for verb in VERBS}


def _text(words: str) -> str:
    r"""Return ``words`` as roff takes them: "-" is a hyphen there and "\-" the character that is typed."""
    plain = words.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return re.sub(r"^([.'])", r"\\&\1", plain, flags=re.MULTILINE)


def _page(name: str, section: int, about: str, parts: Iterable[str]) -> str:
    head = f'.TH {name.upper()} {section} "" "portfleet {__version__}" "portfleet"'
    return f"{head}\n.SH NAME\n{_text(name)} \\- {_text(about)}\n" + "".join(parts)


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body}"


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n\\fB{_text(term)}\\fR\n{_text(words)}\n" for term, words in rows)


def _prose(text: str) -> str:
    """Return paragraphs; indented lines stay lines."""
    lines = []
    for block in text.strip().split("\n\n"):
        rows = block.splitlines()
        if all(row.startswith(" ") for row in rows):
            lines.append(_literal(row.strip() for row in rows))
        else:
            lines.append(".PP\n" + _text(" ".join(row.strip() for row in rows)) + "\n")
    return "".join(lines)


def _literal(rows: Iterable[str]) -> str:
    return ".PP\n.RS 4\n.nf\n" + "".join(f"{_text(row)}\n" for row in rows) + ".fi\n.RE\n"


def _arguments(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(action.option_strings)
        value = "" if action.nargs == 0 else str(action.metavar or "")
        words = (action.help or "") % {"default": action.default, "prog": parser.prog}
        rows.append((f"{names} {value}".strip(), words))
    return _rows(rows)


def _synopsis(parser: argparse.ArgumentParser) -> str:
    return _prose(" ".join(parser.format_usage().removeprefix("usage: ").split()))


def _top() -> str:
    parser, _ = parser_of(None)
    groups = "".join(
        f".SS {_text(group)}\n" + _rows((f"portfleet {verb}", words) for verb, words in verbs.items())
        for group, verbs in GROUPS.items()
    )
    codes = [tuple(line.strip().split("  ", 1)) for line in EXIT_CODES.splitlines()[1:]]
    pages_ = ", ".join(f"portfleet-{verb}(1)" for verb in VERBS)
    parts = [
        _section("SYNOPSIS", _synopsis(parser)),
        _section("DESCRIPTION", _prose(parser.description or "")),
        _section("OPTIONS", _arguments(parser)),
        _section("VERBS", groups),
        _section("EXIT STATUS", _rows((code, words) for code, words in codes)),
        _section(
            "ENVIRONMENT",
            _rows(
                [
                    ("PORTFLEET_HOME", "as --home"),
                    ("PORTFLEET_WHO", "who is at work, for lock and history"),
                    ("NO_COLOR", "if set, no colours"),
                ]
            ),
        ),
        _section("FILES", _rows(_FILES.items())),
        _section("SEE ALSO", _prose(f"fleet.toml(5), portfleet-daemon(1), {pages_}")),
    ]
    return _page("portfleet", 1, "TCP services behind the kernel's own load balancer", parts)


def _verb(verb: str) -> str:
    parser, command = parser_of(verb)
    examples: tuple[str, ...] = command.EXAMPLES if command else ()
    parts = [
        _section("SYNOPSIS", _synopsis(parser)),
        _section("DESCRIPTION", _prose(parser.description or "")),
        _section("OPTIONS", _arguments(parser)),
        _section("EXAMPLES", _literal(examples)),
        _section("SEE ALSO", _prose("portfleet(1), which has the exit status; fleet.toml(5)")),
    ]
    return _page(f"portfleet-{verb}", 1, VERBS[verb], parts)


def _daemon() -> str:
    parser = make_parser()
    parts = [
        _section("SYNOPSIS", _synopsis(parser)),
        _section("DESCRIPTION", _prose(f"{parser.description}\n\n{parser.epilog}")),
        _section("OPTIONS", _arguments(parser)),
        _section("SEE ALSO", _prose("portfleet(1), fleet.toml(5)")),
    ]
    return _page("portfleet-daemon", 1, "serve one TCP port with one thread and one epoll set", parts)


def _config() -> str:
    words = """A file in TOML. Unknown keys are errors. Durations are "500ms", "30s", "10m", "1h". portfleet check names
    every problem at once; an edited file changes nothing until portfleet apply."""
    tables = "".join(_table(table) for table in TABLES)
    files = _rows([("/etc/portfleet/fleet.toml", "the config of this machine's fleet; portfleet init writes it")])
    parts = [_section("DESCRIPTION", _prose(words)), tables, _section("FILES", files)]
    parts.append(_section("SEE ALSO", _prose("portfleet(1), portfleet-check(1), portfleet-init(1)")))
    return _page("fleet.toml", 5, "what portfleet runs", parts)


def _table(table: Table) -> str:
    return _section(_text(f"[{table.path}]"), _prose(table.brief) + "".join(_key(table, one) for one in table.settings))


def _key(table: Table, setting: Setting) -> str:
    default = table.default(setting) or (setting.unset if setting.asks is None else "none; it must be set")
    facts = [f"Type: {setting.kind.words}" + (f"; {setting.kind.bounds}" if setting.kind.bounds else "")]
    facts += [f"Default: {default}", f"A change takes: {setting.effect.value}"]
    words = " ".join(filter(None, (f"{setting.brief.rstrip('.')}.", setting.more)))
    head = f".TP\n\\fB{_text(setting.key)}\\fR = {_text(setting.example)}\n"
    return f"{head}{_text(words)}\n.br\n{_text('. '.join(facts))}.\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
