"""Verbs on several boxes: what is asked of each and in which order, where it stops, and what is said then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from portfleet.__main__ import main
from portfleet.submit.elsewhere import told
from unit.test_box_status import said

#: Stands for ssh: a box is a directory with what it prints as its status, how the verb ends there, and a log.
FAR = r"""
box=$1; cd "$(dirname "$0")/$box" 2>/dev/null || { echo "ssh: cannot resolve $box" >&2; exit 255; }
echo "$2" >> log; echo "$box $2" >> ../log
case "$2" in
*" --dry-run "*) cat dry; exit "$(cat dry-code)" ;;
*" status "*) cat status; exit "$(cat code)" ;;
*) . ./act ;;
esac
"""


class Far:
    """Boxes behind a script that stands for ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "far").write_text(FAR.replace('" status "', "'portfleet status'"))

    def box(
        self, name: str, *, status: str | None = None, code: int = 0, act: str = "", dry: str = "", refuses: int = 0
    ) -> None:
        place = self.folder / name
        place.mkdir()
        (place / "status").write_text(said() if status is None else status)
        (place / "code").write_text(str(code))
        (place / "act").write_text(act or """echo '{"ok": true, "outcome": "green serves"}'""")
        (place / "dry").write_text(dry or '{"dry_run": true, "words": "cut over echo"}')
        (place / "dry-code").write_text(str(refuses))

    def did(self) -> list[str]:
        """Return which boxes were told to act, in their order."""
        lines = (self.folder / "log").read_text().splitlines() if (self.folder / "log").exists() else []
        return [line.split()[0] for line in lines if "status" not in line and "--dry-run" not in line]


