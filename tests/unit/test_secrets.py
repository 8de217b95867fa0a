"""A service's environment file: what a line is, and that only its owner may read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portfleet.apply import secrets
from portfleet.core.errors import Exit, PortfleetError


def put(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "echo.env"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_lines_are_names_with_values(tmp_path: Path) -> None:
    text = "# keys\n\nTOKEN=a=b c\n  QUOTED='x y'\nOTHER=\"it's\"\nEMPTY=\nA_1=%(here)s\n"
    assert secrets.read(put(tmp_path, text)) == {
        "TOKEN": "a=b c", "QUOTED": "x y", "OTHER": "it's", "EMPTY": "", "A_1": "%(here)s",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["TOP-SECRET=hush", "hush", "PORTFLEET_PORT=hush", "A=hu\"sh'x", "A=hush ;x", "A=\x01hush"]
)
def test_a_line_that_cannot_be_is_named_by_its_number_and_never_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(PortfleetError, match=r"echo.env:2: ") as error:
        secrets.read(put(tmp_path, f"B=1\n{line}\n"))
    assert "hush" not in str(error.value) and error.value.hint and error.value.code is Exit.USAGE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(PortfleetError, match="may be read by other users") as error:
        secrets.read(put(tmp_path, "A=1\n", mode))
    assert "chmod 600" in error.value.hint


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "none"):
        with pytest.raises(PortfleetError, match=r"is no regular file|cannot be read"):
            secrets.read(path)
    with pytest.raises(PortfleetError, match="longer than"):
        secrets.read(put(tmp_path, f"A={'x' * (1 << 16)}\n"))


def test_a_token_is_one_word_that_cannot_be_guessed_and_only_its_owner_reads(tmp_path: Path) -> None:
    word = "correct-horse-battery-staple"
    assert secrets.token(put(tmp_path, f"{word}\n")) == word.encode()
    for text in ("", "short", f"{word} {word}", f"{word}\n{word}\n", "x" * 201, "ä" * 30):
        with pytest.raises(PortfleetError, match="24 to 200 characters") as error:
            secrets.token(put(tmp_path, text))
        assert word not in str(error.value) and "umask 077" in error.value.hint
    with pytest.raises(PortfleetError, match="may be read by other users"):
        secrets.token(put(tmp_path, word, 0o640))
