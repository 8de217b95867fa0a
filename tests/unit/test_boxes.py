"""Which boxes an inventory names, and that none of its names can become an option, a command or a terminal's escape."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.core.boxes import Box, destination, inventory, worst
from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux import other_box

ANSIBLE = {
    "_meta": {"hostvars": {"a": {"ansible_host": "192.0.2.1", "ansible_user": "root"}, "b": {"ansible_port": 2222},
                           "d": {"ansible_host": "2001:db8::1", "ansible_port": 22}}},
    "all": {"children": ["ungrouped", "boxes"]},
    "boxes": {"hosts": ["a", "b"], "children": ["boxes", "far"]},
    "far": {"hosts": ["d", "a"]},
    "ungrouped": {"hosts": ["c"]},
}  # fmt: skip


def read(data: object, group: str | None = None) -> list[str]:
    return [box.to for box in inventory(json.dumps(data), source="here", group=group)]


@pytest.mark.parametrize(
    "text",
    ["box1", "root@box1", "box-1.example.net", "root@192.0.2.1", "2001:db8::1", "root@fe80::1%eth0",
     "ssh://root@box1:2222"],
)  # fmt: skip
def test_what_ssh_takes_for_a_box_is_one(text: str) -> None:
    assert destination(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=id", "root@-oProxyCommand=id", "-l@box", "box;id", "$(id)", "`id`", "box id", "a\nb",
     "a\x1b[2J", "ssh://root@box1:2222/-x", "ssh://-x@box1", "a@b@c", "x" * 300, "box1\n"],
)  # fmt: skip
def test_what_could_be_an_option_or_a_command_is_no_box(text: str) -> None:
    with pytest.raises(PortfleetError, match="no name of a box") as caught:
        other_box.command(text, ["true"])
    assert caught.value.code is Exit.USAGE and "\x1b" not in caught.value.message


def test_ssh_is_told_where_its_options_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTFLEET_SSH", raising=False)
    assert other_box.command("root@box1", ["portfleet", "status", "a b"])[-3:] == [
        "--", "root@box1", "portfleet status 'a b'",
    ]  # fmt: skip


def test_a_plain_file_has_one_box_a_line() -> None:
    assert inventory("# ours\nbox1\n\nroot@box2  # the new one\nbox1\n", source="f") == (
        Box("box1", "box1"),
        Box("root@box2", "root@box2"),
    )


def test_ansibles_inventory_is_read_with_its_groups_and_how_its_hosts_are_reached() -> None:
    assert read(ANSIBLE) == ["c", "root@192.0.2.1", "ssh://b:2222", "2001:db8::1"]
    assert read(ANSIBLE, "far") == ["2001:db8::1", "root@192.0.2.1"]
    assert inventory(json.dumps(ANSIBLE), source="f", group="far")[1].name == "a"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "names no box"),
        ({"all": {"hosts": ["-oProxyCommand=id"]}}, "no name of a box"),
        ({"all": {"hosts": ["a"]}, "_meta": {"hostvars": {"a": {"ansible_host": "{{ it }}"}}}}, "no name of a box"),
        ({"all": {"hosts": ["a"]}, "_meta": {"hostvars": {"a": {"ansible_user": "-x"}}}}, "no name of a box"),
        ({"all": {"hosts": ["a"]}, "_meta": {"hostvars": {"a": {"ansible_host": "::1", "ansible_port": 1}}}}, "a port"),
        ({"all": {"hosts": ["a"]}, "_meta": {"hostvars": []}}, "hostvars is no object"),
        ({"all": {"hosts": ["a"]}, "_meta": {"hostvars": {"a": 7}}}, "variables of a"),
        ({"all": {"hosts": [["a"]]}}, "group all"),
        ({"all": []}, "group all"),
    ],
)  # fmt: skip
def test_an_inventory_that_is_none_is_refused_by_name(data: Any, words: str) -> None:
    with pytest.raises(PortfleetError, match=words) as caught:
        read(data)
    assert "here" in caught.value.message and caught.value.code is Exit.USAGE


def test_a_group_that_there_is_not_is_refused() -> None:
    with pytest.raises(PortfleetError, match="no group web"):
        read(ANSIBLE, "web")
    with pytest.raises(PortfleetError, match="ansible-inventory"):
        inventory("box1", source="f", group="web")


@given(st.text() | st.text().map(lambda text: "{" + text) | st.recursive(
    st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
).map(lambda value: json.dumps({"all": value, "_meta": value})))  # fmt: skip
def test_whatever_an_inventory_holds_there_are_boxes_or_words(text: str) -> None:
    try:
        boxes = inventory(text, source="f")
    except PortfleetError as error:
        assert error.code is Exit.USAGE
    else:
        assert all(destination(box.to) and not box.to.startswith("-") for box in boxes)


def test_the_worst_is_what_cannot_be_told_then_what_is_not_served() -> None:
    order = [Exit.DONE, Exit.DEGRADED, Exit.UNWATCHED, Exit.UNSERVED, Exit.FAILED]
    for better, worse in itertools.combinations(order, 2):
        assert worst([better, worse]) is worst([worse, better]) is worse
    assert worst([]) is Exit.DONE
