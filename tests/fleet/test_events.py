"""Events from outside: what happens is in the file and in the watcher's answers, once each, in one order."""

from __future__ import annotations

import json
from typing import Any

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, ask_watcher, signal


def in_file(box: FleetBox) -> list[dict[str, Any]]:
    """Return the events that are kept."""
    text = box.boxes.host.path(f"{HOME}/lib/events.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_death_is_told_by_file_and_socket_with_the_same_numbers() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = ask_watcher(box, command="events")["last"]
        signal(box, box.status()["echo-blue-2"]["pid"], "KILL")

        def told() -> list[dict[str, Any]]:
            found = ask_watcher(box, command="events", since=before)["events"]
            return found if any(event["kind"] == "serving" for event in found) else []

        events = wait_for("the watcher tells of the return", told)
        assert [event["number"] for event in events] == list(range(before + 1, before + 1 + len(events)))
        ejected = next(event for event in events if event["kind"] == "ejected")
        assert (ejected["service"], ejected["instance"]) == ("echo", "echo-blue-2") and "ended" in ejected["reason"]
        assert events == in_file(box)[-len(events) :]
        box.settled()
