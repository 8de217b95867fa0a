"""Asking another box: whatever it prints, and whether it ends, there are words in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from portfleet.core.errors import PortfleetError
from portfleet.linux import other_box
from portfleet.submit import exported


@pytest.fixture
def far(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the script that stands for ssh and the box behind it; it gets the box and a command line."""
    script = directory / "far"
    script.write_text("")
    monkeypatch.setenv("PORTFLEET_SSH", f"/bin/sh {script}")
    return script


@pytest.mark.parametrize(
    ("does", "words"),
    [("yes", "more than"), ("yes >&2", "more than"), ("exec >&- 2>&-; exec sleep 60", "timed out"),
     ("exec sleep 60", "not ended"),
     ("while :; do echo; sleep 0.05; done", "not ended"), ("exit 7", "exit status 7"),
     (r"printf '\033[2Jno\n' >&2; exit 1", r"\?\[2Jno"),
     ("echo portfleet: 12 connections stay >&2; echo ssh: broken >&2; exit 255", "asked: ssh: broken")],
)  # fmt: skip
def test_a_box_that_does_not_answer_is_told_of(
    does: str, words: str, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_box, "MOST", 1 << 20)
    far.write_text(does)
    began = time.monotonic()
    with pytest.raises(PortfleetError, match=words) as caught:
        other_box.run("far", ["portfleet", "export"], seconds=0.5)
    assert time.monotonic() - began < 5 and "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "does", [r"printf '\377\376'", "head -c 100000 /dev/zero | tr '\\0' '['", "echo 7", r"printf '{\"\033\": 1}'"]
)
def test_what_a_box_prints_is_an_export_or_words(does: str, far: Path) -> None:
    far.write_text(does)
    with pytest.raises(PortfleetError, match="cannot read far"):
        exported.of_peer("far")


def test_bytes_that_are_no_text_are_read_all_the_same(far: Path) -> None:
    far.write_text(r"printf 'a\377b'")
    assert other_box.run("far", ["true"]) == "a\ufffdb"


def test_a_file_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_box, "MOST", 1 << 20)
    with pytest.raises(PortfleetError, match="more than 1,048,576 bytes"):
        exported.read("/dev/zero")


def test_an_error_that_quotes_what_does_not_print_does_so_fit_for_a_terminal(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from portfleet.__main__ import main

    assert main(["--home", str(directory), "import", "\x1b[2J"]) == 1
    assert "portfleet: cannot read ?[2J: No such file" in capsys.readouterr().err
