"""What another box says of its fleet is a claim: checked values, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.core.errors import Exit
from portfleet.daemons.box_status import exit_of, read_end, read_status

SERVICE: dict[str, Any] = {
    "name": "echo", "live": "blue", "release": "v2", "served": True, "not_serving": [], "closed": [], "operation": None,
    "down": None,
    "instances": [
        {"wanted": "serving", "state": "ready", "connections": 7},
        {"wanted": "serving", "state": "failed", "connections": 0},
        {"wanted": "drained", "state": "draining", "connections": 3},
    ],
}  # fmt: skip


def said(**changed: Any) -> str:
    fine = {"trouble": None}
    return json.dumps({"watcher": fine, "supervisord": fine, "services": [SERVICE | changed]})


def test_a_status_is_read() -> None:
    found = read_status(7, said(not_serving=["echo-blue-2"], operation={"verb": "cutover"}))
    assert found is not None and found.code is Exit.DEGRADED
    (echo,) = found.services
    assert (echo.serving, echo.wanted, echo.connections, echo.busy) == (1, 2, 10, "cutover")
    assert echo.trouble == "not serving: echo-blue-2"


@pytest.mark.parametrize(
    "changed",
    [{"name": "-x"}, {"name": 7}, {"release": 7}, {"instances": [7]}, {"operation": "x"}, {"not_serving": [7]},
     {"instances": [{"wanted": "serving", "state": "ready", "connections": -1}]},
     {"instances": [{"wanted": "serving", "state": "ready", "connections": 1 << 60}]},
     {"instances": [{"wanted": "serving", "state": "ready", "connections": True}]}],
)  # fmt: skip
def test_what_is_no_status_is_none(changed: dict[str, Any]) -> None:
    assert read_status(0, said(**changed)) is None


def test_what_is_shown_of_a_status_prints() -> None:
    found = read_status(0, said(release="\x1b[2J", not_serving=["\x1b]0;x\x07"]))
    assert found is not None
    assert found.services[0].release == "?[2J" and "\x1b" not in found.services[0].trouble


@given(st.integers(), st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.sampled_from([*SERVICE, "services", "watcher", "trouble"]), one),
).map(json.dumps), st.text())  # fmt: skip
def test_whatever_a_box_says_is_read_without_an_error(code: int, out: str, errors: str) -> None:
    read_status(code, out)
    end = read_end(code, out, errors)
    assert end.words.isprintable() or (end.words == "" and end.code in list(Exit))
    assert end.code or code == 0


@pytest.mark.parametrize(
    ("code", "out", "errors", "end"),
    [
        (0, '{"ok": true, "outcome": "blue serves"}', "", (Exit.DONE, False, "blue serves")),
        (0, '{"ok": true, "outcome": "already", "words": "it does"}', "", (Exit.DONE, True, "it does")),
        (0, '{"dry_run": true, "words": "cut over"}', "", (Exit.DONE, False, "cut over")),
        (5, "", "portfleet: a note\nportfleet: locked\nhint: wait", (Exit.LOCKED, False, "locked")),
        (1, '{"ok": false, "outcome": "not ready"}', "portfleet: a note", (Exit.FAILED, False, "not ready")),
        (0, "hello", "", (Exit.FAILED, False, "exit status 0 without a word")),
        (127, "", "sh: portfleet: not found", (Exit.FAILED, False, "sh: portfleet: not found")),
        (137, "", "portfleet: a note", (Exit.FAILED, False, "exit status 137 without a word")),
        (137, "", "portfleet: a note\nKilled", (Exit.FAILED, False, "Killed")),
    ],
)
def test_how_a_verb_has_ended_is_read(code: int, out: str, errors: str, end: tuple[Exit, bool, str]) -> None:
    found = read_end(code, out, errors)
    assert (found.code, found.already, found.words) == end


def test_an_exit_status_that_is_none_of_ours_is_a_failure() -> None:
    assert exit_of(9) is Exit.UNSERVED and exit_of(127) is exit_of(-9) is Exit.FAILED
