"""How lines and tables fit a terminal."""

from __future__ import annotations

import io
import shlex
from contextlib import redirect_stdout

import pytest

from portfleet.screen import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have terminals of 40 columns."""
    monkeypatch.setenv("COLUMNS", "40")


def fit(text: str, *, indent: int | None = None) -> list[str]:
    return output.fit(text, indent=indent, file=Terminal()).splitlines()


LONG = "a sentence that has more words than one line of the terminal takes"


def test_a_line_that_is_too_long_goes_on_further_in() -> None:
    lines = fit(f"  {LONG}")
    assert len(lines) == 2 and all(len(line) <= 40 for line in lines)
    assert lines[0].startswith("  a ") and lines[1].startswith("    ")
    assert fit(LONG, indent=9)[1].startswith(" " * 9)


def test_nothing_is_changed_for_a_file_or_a_pipe() -> None:
    assert output.fit(LONG, file=io.StringIO()) == LONG


def test_a_command_to_paste_is_one_line() -> None:
    hint = "hint: portfleet cutover market-data --release 2026-11-27 --canary 5%"
    undo = "Undo with: portfleet rollback market-data"
    assert fit(f"{LONG}\n{hint}")[-1] == hint
    assert fit(f"{LONG}. {undo}")[-1].strip() == undo
    follow, back = "Follow it with: portfleet history --follow 12;", "undo with: portfleet cancel market-data"
    assert [line.strip() for line in fit(f"begun: {LONG}. {follow} {back}")[-2:]] == [follow, back]


def test_what_begins_far_in_goes_on_where_there_is_room() -> None:
    lines = fit(f"12345  operation-begun   {LONG}", indent=25)
    assert len(lines) == 3 and all(line[:8].isspace() and line[8] != " " for line in lines[1:])


def test_a_shells_command_is_broken_where_the_shell_goes_on() -> None:
    command = "echo 'net.ipv4.some | thing = 4096' | tee -a /etc/sysctl.d/60.conf | sysctl -p - && sysctl net"
    with redirect_stdout(Terminal()):
        fitted = output.fit_command(command, indent=6)
    assert [line.split()[0] for line in fitted.splitlines()] == ["echo", "tee", "sysctl"]
    assert shlex.split(fitted) == shlex.split(command)


def test_a_table_that_is_too_wide_goes_without_its_spare_columns() -> None:
    head, rows = ["NAME", "PID", "STATE", "PORT"], [["market-data-blue-1", "4194304", "ready", "7100"]]

    def shown(width: int | None) -> list[str]:
        return output.fitting(head, rows, right=(1, 3), spare=(1, 3), width=width)

    assert shown(None)[0].split() == head
    assert shown(39)[0].split() == ["NAME", "STATE", "PORT"]
    assert shown(10)[0].split() == ["NAME", "STATE"], "what is left is shown at any width"
    assert shown(39)[1] == "market-data-blue-1  ready  7100"