@pytest.fixture
def far(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    monkeypatch.setenv("PORTFLEET_SSH", f"/bin/sh {directory / 'far'}")
    monkeypatch.setenv("PORTFLEET_HOME", str(directory / "home"))
    monkeypatch.setenv("PORTFLEET_WHO", "jo")
    return Far(directory)


def over(boxes: Sequence[str], *words: str) -> list[str]:
    return [*words, *(word for box in boxes for word in ("--box", box))]


def test_status_asks_all_and_exits_with_the_worst(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one")
    far.box("two", status=said(not_serving=["echo-blue-2"]), code=7)

    assert main(over(["one", "two"], "status")) == 7

    out = capsys.readouterr().out
    assert "one  echo     blue  v2           1/2           10  as it should be" in out
    assert "not serving: echo-blue-2" in out and "2 of 2 boxes answer" in out


def test_a_box_that_does_not_answer_is_shown_and_is_the_worst(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one", code=9)
    far.box("mad", status="\x1b[2J{")
    (far.folder / "list").write_text("one\ngone\nmad\n")

    assert main(["status", "--all", "--inventory", str(far.folder / "list"), "--json"]) == 1

    found = json.loads(capsys.readouterr().out)
    assert [(box["box"], box["answers"], box["code"]) for box in found["boxes"]] == [
        ("one", True, 9), ("gone", False, 1), ("mad", False, 1),
    ]  # fmt: skip
    assert found["boxes"][1]["trouble"] == "ssh: cannot resolve gone" and found["code"] == 1
    assert main(["status", "--all", "-q", "--inventory", str(far.folder / "list")]) == 1
    assert capsys.readouterr().out == ""


def test_a_box_that_is_silent_holds_up_no_other(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one")
    (far.folder / "slow").mkdir()
    (far.folder / "far").write_text("[ $1 != slow ] || exec sleep 60\n" + (far.folder / "far").read_text())

    assert main(over(["slow", "one"], "status", "--patience", "500ms")) == 1

    out = capsys.readouterr().out
    assert "no answer: it has not ended after 0.5 s" in out and "1 of 2 boxes answer; not: slow" in out


def test_boxes_go_one_after_the_other_with_the_words_of_the_command_line(
    far: Far, capsys: pytest.CaptureFixture[str]
) -> None:
    far.box("one")
    far.box("two", act="""echo '{"ok": true, "outcome": "already", "words": "v3 runs"}'""")

    assert main(over(["one", "two"], "--json", "cutover", "echo", "--release", "v3", "--why", "it is due")) == 0

    found = json.loads(capsys.readouterr().out)
    assert [(row["box"], row["what"], row["result"]) for row in found["boxes"]] == [
        ("one", "cutover echo", "done"), ("two", "cutover echo", "already"),
    ]  # fmt: skip
    assert found["ok"] and found["go_back"] == []
    last = (far.folder / "one/log").read_text().splitlines()[-1]
    assert last.startswith("env PORTFLEET_WHO=jo@")
    assert last.endswith("portfleet cutover echo --release v3 --why 'it is due' --json")
    assert far.did() == ["one", "two"]


def test_it_stops_at_the_first_failure_and_says_how_to_go_on_and_back(
    far: Far, capsys: pytest.CaptureFixture[str]
) -> None:
    far.box("one")
    far.box("two", act="echo 'portfleet: echo-green-1 is not ready\nhint: look' >&2; exit 4")
    far.box("three")

    assert main(over(["one", "two", "three"], "cutover", "echo")) == 4

    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert [(row[0], *row[3:4]) for row in rows[1:]] == [("one", "done"), ("two", "failed"), ("three", "not")]
    assert "stopped at two: echo-green-1 is not ready. Done before: one; not begun: 1" in err
    assert "to go on when that is put right: portfleet cutover echo --box one --box two --box three" in err
    assert "to go back: portfleet rollback echo --box one\n" in err
    assert far.did() == ["one", "two"]


def test_a_box_whose_answer_does_not_arrive_is_not_known(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one", act="exit 255")
    assert main(over(["one"], "rollback", "echo")) == 1
    out, err = capsys.readouterr()
    assert "unknown" in out and "What was begun there may go on" in err and "portfleet history" in err


BUSY = said(operation={"verb": "cutover"})
UNWATCHED = json.dumps(json.loads(said()) | {"watcher": {"trouble": "the watcher does not run"}})


@pytest.mark.parametrize(
    ("box", "code", "words"),
    [
        ({"status": BUSY}, 5, "two: cutover is at work on echo"),
        ({"status": UNWATCHED, "code": 8}, 1, "two: the watcher does not run"),
        ({"status": said(name="cache")}, 2, "two: there is no service echo"),
        ({"refuses": 2, "dry": "x"}, 2, "two: exit status 2 without a word"),
        ({"status": "x"}, 1, "two: no answer"),
        (None, 1, "two: no answer: ssh: cannot resolve two"),
    ],
)
def test_it_is_refused_before_the_first_step(
    far: Far, capsys: pytest.CaptureFixture[str], box: dict[str, object] | None, code: int, words: str
) -> None:
    far.box("one")
    if box is not None:
        far.box("two", **box)  # type: ignore[arg-type] # a case gives the arguments that it is about

    assert main(over(["one", "two"], "cutover", "echo")) == code

    assert "nothing was done" in (err := capsys.readouterr().err) and words in err
    assert far.did() == []


def test_a_dry_run_does_nothing(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one")
    assert main(over(["one"], "cutover", "echo", "--dry-run")) == 0
    assert "cut over echo" in capsys.readouterr().out and far.did() == []


def test_a_box_is_drained_service_by_service(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    two = json.loads(said())
    two["services"].append(two["services"][0] | {"name": "cache"})
    far.box(
        "one",
        status=json.dumps(two),
        act='case $2 in *cache*) exit 1;; *) echo \'{"ok": true, "outcome": "drained"}\'; esac',
    )

    assert main(over(["one"], "drain", "--force")) == 1

    out, err = capsys.readouterr()
    assert "drain echo" in out and "drain cache" in out
    assert "to go back: /bin/sh" in err and "portfleet undrain echo" in err


def test_what_makes_no_sense_over_boxes_is_refused(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    far.box("one")
    assert main(over(["one"], "cutover", "echo", "--no-wait")) == 2
    assert main(over(["one"], "status", "--watch")) == 2
    assert main(["drain", "--dry-run"]) == 2
    assert main(["status", "--all"]) == 2
    assert "ansible-inventory --list | portfleet status --all --inventory -" in capsys.readouterr().err
    assert far.did() == []


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--home", "/x", "cutover", "echo", "--all", "--json"], ["cutover", "echo"]),
        (["cutover", "--al", "echo", "--inven=f", "--applied"], ["cutover", "echo", "--applied"]),
        (["drain", "--box=a", "--box", "b", "echo", "--why", "a --box b"], ["drain", "echo", "--why", "a --box b"]),
        (["status", "--patience", "3s", "--group", "x", "echo"], ["status", "echo"]),
    ],
)
def test_what_is_for_this_box_is_not_told_others(words: list[str], left: list[str]) -> None:
    assert told(words) == left
