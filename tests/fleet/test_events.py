"""Events from outside: what happens is in the file and in the watcher's answers, once each, in one order."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.rights import needs_another_user
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, ask_watcher, signal, wait_event


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
            kinds = [event["kind"] for event in found if event["instance"] == "echo-blue-2"]
            # Before it there may be one of its first start, which the watcher may tell of after `up` has ended.
            return found if "ejected" in kinds and "serving" in kinds[kinds.index("ejected") :] else []

        events = wait_for("the watcher tells of the return", told)
        assert [event["number"] for event in events] == list(range(before + 1, before + 1 + len(events)))
        ejected = next(event for event in events if event["kind"] == "ejected")
        assert (ejected["service"], ejected["instance"]) == ("echo", "echo-blue-2") and "ended" in ejected["reason"]
        assert events == in_file(box)[-len(events) :]
        box.settled()


def test_what_operators_do_is_told_with_their_names_to_those_who_follow() -> None:
    with fleet_box(NAMED + QUICK) as box:
        following = box.boxes.host.popen(*box.argv("events", "-f", "--json", "-n", "1"))
        assert following.stdout is not None
        following.stdout.readline()  # from here on it misses nothing
        box.portfleet("pin", "echo", "198.18.0.7", "1")
        box.portfleet("deny", "echo", "198.18.0.9", "--why", "scans us")
        box.portfleet("undeny", "echo", "198.18.0.9")
        box.portfleet("drain", "echo/echo-blue-2", env={"PORTFLEET_WHO": "ann"})
        box.write(NAMED.replace("instances = 4", "instances = 3") + QUICK)
        box.portfleet("apply", "--yes")
        box.portfleet("down", "echo", "--yes")
        events: list[dict[str, Any]] = []
        while not events or events[-1]["kind"] != "down":
            events.append(json.loads(following.stdout.readline()))
        following.terminate()
        following.wait(timeout=10)
        kinds = in_order([event["kind"] for event in events])
        assert kinds == [
            "pinned", "denied", "undenied", "operation-begun", "operation-ended", "apply-begun", "applied",
            "down-begun", "down",
        ]  # fmt: skip
        assert {event["operator"] for event in events if event["kind"] in ("pinned", "down")} == {box.operator}
        ended = next(event for event in events if event["kind"] == "operation-ended")
        assert (ended["verb"], ended["service"], ended["operator"]) == ("drain", "echo", "ann@host")
        asked = [event["wanted"] for event in events if event["kind"] == "desired-state"]
        assert asked[0] == "drained" and {event["instance"] for event in events if "wanted" in event} >= {"echo-blue-2"}
        kinds_of_all = {event["kind"] for event in in_file(box)}
        assert "started" in kinds_of_all and "watching" not in kinds_of_all, "what is for the log alone is no event"
        numbers = [event["number"] for event in in_file(box)]
        assert numbers == list(range(1, len(numbers) + 1))


def in_order(kinds: list[str]) -> list[str]:
    """Return what operators did, in order."""
    told = ("pinned", "denied", "undenied", "operation-begun", "operation-ended", "apply-begun", "applied")
    return [kind for kind in kinds if kind in (*told, "apply-failed", "down-begun", "down")]


@pytest.mark.long
@needs_another_user
def test_a_command_that_hangs_and_floods_is_not_in_the_way_of_an_ejection() -> None:
    with fleet_box() as box:
        script = f"#!/bin/sh\ncat >> {HOME}/told/got\nexec yes >&2\n"
        made = f"mkdir -p {HOME}/told && chmod 777 {HOME}/told && cat > {HOME}/told/hang && chmod 755 {HOME}/told/hang"
        box.write("")
        box.boxes.host.run("sh", "-c", made, text=script)
        box.write(f'[fleet]\non_event = ["{HOME}/told/hang"]\n' + NAMED + QUICK)
        box.portfleet("up")
        got = box.boxes.host.path(f"{HOME}/told/got")
        wait_for("the command has begun to hang", got.exists)
        flood(box, 3000)
        for number in (1, 2, 3):
            signal(box, box.status()[f"echo-blue-{number}"]["pid"], "KILL")
            after = wait_event(box, "ejected", instance=f"echo-blue-{number}")
            wait_event(box, "serving", instance=f"echo-blue-{number}", after=after)
        wait_event(box, "event-command-failed", seconds=40)
        first = {event["kind"]: event["number"] for event in reversed(in_file(box))}
        # The first command was killed after ten seconds, and a death had been dealt with before that.
        assert first["ejected"] < first["event-command-failed"] and got.stat().st_uid == 65534
        box.settled()


def flood(box: FleetBox, count: int) -> None:
    """Write many events at once, as another process does."""
    script = (
        "import sys; from pathlib import Path; from portfleet.store.events import EventFile\n"
        "from portfleet.core.events import make\n"
        "EventFile(Path(sys.argv[1])).exchange([make('blind', 'now', {'reason': 'a flood'})] * int(sys.argv[2]))"
    )
    box.boxes.host.run(sys.executable, "-c", script, f"{HOME}/lib/events.jsonl", str(count))
