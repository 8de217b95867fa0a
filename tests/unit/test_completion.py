"""bash, zsh and fish complete by position, with the scripts that `portfleet completion` prints."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.commands import VERBS
from portfleet.core.journal import HistoryEntry
from portfleet.store.journal import JournalStore
from support.fleets import ECHO

BIN = Path(sys.executable).parent
Complete = Callable[..., list[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a home: a service of four instances, two releases, a history of one."""
    releases = tmp_path / "releases"
    for name in ("v1", "v2"):
        (releases / name).mkdir(parents=True)
    text = ECHO.replace("[service.echo]\n", f'[service.echo]\nreleases = "{releases}"\nremote = ["203.0.113.2:7101"]\n')
    (tmp_path / "fleet.toml").write_text(text.replace('":7000"', '"0.0.0.0:7000"'))
    (tmp_path / "lib").mkdir()
    entry = HistoryEntry(7, "2026-01-31T12:03:10Z", "root", "echo", "cutover", "cut over", "done", release="v0")
    JournalStore(tmp_path / "lib/journal.json").update(lambda journal: replace(journal, history=(entry,)))
    return os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}", "PORTFLEET_HOME": str(tmp_path), "HOME": str(tmp_path), "TERM": "vt100"
    }  # fmt: skip


def in_bash(environment: Mapping[str, str], *words: str) -> list[str]:
    """Return what bash offers for the last of ``words``, split at the characters where readline splits."""
    parts = [part for word in words for part in (re.findall(r"[:=]|[^:=]+", word) or [""])]
    line = " ".join(f"'{word}'" for word in ("portfleet", *parts))
    script = f"""source <(portfleet completion bash); COMP_WORDS=({line}); COMP_CWORD={len(parts)}
    _portfleet; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


def in_fish(environment: Mapping[str, str], *words: str) -> list[str]:
    """Return what fish offers for the last of ``words``."""
    line = " ".join(("portfleet", *words))
    script = f"portfleet completion fish | source; complete -C '{line}'"
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True, env=environment)
    return [row.split("\t")[0] for row in done.stdout.splitlines()]


def in_zsh(environment: Mapping[str, str], *words: str) -> list[str]:
    """Return what a zsh at a terminal lists for the last of ``words``, which must have several candidates."""
    setup = "PS1='READY> '; autoload -U compinit && compinit -u -D; zstyle ':completion:*' verbose no; "
    setup += "stty cols 200 rows 200; source <(portfleet completion zsh); print -n 'LOA''DED'\n"
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], dict(environment))  # noqa: S606 (no shell above it)
    try:
        os.write(terminal, setup.encode())
        _until(terminal, re.compile("LOADED.*READY> ", re.DOTALL))
        os.write(terminal, (" ".join(("portfleet", *words)) + "\x04").encode())  # ^D: list the choices
        # The list stands between erasing what is below the line (ED) and going up to the line again (CUU).
        return _until(terminal, re.compile(r"\x1b\[J\0*([^\0]*?)\x1b\[\d*A")).split()
    finally:
        os.close(terminal)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _until(terminal: int, pattern: re.Pattern[str], seconds: float = 30) -> str:
    """Return the last group of ``pattern`` in what the terminal says; vt100's padding is NUL bytes."""
    said, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 4096).decode(errors="replace")
        if found := pattern.search(said):
            return found[found.lastindex or 0]
    raise AssertionError(f"zsh said only: {said!r}")


SHELLS = [in_bash, in_fish, in_zsh]


@pytest.mark.parametrize("shell", SHELLS)
def test_instances_after_a_verb_that_takes_them(environment: dict[str, str], shell: Complete) -> None:
    assert sorted(shell(environment, "drain", "echo/echo-b")) == [f"echo/echo-blue-{number}" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("shell", SHELLS)
def test_releases_after_release(environment: dict[str, str], shell: Complete) -> None:
    assert sorted(shell(environment, "cutover", "echo", "--release", "v")) == ["v0", "v1", "v2"]


@pytest.mark.parametrize("shell", SHELLS)
def test_options_of_the_verb(environment: dict[str, str], shell: Complete) -> None:
    assert sorted(shell(environment, "cutover", "echo", "--max-")) == ["--max-errors", "--max-p99"]


@pytest.mark.parametrize("shell", [in_bash, in_fish])
def test_verbs_first(environment: dict[str, str], shell: Complete) -> None:
    assert set(shell(environment, "")) == {*VERBS, "help", "--version"}
    assert shell(environment, "stat") == ["status"]
    assert shell(environment, "help", "rollb") == ["rollback"]


@pytest.mark.parametrize("shell", [in_bash, in_fish])
def test_history_numbers_after_to(environment: dict[str, str], shell: Complete) -> None:
    assert shell(environment, "rollback", "echo", "--to", "") == ["7"]


def test_a_value_may_stand_behind_an_equals_sign(environment: dict[str, str]) -> None:
    assert in_bash(environment, "cutover", "echo", "--release=v1") == ["v1"]
    assert in_fish(environment, "cutover", "echo", "--release=v1") == ["--release=v1"]


def test_an_address_with_a_colon(environment: dict[str, str]) -> None:
    assert in_bash(environment, "migrate", "echo/echo-blue-1", "203") == ["203.0.113.2:7101"]
    assert in_bash(environment, "migrate", "echo/echo-blue-1", "203.0.113.2:71") == ["7101"]


def test_global_options_come_first_or_last(environment: dict[str, str]) -> None:
    assert in_bash(environment, "--json", "stat") == ["status"]
    assert in_bash(environment, "--home", environment["PORTFLEET_HOME"], "drain", "ech")[:1] == ["echo"]
    assert in_bash(environment, "status", "--j") == ["--json"]
    assert in_bash(environment, "init", "--j") == []


def test_the_shell_completes_files(environment: dict[str, str]) -> None:
    home = Path(environment["PORTFLEET_HOME"])
    assert in_fish(environment, "init", f"{home}/fle") == [f"{home}/fleet.toml"]
    assert in_bash(environment, "init", "") == []


def test_a_config_with_errors_has_nothing_to_offer(environment: dict[str, str]) -> None:
    Path(environment["PORTFLEET_HOME"], "fleet.toml").write_text("not TOML")
    assert in_bash(environment, "drain", "e") == []


def test_an_option_that_is_there_is_not_offered_again(environment: dict[str, str]) -> None:
    assert in_bash(environment, "cutover", "echo", "--max-p99", "2x", "--max-") == ["--max-errors"]
